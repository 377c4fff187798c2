"""From boundaries to clips: pure arithmetic on the time line of a window.

Lengths are counted in the frames' own time stamps; frame index over average rate is wrong for
phones' and screens' recordings, whose frames come unevenly.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from s2v.datapipe.base.media.container import TIME_SLACK_US

Bound = Literal["cut", "gradual", "length", "window", "source"]

GRADUAL: Final = "gradual transition"
TOO_SHORT: Final = "too short"
TRIM: Final = "trim"

SAME_CUT: Final = 2
"""Two detectors that differ by at most so many frames mean one cut."""


@dataclass(frozen=True)
class Piece:
    """A piece of the time line: frames ``[first, last)``; a clip where ``reason`` is None.

    Attributes:
        starts_with, ends_with: what bounds a clip; None for what was dropped.
    """

    first: int
    last: int
    reason: str | None
    starts_with: Bound | None = None
    ends_with: Bound | None = None


@dataclass(frozen=True)
class Lengths:
    """What becomes of a shot.

    Attributes:
        trim_frames: dropped at each end of a shot; not at a window's seam, where nothing ends.
        min_us: a shorter rest is dropped.
        max_us: a longer rest is split evenly.
    """

    trim_frames: int
    min_us: int
    max_us: int

    @classmethod
    def of(cls, trim_frames: int, min_seconds: float, max_seconds: float) -> Lengths:
        """From seconds."""
        return cls(trim_frames, round(min_seconds * 1e6), round(max_seconds * 1e6))


@dataclass(frozen=True)
class _Shot:
    first: int
    last: int
    starts_with: Bound
    ends_with: Bound


def cut_shots(
    edges_us: Sequence[int],
    cuts: Iterable[int],
    gradual: Iterable[tuple[int, int]],
    lengths: Lengths,
    ends: tuple[Bound, Bound] = ("source", "source"),
) -> list[Piece]:
    """Clips and dropped pieces that tile all frames, in order.

    Args:
        edges_us: ``frames + 1`` times that do not fall: each frame lasts from its edge to the
            next.
        cuts: first frames of new shots.
        gradual: spans ``[first, last)`` of frames that belong to no shot.
        lengths: see there.
        ends: what bounds the first and the last shot.
    """
    frames = len(edges_us) - 1
    spans = _merged(gradual, frames)
    out = [Piece(first, last, GRADUAL) for first, last in spans]
    for shot in _shots(frames, cuts, spans, ends):
        out += _pieces(shot, edges_us, lengths)
    return sorted(out, key=lambda piece: piece.first)


def unite(cuts: Iterable[int], more: Iterable[int]) -> list[int]:
    """The union of two detectors' cuts; of those that mean the same the first's is taken."""
    first = sorted(set(cuts))
    return sorted({*first, *(c for c in more if all(abs(c - known) > SAME_CUT for known in first))})


def _merged(spans: Iterable[tuple[int, int]], frames: int) -> list[tuple[int, int]]:
    """Clipped to the frames there are, empty ones left out, overlapping ones joined."""
    out: list[tuple[int, int]] = []
    for first, last in sorted((max(0, a), min(frames, b)) for a, b in spans):
        if first >= last:
            continue
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out


def _shots(
    frames: int,
    cuts: Iterable[int],
    spans: list[tuple[int, int]],
    ends: tuple[Bound, Bound],
) -> list[_Shot]:
    """What lies between the boundaries; a cut inside or beside a span is the span's."""
    points = [c for c in sorted(set(cuts)) if 0 < c < frames]
    marks: list[tuple[int, int, Bound]] = [(0, 0, ends[0]), (frames, frames, ends[1])]
    marks += [(first, last, "gradual") for first, last in spans]
    marks += [(c, c, "cut") for c in points if not any(a <= c <= b for a, b in spans)]
    marks.sort(key=lambda mark: mark[:2])
    return [_Shot(a[1], b[0], a[2], b[2]) for a, b in itertools.pairwise(marks) if b[0] > a[1]]


def _pieces(shot: _Shot, edges_us: Sequence[int], lengths: Lengths) -> list[Piece]:
    inner = shot.first + (0 if shot.starts_with == "window" else lengths.trim_frames)
    outer = shot.last - (0 if shot.ends_with == "window" else lengths.trim_frames)
    shortest = lengths.min_us - TIME_SLACK_US
    if inner >= outer or edges_us[outer] - edges_us[inner] < shortest:
        return [Piece(shot.first, shot.last, TOO_SHORT)]
    bounds = _split(inner, outer, edges_us, lengths.max_us)
    out = [Piece(shot.first, inner, TRIM)] if inner > shot.first else []
    for first, last in itertools.pairwise(bounds):
        if edges_us[last] - edges_us[first] < shortest:
            out.append(Piece(first, last, TOO_SHORT))
            continue
        starts: Bound = shot.starts_with if first == inner else "length"
        stops: Bound = shot.ends_with if last == outer else "length"
        out.append(Piece(first, last, None, starts, stops))
    if shot.last > outer:
        out.append(Piece(outer, shot.last, TRIM))
    return out


def _split(inner: int, outer: int, edges_us: Sequence[int], max_us: int) -> list[int]:
    """Frames that cut ``[inner, outer)`` into the fewest even parts of at most ``max_us``."""
    start, length = edges_us[inner], edges_us[outer] - edges_us[inner]
    parts = max(1, -(-(length - TIME_SLACK_US) // max_us))
    wanted = (start + length * n // parts + TIME_SLACK_US for n in range(1, parts))
    # The last frame that begins by then; uneven frames may leave one part without any.
    inside = (bisect_right(edges_us, time, inner, outer) - 1 for time in wanted)
    return sorted({inner, *inside, outer})
