"""Two charts as inline SVG: intervals of one metric, and the radar. No library, no script."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from s2v.datapipe.base.markup import Markup, element, join, joined

SERIES = 6
"""Colours and dashes that the style sheet tells apart."""

_WIDTH, _LEFT, _RIGHT, _ROW = 420, 132, 14, 24
_RADIUS, _SIZE = 120, 430


@dataclass(frozen=True)
class Whisker:
    """One method's figure in an interval chart.

    Attributes:
        label: method.
        mean: or None when nothing was scored.
        low: end of the interval, or None where it is unknown.
        high: likewise.
        chance: its chance level, or None.
        series: number of its colour.
    """

    label: str
    mean: float | None
    low: float | None
    high: float | None
    chance: float | None
    series: int


def whiskers(title: str, unit: str, entries: Sequence[Whisker]) -> Markup:
    """Means as dots, 95 % intervals as lines, chance levels as ticks.

    Args:
        title: metric.
        unit: of its axis.
        entries: at least one with a mean.

    Raises:
        ValueError: no entry has a mean.
    """
    values = [
        v for e in entries for v in (e.mean, e.low, e.high, e.chance) if v is not None
    ]  # fmt: skip
    if not values:
        raise ValueError(f"chart {title!r}: no method has a figure")
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    low, high = low - room, high + room
    floor = 8 + _ROW * len(entries)

    def at(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    ticks = [
        join(
            element("line", x1=_px(at(t)), x2=_px(at(t)), y1=4, y2=floor, class_="grid"),
            element("text", f"{t:g}", x=_px(at(t)), y=floor + 14, text_anchor="middle"),
        )
        for t in _ticks(low, high)
    ]
    marks = [_whisker(e, at, 8 + _ROW * n + _ROW / 2) for n, e in enumerate(entries)]
    said = "; ".join(
        f"{e.label} {'not scored' if e.mean is None else f'{e.mean:.4g}'}" for e in entries
    )
    return _svg(
        title,
        f"{unit}. {said}",
        _WIDTH,
        floor + 34,
        join(*ticks, *marks, element("text", unit, x=_WIDTH - _RIGHT, y=floor + 29,
                                     text_anchor="end", class_="unit")),
    )  # fmt: skip


def _whisker(entry: Whisker, at: Callable[[float], float], y: float) -> Markup:
    label = element(
        "text", _short(entry.label), x=_LEFT - 8, y=_px(y + 4), text_anchor="end", class_="name"
    )
    if entry.mean is None:
        return join(label, element("text", "not scored", x=_LEFT + 4, y=_px(y + 4)))
    parts = [label]
    if entry.chance is not None:
        x = _px(at(entry.chance))
        parts.append(element("line", x1=x, x2=x, y1=_px(y - 8), y2=_px(y + 8), class_="chance"))
    if entry.low is not None and entry.high is not None:
        parts.append(
            element("line", x1=_px(at(entry.low)), x2=_px(at(entry.high)), y1=_px(y), y2=_px(y),
                    class_=f"interval s{entry.series % SERIES}")
        )  # fmt: skip
    parts.append(
        element("circle", cx=_px(at(entry.mean)), cy=_px(y), r="4.5",
                class_=f"dot s{entry.series % SERIES}")
    )  # fmt: skip
    return join(*parts)


def _short(label: str, width: int = 18) -> str:
    """Both ends of a label: names of runs often begin alike and differ in their steps or seeds."""
    if len(label) <= width:
        return label
    tail = width // 2
    return f"{label[: width - tail - 1].rstrip()}…{label[-tail:].lstrip()}"


@dataclass(frozen=True)
class Spoke:
    """An axis of the radar.

    Attributes:
        label: metric.
        low: value at the centre.
        high: value at the rim; below ``low`` where less is better.
    """

    label: str
    low: float
    high: float

    def share(self, value: float) -> float:
        """How far out a value lies, 0 to 1; what lies beyond an end is drawn on it."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def radar(
    title: str, spokes: Sequence[Spoke], polygons: Sequence[tuple[str, Sequence[float | None], int]]
) -> Markup:
    """A radar: further out is better on every spoke, and each spoke says its range.

    Args:
        title: what is drawn.
        spokes: three at least.
        polygons: ``(method, values, series)``; a missing value leaves a gap in the outline.

    Raises:
        ValueError: fewer than three spokes, a spoke without a range, or values of another number.
    """
    if len(spokes) < 3:
        raise ValueError(f"radar {title!r}: {len(spokes)} spokes; three at least")
    flat = [s.label for s in spokes if s.low == s.high]
    if flat or any(len(values) != len(spokes) for _, values, _ in polygons):
        raise ValueError(f"radar {title!r}: no range for {flat}, or values of another number")
    centre = _SIZE / 2

    def at(n: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * n / len(spokes) - math.pi / 2
        return (
            centre + share * _RADIUS * math.cos(angle),
            centre + share * _RADIUS * math.sin(angle),
        )

    rings = [
        element("polygon", points=_points([at(n, ring) for n in range(len(spokes))]),
                class_="grid")
        for ring in (0.25, 0.5, 0.75, 1.0)
    ]  # fmt: skip
    arms = [_arm(spoke, n, len(spokes), at(n, 1.0), at(n, 1.12)) for n, spoke in enumerate(spokes)]
    drawn = [
        _outline([None if v is None else at(n, s.share(v))
                  for n, (v, s) in enumerate(zip(values, spokes, strict=True))], series)
        for _, values, series in polygons
    ]  # fmt: skip
    said = "; ".join(
        f"{method}: "
        + ", ".join(
            f"{s.label} {'missing' if v is None else f'{v:.3g}'}"
            for s, v in zip(spokes, values, strict=True)
        )
        for method, values, _ in polygons
    )
    return _svg(title, said, _SIZE, _SIZE, join(*rings, *arms, *drawn))


def _arm(
    spoke: Spoke, n: int, count: int, rim: tuple[float, float], label: tuple[float, float]
) -> Markup:
    centre = _px(_SIZE / 2)
    side = math.cos(2 * math.pi * n / count - math.pi / 2)
    anchor = "middle" if abs(side) < 0.3 else ("start" if side > 0 else "end")
    words = _broken(spoke.label)
    lines = [*words, f"{spoke.low:g} to {spoke.high:g}"]
    top = label[1] + (4 - 6 * (len(lines) - 1))
    if n == 0:
        top = label[1] - 13 * (len(lines) - 1)
    return join(
        element("line", x1=centre, y1=centre, x2=_px(rim[0]), y2=_px(rim[1]), class_="grid"),
        *(
            element(
                "text",
                line,
                x=_px(label[0]),
                y=_px(top + 13 * i),
                text_anchor=anchor,
                class_="unit" if i == len(lines) - 1 else "name",
            )
            for i, line in enumerate(lines)
        ),
    )


def _broken(label: str, width: int = 18) -> list[str]:
    """A label on lines of at most so many letters, at most three."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines if len(lines) <= 3 else [*lines[:2], lines[2] + " …"]


def _outline(points: Sequence[tuple[float, float] | None], series: int) -> Markup:
    there = [p for p in points if p is not None]
    style = f"s{series % SERIES}"
    dots = joined(
        element("circle", cx=_px(x), cy=_px(y), r="3", class_=f"dot {style}") for x, y in there
    )
    if len(there) == len(points):
        return join(element("polygon", points=_points(there), class_=f"outline {style}"), dots)
    edges = [
        element("line", x1=_px(a[0]), y1=_px(a[1]), x2=_px(b[0]), y2=_px(b[1]),
                class_=f"outline {style}")
        for a, b in zip(points, [*points[1:], points[0]], strict=True)
        if a is not None and b is not None
    ]  # fmt: skip
    return join(*edges, dots)


def legend(labels: Sequence[str]) -> Markup:
    """What colours and dashes stand for."""
    items = (
        element(
            "li",
            element(
                "svg",
                element("line", x1=0, x2=30, y1=6, y2=6, class_=f"interval s{n % SERIES}"),
                viewBox="0 0 30 12",
                aria_hidden="true",
                class_="key",
            ),
            " ",
            label,
        )
        for n, label in enumerate(labels)
    )
    return element("ul", joined(items), class_="legend")


def _svg(title: str, description: str, width: float, height: float, inside: Markup) -> Markup:
    key = "c" + hashlib.sha256(f"{title}\0{description}".encode()).hexdigest()[:10]
    return element(
        "svg",
        element("title", title, id=key),
        element("desc", description, id=f"{key}d"),
        inside,
        viewBox=f"0 0 {_px(width)} {_px(height)}",
        role="img",
        aria_labelledby=f"{key} {key}d",
        class_="chart",
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_px(x)},{_px(y)}" for x, y in points)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(s for s in (1, 2, 2.5, 5, 10) if s * step * 4 >= (high - low) * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round((first + n) * step, 10) for n in range(math.floor(high / step + 1e-9) - first + 1)
    ]


def _px(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
