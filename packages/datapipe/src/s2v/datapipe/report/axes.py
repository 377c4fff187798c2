"""Two axes with ticks and grid, as inline SVG: from data to pixels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.markup import Markup, element, join
from s2v.datapipe.report.wording import short

LEFT, RIGHT, BOTTOM = 46, 12, 34
_STEPS: Final = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Axes:
    """A chart's frame.

    Attributes:
        width, height: units of the view box.
        across, up: ranges of the data; both ends differ, and are above 0 where ``log``.
        log: logarithmic upwards.
        top: room above the plot.
    """

    width: int
    height: int
    across: tuple[float, float]
    up: tuple[float, float]
    log: bool = False
    top: int = 26

    def x(self, value: float) -> float:
        """Place of a value from the left."""
        low, high = self.across
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place of a value from the top."""
        low, high = self.up
        if self.log:
            value, low, high = (math.log10(v) for v in (value, low, high))
        share = (value - low) / (high - low)
        return self.height - BOTTOM - share * (self.height - self.top - BOTTOM)

    def svg(self, title: str, description: str, inside: Markup, below: str, left: str) -> Markup:
        """The chart around what is drawn ``inside``; ``below`` and ``left`` name the axes."""
        key = "c" + hashlib.sha256(f"{title}\0{description}".encode()).hexdigest()[:10]
        floor = self.height - BOTTOM
        across = [
            join(
                element(
                    "line",
                    x1=pixels(self.x(t)),
                    x2=pixels(self.x(t)),
                    y1=floor,
                    y2=floor + 4,
                    class_="axis",
                ),
                element("text", short(t), x=pixels(self.x(t)), y=floor + 16, text_anchor="middle"),
            )
            for t in ticks(*self.across, 6)
        ]
        grid = [
            join(
                element(
                    "line",
                    x1=LEFT,
                    x2=self.width - RIGHT,
                    y1=pixels(self.y(t)),
                    y2=pixels(self.y(t)),
                    class_="grid",
                ),
                element("text", short(t), x=LEFT - 6, y=pixels(self.y(t) + 4), text_anchor="end"),
            )
            for t in (_decades(*self.up) if self.log else ticks(*self.up, 5))
        ]
        frame = element("line", x1=LEFT, x2=self.width - RIGHT, y1=floor, y2=floor, class_="axis")
        middle = (LEFT + self.width - RIGHT) / 2
        labels = join(
            element("text", below, x=pixels(middle), y=self.height - 4, text_anchor="middle"),
            element("text", left, x=4, y=12, class_="unit"),
        )
        return element(
            "svg",
            element("title", title, id=key),
            element("desc", description, id=f"{key}d"),
            *grid,
            *across,
            inside,
            frame,
            labels,
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_labelledby=f"{key} {key}d",
            class_="chart",
        )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values inside ``[low, high]``."""
    step = nice((high - low) / about)
    first = math.ceil(low / step - 1e-9)
    return [
        round((first + n) * step, 10) for n in range(math.floor(high / step + 1e-9) - first + 1)
    ]


def _decades(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    return [10.0**n for n in range(first, last + 1, max(1, (last - first) // 6))]


def nice(step: float) -> float:
    """The next step of 1, 2, 2.5 or 5 times a power of ten, not below ``step``."""
    base = 10 ** math.floor(math.log10(step))
    return float(base * next(s for s in _STEPS if s * base >= step * (1 - 1e-9)))


def rect(x: float, y: float, width: float, height: float, name: str) -> Markup:
    """A rectangle of a class of the style sheet."""
    return element(
        "rect", x=pixels(x), y=pixels(y), width=pixels(width), height=pixels(height), class_=name
    )


def pixels(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
