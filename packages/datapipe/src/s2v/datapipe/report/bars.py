"""Bars and gauges: shares of a whole, and a value beside its bounds, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from s2v.datapipe.base.markup import Markup, element
from s2v.datapipe.report.axes import pixels, rect

_BAR: Final = 260


def bar(parts: Sequence[tuple[str, float]], whole: float, label: str) -> Markup:
    """A horizontal bar of classes that follow one another, as shares of a whole."""
    at, pieces = 0.0, [rect(0, 0, _BAR, 18, "empty")]
    for name, value in parts:
        width = _BAR * value / whole if whole > 0 else 0.0
        if value > 0:
            pieces.append(rect(at, 0, max(1.0, width), 18, name))
        at += width
    return element(
        "svg",
        element("title", label),
        *pieces,
        viewBox=f"0 0 {_BAR} 18",
        role="img",
        aria_label=label,
        class_="bar",
    )


def patterns() -> Markup:
    """The hatch of dropped and the dots of quarantined; once per page."""
    hatch = element(
        "pattern",
        element("rect", width="6", height="6", class_="hatch-ground"),
        element("path", d="M-1 7L7 -1M-1 1L1 -1M5 7L7 5", class_="hatch-line"),
        id="hatch",
        width="6",
        height="6",
        patternUnits="userSpaceOnUse",
    )
    return element(
        "svg", element("defs", hatch), width="0", height="0", aria_hidden="true", class_="defs"
    )


def gauge(
    value: float, lower: float | None, upper: float | None, span: tuple[float, float]
) -> Markup:
    """A mark on a track with the admitted range in colour; the words stand beside it."""
    low, high = span

    def at(point: float) -> float:
        return 100 * min(1.0, max(0.0, (point - low) / (high - low)))

    first = 0.0 if lower is None else at(lower)
    last = 100.0 if upper is None else at(upper)
    inside = (lower is None or value >= lower) and (upper is None or value < upper)
    mark = element(
        "rect", x=pixels(at(value) - 1), y="0", width="2", height="10",
        class_="mark" if inside else "mark out",
    )  # fmt: skip
    return element(
        "svg",
        rect(0, 3.5, 100, 3, "track"),
        rect(first, 2, max(0.0, last - first), 6, "range"),
        mark,
        viewBox="-1 0 102 10",
        aria_hidden="true",
        class_="gauge",
    )
