"""The papers' distribution figures of a dataset, as SVG files beside the card.

Phantom, figure 11: objects per video and their classes. Phantom-Data, figure 3: duration,
resolution, motion. And what users ask of a subject-to-video set: in-pairs to cross-pairs, and
scenarios. Plain bars with their counts: a picture that needs no script, font or style of a page.
"""

from __future__ import annotations

import html
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from s2v.datapipe.write.describe import Dataset

FOLDER: Final = "figures"
_DURATION: Final = (2, 5, 10, 15, 30)  # seconds; Phantom-Data names 5, 10 and 15
_SHORT_SIDE: Final = (240, 360, 480, 720, 1080)  # pixels
_MOTION: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # share of the frame's height per second
_MOST: Final = 16  # bars of a chart; the others are added up

_WIDTH, _ROW, _TOP, _LABEL, _BAR = 560, 24, 46, 170, 310
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.title{font-weight:600;font-size:15px}"
    ".bar{fill:#2f6f9f}.floor{stroke:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#6cb2e0}}"
)


@dataclass(frozen=True)
class Figure:
    """One chart.

    Attributes:
        name: of its file, without the ending.
        title: over it.
        bars: labels with counts.
        unit: what is counted.
    """

    name: str
    title: str
    bars: tuple[tuple[str, int], ...]
    unit: str

    @property
    def words(self) -> str:
        """The figure for those who cannot see it."""
        told = ", ".join(f"{label}: {count}" for label, count in self.bars)
        return f"{self.title}, {self.unit}: {told or 'none'}"

    def svg(self) -> str:
        """The picture; same counts, same bytes."""
        most = max((count for _, count in self.bars), default=0) or 1
        whole = sum(count for _, count in self.bars) or 1
        height = _TOP + _ROW * max(1, len(self.bars)) + 10
        rows = []
        for n, (label, count) in enumerate(self.bars):
            y = _TOP + _ROW * n
            width = round(_BAR * count / most, 1)
            rows.append(
                f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{_text(label)}</text>'
                f'<rect class="bar" x="{_LABEL}" y="{y + 3}" width="{width}" height="{_ROW - 8}"/>'
                f'<text x="{_LABEL + width + 6}" y="{y + 15}">'
                f"{count} ({100 * count / whole:.0f} %)</text>"
            )
        floor = f'<path class="floor" d="M{_LABEL} {_TOP - 4}V{height - 8}"/>'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="t d">'
            f'<title id="t">{_text(self.title)}</title><desc id="d">{_text(self.words)}</desc>'
            f"<style>{_STYLE}</style>"
            f'<text class="title" x="8" y="20">{_text(self.title)}</text>'
            f'<text x="{_WIDTH - 8}" y="20" text-anchor="end">{_text(self.unit)}</text>'
            f"{floor}{''.join(rows)}</svg>\n"
        )


def _text(value: str) -> str:
    """XML admits no control characters, and ours admits no markup."""
    return html.escape("".join(c if c.isprintable() else " " for c in value), quote=True)


def figures(dataset: Dataset) -> list[Figure]:
    """All figures of a dataset, in the order of the card."""
    rows = dataset.rows
    seconds = [row["frames"] / row["fps"] for row in rows if row["fps"]]
    sides = [min(row["width"], row["height"]) for row in rows]
    counts = Counter(int(row["references"]) for row in rows)
    several = [(f"{n} subject{'s' * (n > 1)}", counts[n]) for n in sorted(counts)]
    pairs = Counter(str(row["pair_type"]) for row in rows)
    return [
        Figure("objects", "Subjects per sample", tuple(several), "samples"),
        Figure("classes", "Classes of subjects", _most(dataset.classes), "references"),
        Figure("duration", "Duration", _binned(seconds, _DURATION, "s"), "samples"),
        Figure("resolution", "Shorter side", _binned(sides, _SHORT_SIDE, "px"), "samples"),
        Figure("motion", "Motion, heights/s", _binned(dataset.motion, _MOTION, ""), "samples"),
        Figure("pairs", "Kinds of pairs", _order(pairs, ("in", "cross", "image")), "samples"),
        Figure("scenarios", "Scenarios", _most(row["scenario"] for row in rows), "samples"),
    ]


def _order(counts: Counter[str], first: Sequence[str]) -> tuple[tuple[str, int], ...]:
    names = [*first, *sorted(counts.keys() - set(first))]
    return tuple((name, counts[name]) for name in names if counts[name])


def _most(values: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """The most frequent first, then by name; a long tail as one."""
    ranked = sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0]))
    if len(ranked) <= _MOST:
        return tuple(ranked)
    rest = ranked[_MOST - 1 :]
    return (*ranked[: _MOST - 1], (f"{len(rest)} others", sum(count for _, count in rest)))


def _binned(
    values: Iterable[float], edges: Sequence[float], unit: str
) -> tuple[tuple[str, int], ...]:
    """Counts between edges; empty bins at both ends are left out."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_right(edges, value)] += 1
    space = f" {unit}" if unit else ""
    names = [
        f"under {edges[0]:g}{space}",
        *(f"{a:g} to {b:g}{space}" for a, b in itertools.pairwise(edges)),
        f"{edges[-1]:g}{space} and more",
    ]
    used = [n for n, count in enumerate(counts) if count]
    first, last = (used[0], used[-1]) if used else (0, -1)
    return tuple((names[n], counts[n]) for n in range(first, last + 1))
