"""Charts as inline SVG: no library, no script, colours and patterns in the page's style sheet.

Every chart has a title and a description that says in words what it shows; the figures stand
beside it in a table. Marks differ by pattern or dash as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.markup import Markup, element, join, joined
from s2v.datapipe.report.axes import Axes, nice, pixels, rect
from s2v.datapipe.report.wording import short

_BAND: Final = 48  # above a histogram, for the names of two thresholds
_DASHES: Final = (None, "7 4", "2 3", "10 3 2 3", "1 4", "14 4")
SERIES_COLOURS: Final = len(_DASHES)


@dataclass(frozen=True)
class Bins:
    """A histogram of two groups over the same edges.

    Attributes:
        edges: ``n + 1`` values; the last bin also holds what lies beyond it.
        kept, dropped: counts, ``n`` each.
        beyond: how many lie above the last edge.
    """

    edges: list[float]
    kept: list[int]
    dropped: list[int]
    beyond: int = 0


def histogram_bins(
    kept: Sequence[float],
    dropped: Sequence[float],
    bounds: Iterable[float] = (),
    bins: int = 32,
) -> Bins | None:
    """Bin two groups so that the bulk and all thresholds are in sight.

    The axis ends where 99.5 % of the values do, or behind the last threshold; what lies
    beyond is counted in the last bin.

    Returns:
        ``None`` without values.
    """
    values = sorted([*kept, *dropped])
    if not values:
        return None
    marks = list(bounds)
    low = min([values[0], *marks])
    high = max([values[min(len(values) - 1, math.ceil(0.995 * len(values)))], *marks])
    if any(mark >= high for mark in marks):
        high += (high - low) * 0.05
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):  # scores are rounded to six digits
        low, high = low - 0.5, high + 0.5
    step = nice((high - low) / bins)
    first = math.floor(low / step + 1e-9)
    count = max(1, math.ceil(high / step - 1e-9) - first)
    edges = [round((first + n) * step, 10) for n in range(count + 1)]
    return Bins(
        edges=edges,
        kept=_count(kept, first, step, count),
        dropped=_count(dropped, first, step, count),
        beyond=sum(value > edges[-1] for value in values),
    )


def _count(values: Iterable[float], first: int, step: float, bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, math.floor(value / step + 1e-9) - first))] += 1
    return counts


def histogram(
    title: str, description: str, bins: Bins, bounds: Sequence[tuple[str, float]], unit: str
) -> Markup:
    """Stacked columns: kept below in full colour, dropped above, hatched; thresholds as lines."""
    axes = Axes(340, 214, (bins.edges[0], bins.edges[-1]), (0, _top(bins)), top=_BAND)
    width = axes.x(bins.edges[1]) - axes.x(bins.edges[0])
    columns = []
    for n, (kept, dropped) in enumerate(zip(bins.kept, bins.dropped, strict=True)):
        x, inner = axes.x(bins.edges[n]) + 0.5, max(0.5, width - 1)
        if kept:
            columns.append(rect(x, axes.y(kept), inner, axes.y(0) - axes.y(kept), "kept"))
        if dropped:
            top = axes.y(kept + dropped)
            columns.append(rect(x, top, inner, axes.y(kept) - top, "dropped"))
    marks = [_threshold(axes, label, value, n) for n, (label, value) in enumerate(bounds)]
    return axes.svg(title, description, join(*columns, *marks), unit, "count")


def _top(bins: Bins) -> float:
    return max(1, *(a + b for a, b in zip(bins.kept, bins.dropped, strict=True))) * 1.08


def _threshold(axes: Axes, label: str, value: float, n: int) -> Markup:
    x = axes.x(value)
    at_end = x > axes.width - 90
    return join(
        element(
            "line",
            x1=pixels(x),
            x2=pixels(x),
            y1=18 + 14 * (n % 2),
            y2=pixels(axes.y(0)),
            class_="threshold",
        ),
        element(
            "text",
            f"{label} {short(value)}",
            x=pixels(x - 3 if at_end else x + 3),
            y=26 + 14 * (n % 2),
            class_="threshold-label",
            text_anchor="end" if at_end else "start",
        ),
    )


@dataclass(frozen=True)
class Series:
    """A named line: ``x`` and ``y`` of equal length; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            ValueError: they differ.
        """
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r}: {len(self.x)} x values, {len(self.y)} y")

    def points(self, *, positive: bool = False) -> list[tuple[float, float]]:
        """Finite points in order; ``positive`` leaves out y <= 0, for a logarithmic axis."""
        return [
            (float(x), float(y))
            for x, y in zip(self.x, self.y, strict=True)
            if math.isfinite(x) and math.isfinite(y) and (y > 0 or not positive)
        ]


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    log_y: bool = False,
) -> Markup:
    """Lines over one pair of axes, told apart by colour and dash.

    Raises:
        ValueError: no series has a point that can be drawn.
    """
    drawn = [one.points(positive=log_y) for one in series]
    every = [point for points in drawn for point in points]
    if not every:
        raise ValueError(f"chart {title!r}: no series has a finite point")
    xs, ys = zip(*every, strict=True)
    low, high = min(ys), max(ys)
    if log_y:
        span = (10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) + 1e-9))
    else:
        room = (high - low or abs(high) or 1) * 0.06
        span = (0.0 if 0 <= low < 0.35 * high else low - room, high + room)
    axes = Axes(640, 280, (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1), span, log_y)
    lines = [_line(axes, points, n) for n, points in enumerate(drawn) if points]
    return axes.svg(title, description, joined(lines), x_label, y_label)


def legend(names: Sequence[str]) -> Markup:
    """What the lines of a chart stand for."""
    keys = [
        element(
            "li",
            element(
                "svg",
                element("line", x1="0", x2="28", y1="6", y2="6", **_style(n)),
                width="28",
                height="12",
                aria_hidden="true",
            ),
            " ",
            name,
        )
        for n, name in enumerate(names)
    ]
    return element("ul", *keys, class_="legend")


def _line(axes: Axes, points: Sequence[tuple[float, float]], n: int) -> Markup:
    if len(points) == 1:
        (x, y), style = points[0], _style(n)
        return element(
            "circle", cx=pixels(axes.x(x)), cy=pixels(axes.y(y)), r="3", class_=style["class_"]
        )
    path = "M" + "L".join(f"{pixels(axes.x(x))} {pixels(axes.y(y))}" for x, y in _thinned(points))
    return element("path", d=path, fill="none", **_style(n))


def _thinned(points: Sequence[tuple[float, float]], most: int = 800) -> list[tuple[float, float]]:
    """At most about ``most`` points: lowest and highest of every stretch, so no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    height = [y for _, y in points].__getitem__
    kept: list[tuple[float, float]] = []
    for at in range(0, len(points), stretch):
        part = range(at, min(at + stretch, len(points)))
        kept += [points[i] for i in sorted({min(part, key=height), max(part, key=height)})]
    return kept


def _style(n: int) -> dict[str, str | None]:
    return {"class_": f"series s{n % SERIES_COLOURS}", "stroke_dasharray": _DASHES[n % 6]}
