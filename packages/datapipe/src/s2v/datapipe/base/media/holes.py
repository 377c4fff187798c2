"""Pictures that are missing between two others, told apart from repeats that were left out.

Nothing in a file says that a group of pictures was lost on the way: what is left decodes without
an error. What shows is the time. In a film of even rate a wait of several frames is a hole,
unless the film stood still meanwhile: encoders and screen recorders may leave out pictures that
repeat the one before. Those go on with a predicted picture that looks like the last one; behind
a loss comes a key frame, or a picture that has moved on. And not every container says that a film
is of uneven rate (Matroska, WebM, AVI and transport streams do not): waits that follow one another
are a passage of a slower rate, unless each of them ends at a key frame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType

from s2v.datapipe.base.media.probe import VideoProbe

HOLE_STEPS: Final = 3.5
"""A wait of more than this many usual ones is a hole: three pictures missing or more. Pulldown
makes waits of 1.5; an encoder that could not keep up leaves out one or two, a stutter."""

HOLE_US: Final = 100_000
"""And no wait under this is one: at 60 frames a second three pictures are no more than 24 a second
shows between two."""

PASSAGE: Final = 3
"""So many waits in a row are a slower passage. Two may be the key frame that survived between two
lost groups."""

_WAIT_STEPS: Final = 1.6  # of the average spacing, from which on a wait is looked at
_ALIKE: Final = 2.0  # mean difference of brightness, of 255
_ALIKE_STEPS: Final = 2.0  # or so many times what the two pictures before differ
_THIN: Final = 8  # rows and columns of a picture for one of its thumbnail


class _Shown(NamedTuple):
    pts_us: int
    frame: Any  # av.VideoFrame


@dataclass
class _Wait:
    """Two neighbours further apart than usual.

    Attributes:
        last_us, next_us: times of the pictures before and after.
        place: of the wait among all steps from picture to picture.
        alike: whether they differ no more than neighbours do.
        entry: whether what follows begins at a key frame, or is damaged; None until known.
    """

    last_us: int
    next_us: int
    alike: bool
    place: int = -1
    entry: bool | None = None

    @property
    def repeats(self) -> bool:
        """Whether pictures were left out because nothing moved."""
        return self.alike and not self.entry


class Holes:
    """Watches the frames of a window go by, in order of display.

    Args:
        facts: of the film; one of uneven rate (``vfr``) has no usual spacing, so no holes.
        start_us, end_us: the window. Frames before and behind it may be shown as well, so that
            a hole across its ends is seen.
    """

    def __init__(self, facts: VideoProbe, start_us: int, end_us: int) -> None:
        self._even = not facts.vfr
        self._frame_us = facts.frame_us
        self._window = (start_us, end_us)
        self._steps: Counter[int] = Counter()
        self._waits: list[_Wait] = []
        self._shown: list[_Shown] = []  # the last two
        self._first_us = start_us
        self._predicts = False

    def see(self, pts_us: int, frame: Any, damaged: bool) -> None:
        """The next frame."""
        if not self._even:
            return
        self._predicts = self._predicts or not frame.key_frame
        if self._shown:
            last = self._shown[-1]
            step = pts_us - last.pts_us
            self._steps[step] += 1
            if step > _WAIT_STEPS * self._frame_us:
                place = self._steps.total()
                self._waits.append(_Wait(last.pts_us, pts_us, self._alike(frame), place))
        else:
            self._first_us = pts_us
        for wait in reversed(self._waits):
            if wait.entry is not None:
                break
            wait.entry = self._enters(frame, damaged)
        self._shown = [*self._shown[-1:], _Shown(pts_us, frame)]

    def _enters(self, frame: Any, damaged: bool) -> bool | None:
        """Whether the stream was entered anew here; None for pictures that cannot tell."""
        if damaged:
            return True
        if frame.key_frame:  # where all are, that says nothing
            return self._predicts
        # Bidirectional ones may be shown before the key frame that they came with.
        return None if frame.pict_type == PictureType.B else False

    def _alike(self, frame: Any) -> bool:
        small = [_thumbnail(shown.frame) for shown in self._shown] + [_thumbnail(frame)]
        if len({thumb.shape for thumb in small}) > 1:
            return False
        usual = _difference(small[0], small[1]) if len(small) == 3 else 0.0
        return _difference(small[-2], small[-1]) <= max(_ALIKE, _ALIKE_STEPS * usual)

    @property
    def usual_us(self) -> int:
        """Median spacing of the frames seen; the film's average where there are few."""
        total = self._steps.total()
        if total < HOLE_STEPS * 2:
            return self._frame_us
        seen = 0
        for step, count in sorted(self._steps.items()):
            seen += count
            if 2 * seen >= total:
                return max(step, 1)
        raise AssertionError("a median lies among its numbers")

    def spans(self) -> list[tuple[int, int]]:
        """Holes inside the window: from the end of one frame to the next, microseconds.

        Recordings begin anywhere: what cannot be decoded up to the first key frame is one too.
        """
        lead = _Wait(self._window[0] - self.usual_us, self._first_us, alike=False)
        return self._spans([lead]) + self.between()

    def between(self) -> list[tuple[int, int]]:
        """Those between two frames: what was lost of the film, and not just left behind."""
        return self._spans(wait for run in self._runs() if not _slow(run) for wait in run)

    def _runs(self) -> Iterator[list[_Wait]]:
        """Waits that follow one another."""
        run: list[_Wait] = []
        for wait in self._waits:
            if run and wait.place != run[-1].place + 1:
                yield run
                run = []
            run.append(wait)
        if run:
            yield run

    def _spans(self, waits: Iterable[_Wait]) -> list[tuple[int, int]]:
        usual = self.usual_us
        floor = max(HOLE_STEPS * usual, HOLE_US)
        found = []
        for wait in waits:
            if wait.next_us - wait.last_us > floor and not wait.repeats:
                start = max(wait.last_us + usual, self._window[0])
                end = min(wait.next_us, self._window[1])
                if start < end:
                    found.append((start, end))
        return found

    def repeats_us(self) -> int:
        """Time inside the window for which pictures were left out that repeat the one before."""
        usual = self.usual_us
        left_out = 0
        for wait in self._waits:
            if wait.repeats:
                start = max(wait.last_us + usual, self._window[0])
                left_out += max(0, min(wait.next_us, self._window[1]) - start)
        return left_out


def _slow(run: list[_Wait]) -> bool:
    """Whether waits in a row are a passage of a slower rate."""
    return len(run) >= PASSAGE and 2 * sum(bool(wait.entry) for wait in run) < len(run)


def _thumbnail(frame: Any) -> npt.NDArray[np.float32]:
    """Brightness of a picture in 0..255, an eighth of each side; for packed RGB its bytes."""
    plane, bits = frame.planes[0], frame.format.components[0].bits
    rows = np.frombuffer(plane, np.uint8 if bits <= 8 else np.uint16)
    rows = rows.reshape(plane.height, -1)[::_THIN, : plane.width]
    width = max(1, plane.width // _THIN)
    # Averaged along the rows, as grain would make every two pictures differ.
    small = cv2.resize(np.ascontiguousarray(rows), (width, len(rows)), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(2 ** max(bits - 8, 0))


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())
