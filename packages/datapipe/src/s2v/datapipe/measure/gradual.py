"""Gradual transitions: dissolves and fades, on tiny pictures of every frame.

A dissolve mixes two scenes, ``m = (1 - w) a + w b``. So a frame in its middle is the mean of the
frames half its length before and after, those two are unlike each other, and its contrast is
lower than theirs. No camera movement does all three: a pan leaves a frame in the middle that is
*not* the mean and keeps its contrast. A fade runs into or out of a frame of one colour, and the
contrast on the way is a ramp. Boreczky and Rowe (1996) and Lienhart (1999) survey these cues.

Both are spans of frames that belong to neither shot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

HALVES: Final = (3, 4, 6, 8, 11, 15, 20, 27, 36)
"""Half lengths looked for, in frames at about 25 a second: dissolves of 0.2 to 3 s."""

NOMINAL_FPS: Final = 25.0

MISFIT: Final = 0.4
"""Energy of the middle frame's departure from the mean of the outer two, over the energy of
their own: 0 for a dissolve of still pictures, 1 for a cut, 3 for three unrelated frames."""

LIKENESS: Final = 0.75
"""Correlation of the two outer frames above which the scene has not changed."""

CHANGE: Final = 10.0
"""Smallest root mean square distance, of 255, of the outer frames to their mean."""

DIP: Final = 0.5
"""How much of the contrast dip that a mixture must show may be missing."""

WIDESPREAD: Final = 0.5
"""The change must be all over the picture: squared mean over mean square of the pixel changes.
A title that fades in over a scene changes a fifth of it."""

FLAT: Final = 0.03
"""Contrast (standard deviation of grey, of 1) of a frame of one colour."""

DARK: Final = 0.12
LIGHT: Final = 0.88
"""Grey levels at which a flat frame is black or white. Others may be a sky."""

LONGEST_PAUSE_S: Final = 1.0
"""A longer stretch of black between two fades is a shot of its own; rules drop it as black."""

FLASH_S: Final = 0.2
LONGEST_FADE_S: Final = 3.0
RISE: Final = 0.012
"""Growth of contrast per frame, of what it will be, under which a ramp has ended."""


@dataclass(frozen=True)
class Gradual:
    """Frames ``[first, last)`` that show two shots mixed, or neither."""

    first: int
    last: int
    kind: Literal["dissolve", "fade"]


def find_gradual(
    thumbs: npt.NDArray[np.uint8], luma: Any, spread: Any, fps: float
) -> list[Gradual]:
    """Dissolves and fades of a stretch of film.

    Args:
        thumbs: uint8 ``[T, h, w]``, tiny grey pictures of all frames in order. (Colour finds no
            more, and costs three times as much.)
        luma: ``[T]``, mean grey of each frame, 0..1.
        spread: ``[T]``, standard deviation of it, 0..1.
        fps: typical frame rate; frames are skipped at high ones.

    Returns:
        Spans in order, none overlapping another.
    """
    stride = max(1, round(fps / NOMINAL_FPS))
    grey, contrast = np.asarray(luma)[::stride], np.asarray(spread)[::stride]
    fades = find_fades(thumbs[::stride], grey, contrast, fps / stride)
    found = [*fades, *find_dissolves(thumbs[::stride], fades)]
    # At a stride the frames skipped beside a span may belong to it.
    wide = [
        Gradual(
            max(0, span.first * stride - (stride - 1)),
            min(len(thumbs), span.last * stride),
            span.kind,
        )
        for span in found
    ]
    return _apart(wide)


def _apart(spans: list[Gradual]) -> list[Gradual]:
    """In order; of two that overlap or touch one is made."""
    out: list[Gradual] = []
    for span in sorted(spans, key=lambda s: (s.first, s.last, s.kind)):
        if not out or span.first >= out[-1].last:
            out.append(span)
            continue
        before = out.pop()
        longer = max(before, span, key=lambda s: s.last - s.first)
        out.append(Gradual(before.first, max(before.last, span.last), longer.kind))
    return out


def find_dissolves(
    thumbs: npt.NDArray[np.uint8], fades: list[Gradual] | None = None
) -> list[Gradual]:
    """Spans in which one scene is mixed into another; those inside ``fades`` are left out."""
    if len(thumbs) <= 2 * HALVES[0]:
        return []
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    centred = flat - flat.mean(axis=1, keepdims=True)
    candidates: list[tuple[float, int, int]] = []
    for half in HALVES:
        if len(thumbs) > 2 * half:
            candidates += [(worth, half, at) for at, worth in _mixtures(centred, half)]
    # The best first, and only one for each place.
    candidates.sort(key=lambda c: (-c[0], c[1], c[2]))
    taken = np.zeros(len(thumbs), bool)
    for fade in fades or []:
        taken[fade.first : fade.last] = True
    out = []
    for _, half, at in candidates:
        if taken[at] or not _is_widespread(centred[at - half], centred[at + half]):
            continue
        first, last = ramp(centred, at, half)
        if taken[first:last].any():
            continue
        taken[first:last] = True
        taken[max(0, at - half) : at + half + 1] = True
        out.append(Gradual(first, last, "dissolve"))
    return sorted(out, key=lambda s: s.first)


def _mixtures(centred: Floats, half: int) -> list[tuple[int, float]]:
    """Frames that are the mean of those ``half`` before and after, with how well."""
    energy = (centred * centred).mean(axis=1)
    near = (centred[:-half] * centred[half:]).mean(axis=1)
    outer = (centred[: -2 * half] * centred[2 * half :]).mean(axis=1)
    before, middle, after = energy[: -2 * half], energy[half:-half], energy[2 * half :]
    mean = (before + after + 2 * outer) / 4
    apart = np.maximum((before + after - 2 * outer) / 4, 1e-6)
    misfit = (middle + mean - near[:-half] - near[half:]) / apart
    likeness = outer / np.sqrt(np.maximum(before * after, 1e-6))
    level = (before + after) / 2
    # Where the contrast is between "as deep as a mixture's" (0) and "no dip at all" (1).
    dip = (middle - mean) / np.maximum(level - mean, 1e-6)
    good = (misfit <= MISFIT) & (likeness <= LIKENESS) & (apart >= CHANGE**2) & (dip <= DIP)
    worth = np.sqrt(apart) * (1 - misfit)
    return [(int(i) + half, float(round(worth[i], 3))) for i in np.flatnonzero(good)]


def _is_widespread(before: Floats, after: Floats) -> bool:
    change = np.abs(after - before)
    return float(change.mean()) ** 2 >= WIDESPREAD * float((change * change).mean())


def ramp(centred: Floats, at: int, half: int) -> tuple[int, int]:
    """First and one past the last mixed frame around ``at``.

    The frames are projected onto the way from ``at - half`` to ``at + half``: flat, a ramp,
    flat. The two corners with the least squared error are taken.
    """
    reach = half + max(6, half // 2)
    low, high = max(0, at - reach), min(len(centred), at + reach + 1)
    a, b = centred[at - half], centred[at + half]
    way = b - a
    seen = ((centred[low:high] - a) @ way) / max(float(way @ way), 1e-6)
    place = np.arange(low, high, dtype=np.float64)
    best = (np.inf, at, at + 1)
    for first in range(low, at + 1):
        for last in range(max(at, first + 1), high):
            weight = np.clip((place - first) / (last - first), 0, 1)
            error = _line_error(weight, seen)
            if error < best[0] - 1e-9:
                best = (error, first, last)
    return best[1] + 1, max(best[2], best[1] + 2)


def _line_error(x: npt.NDArray[np.float64], y: Floats) -> float:
    """Squared error of the best line through ``(x, y)``."""
    dx, dy = x - x.mean(), y - y.mean()
    spread = float(dx @ dx)
    slope = float(dx @ dy) / spread if spread > 0 else 0.0
    return float(dy @ dy) - slope * slope * spread


def find_fades(thumbs: npt.NDArray[np.uint8], luma: Any, spread: Any, fps: float) -> list[Gradual]:
    """Spans that fade to black or white, with the pause between, and back."""
    flat = (spread < FLAT) & ((luma < DARK) | (luma > LIGHT))
    out = []
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(np.int8), [0]])))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        before = _ramp_length(spread[:first][::-1], fps)
        after = _ramp_length(spread[last:], fps)
        if not before and not after:
            continue  # hard cuts to and from a blank, which differ from it enough
        if _is_blink(thumbs, first - before, last + after, fps):
            continue
        if last - first <= LONGEST_PAUSE_S * fps:
            out.append(Gradual(first - before, last + after, "fade"))
            continue
        if before:
            out.append(Gradual(first - before, first, "fade"))
        if after:
            out.append(Gradual(last, last + after, "fade"))
    return _apart(out)


def _ramp_length(contrast: Any, fps: float) -> int:
    """Frames over which contrast grows from a blank to a picture; 0 for a cut.

    Args:
        contrast: of the frames beside the blank, going away from it.
    """
    longest = min(len(contrast), int(LONGEST_FADE_S * fps))
    if longest < 3:
        return 0
    top = float(np.max(contrast[:longest]))
    length = 0
    while length < longest - 2 and contrast[length + 2] - contrast[length] > 2 * RISE * top:
        length += 1
    # The last step looked two frames ahead. A cut is over in one.
    return length + 1 if length >= 2 else 0


def _is_blink(thumbs: npt.NDArray[np.uint8], first: int, last: int, fps: float) -> bool:
    """Whether the same scene goes on after a moment of one colour: a flash or a drop-out."""
    if first < 1 or last >= len(thumbs) or last - first > FLASH_S * fps + 1:
        return False
    before, after = thumbs[first - 1].astype(np.float32), thumbs[last].astype(np.float32)
    blank = thumbs[(first + last) // 2].astype(np.float32)
    return float(np.abs(before - after).mean()) < 0.3 * float(np.abs(before - blank).mean())


def typical_fps(pts_us: list[int]) -> float:
    """Rate of the median spacing of frames; the nominal one where there are too few to tell."""
    if len(pts_us) < 3:
        return NOMINAL_FPS
    return 1e6 / max(float(np.median(np.diff(pts_us))), 1.0)
