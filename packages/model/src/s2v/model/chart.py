"""Charts as SVG files that stand alone: lines over steps, points with intervals.

No library; every string is escaped. Text and axes take the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_COLOURS: Final = ("#1965b0", "#dc050c", "#4eb265", "#882e72", "#f1932d", "#777777")
_DASHES: Final = ("", "6 3", "2 3", "9 3 2 3")
_WIDTH: Final = 720
_HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 34, 48
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#222}line,path{fill:none}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.axis,.grid{stroke:#999}}"
)


@dataclass(frozen=True)
class Line:
    """A named line; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A named point with an interval on each axis, ``(low, high)`` or None."""

    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


class _Frame:
    def __init__(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        self.x_low, self.x_high = _span(xs)
        self.y_low, self.y_high = _span(ys)

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def svg(self, title: str, x_label: str, y_label: str, body: Sequence[str]) -> str:
        right, low = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(title)}</text>',
        ]
        for value in _ticks(self.x_low, self.x_high):
            at = self.x(value)
            parts.append(_rule(at, _TOP, at, low, "grid", "#ddd"))
            parts.append(_text(at, low + 16, _number(value), "middle"))
        for value in _ticks(self.y_low, self.y_high):
            at = self.y(value)
            parts.append(_rule(_LEFT, at, right, at, "grid", "#ddd"))
            parts.append(_text(_LEFT - 6, at + 4, _number(value), "end"))
        parts += [
            _rule(_LEFT, low, right, low, "axis", "#444"),
            _rule(_LEFT, _TOP, _LEFT, low, "axis", "#444"),
            _text((_LEFT + right) / 2, _HEIGHT - 10, x_label, "middle"),
            f'<text x="14" y="{(_TOP + low) / 2:.0f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {(_TOP + low) / 2:.0f})">{escape(y_label)}</text>',
        ]
        return "\n".join([*parts, *body, "</svg>", ""])


def lines(title: str, series: Sequence[Line], x_label: str, y_label: str) -> str:
    """Lines over one pair of axes, told apart by colour and dash.

    Raises:
        ValueError: no line has a finite point.
    """
    drawn = [_finite(one) for one in series]
    every = [point for points in drawn for point in points]
    if not every:
        raise ValueError(f"chart {title!r}: no line has a finite point")
    frame = _Frame((x for x, _ in every), (y for _, y in every))
    body = []
    for n, (one, points) in enumerate(zip(series, drawn, strict=True)):
        colour, dash = _COLOURS[n % len(_COLOURS)], _DASHES[n % len(_DASHES)]
        path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
        style = f'stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"'
        if points:
            body.append(f'<path d="{path}" {style}/>')
        y = _TOP + 10 + 18 * n
        x = _WIDTH - _RIGHT + 12
        body.append(f'<line x1="{x}" x2="{x + 24}" y1="{y}" y2="{y}" {style}/>')
        body.append(_text(x + 30, y + 4, one.name, "start"))
    return frame.svg(title, x_label, y_label, body)


def points(title: str, found: Sequence[Point], x_label: str, y_label: str) -> str:
    """Points with crosses of their intervals, each with its name beside it.

    Raises:
        ValueError: no points.
    """
    if not found:
        raise ValueError(f"chart {title!r}: no points")
    xs = [x for p in found for x in (p.x, *(p.x_interval or ()))]
    ys = [y for p in found for y in (p.y, *(p.y_interval or ()))]
    frame = _Frame(xs, ys)
    body = []
    for n, p in enumerate(found):
        colour = _COLOURS[n % len(_COLOURS)]
        x, y = frame.x(p.x), frame.y(p.y)
        if p.x_interval:
            low, high = (frame.x(v) for v in p.x_interval)
            body.append(_rule(low, y, high, y, "interval", colour))
        if p.y_interval:
            low, high = (frame.y(v) for v in p.y_interval)
            body.append(_rule(x, low, x, high, "interval", colour))
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>')
        at = _TOP + 10 + 18 * n
        body.append(f'<circle cx="{_WIDTH - _RIGHT + 18}" cy="{at}" r="4.5" fill="{colour}"/>')
        body.append(_text(_WIDTH - _RIGHT + 30, at + 4, p.name, "start"))
    return frame.svg(title, x_label, y_label, body)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Running mean over the last ``window`` values."""
    return [
        sum(part) / len(part)
        for part in (values[max(0, n - window + 1) : n + 1] for n in range(len(values)))
    ]


def _finite(line: Line) -> list[tuple[float, float]]:
    pairs = zip(line.x, line.y, strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    room = (high - low or abs(high) or 1.0) * 0.05
    return low - room, high + room


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str, colour: str) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}"/>'
    )


def _text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'
