"""One sequential pass over a window of a video at a small size, for shots and motion.

Every frame is decoded once, in order, and scaled in the same step that converts it to RGB.
What was decoded is compared with what the container declares: a file that was cut short is an
error at the end of the pass, never a shorter film.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from s2v.datapipe.base.media import draft as _draft
from s2v.datapipe.base.media.container import MAX_PIXELS, OpenVideo, decoded_from, open_video
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.holes import Holes
from s2v.datapipe.base.media.probe import VideoProbe, probe_open

SMALL_FLAGS: Final = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
"""Area averaging: no aliasing at large factors, and no slower than the fast filters because
decoding takes nine tenths of the time (docs/media.md)."""

MAX_DAMAGED_SHARE: Final = 0.05
"""Share of a window's frames that may be damaged or lost before the window counts as corrupt."""

_MAX_MISSING_SHARE: Final = 0.1


@dataclass(frozen=True)
class ScanReport:
    """What a pass over a window found.

    Attributes:
        probe: facts of the file.
        start_us, end_us: the window as asked for, its end clipped to the declared duration.
        frames: frames yielded.
        expected_frames: window length times average frame rate.
        first_us: time of the first frame, None when there was none.
        decoded_end_us: end of the last frame, on the film's time axis.
        damaged: spans [start, end) in microseconds of damaged pictures and of what was built
            on them, to the next key frame, and of missing ones; no clip may overlap one.
        missing: those among them in which pictures are missing between two others.
        damaged_frames: frames in the damaged spans, packets that gave none, and pictures missing
            between two others: what the window is judged by.
    """

    probe: VideoProbe
    start_us: int
    end_us: int
    frames: int
    expected_frames: float
    first_us: int | None
    decoded_end_us: int
    damaged: tuple[tuple[int, int], ...]
    missing: tuple[tuple[int, int], ...]
    damaged_frames: int


class Keeper(Protocol):
    """Who may hold on to frames of a pass, see :class:`s2v.datapipe.base.media.held.HeldFrames`."""

    def open(self, facts: VideoProbe) -> None:
        """Told of the film, before its first frame."""

    def see(self, pts_us: int, frame: Any) -> None:
        """One PyAV frame that is not damaged."""


class Scan(Iterator[tuple[int, np.ndarray]]):
    """Iterator of ``(pts_us, rgb)``; after its last frame it may raise, see :func:`scan`.

    Attributes:
        report: None until the iterator is exhausted; set also when it ends in an error.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        start_us: int = 0,
        end_us: int | None = None,
        short_side: int = 144,
        *,
        draft: bool = False,
        keep: Keeper | None = None,
        max_pixels: int = MAX_PIXELS,
        max_damaged_share: float = MAX_DAMAGED_SHARE,
    ) -> None:
        if start_us < 0 or (end_us is not None and end_us <= start_us):
            raise ValueError(f"empty window [{start_us}, {end_us}) us of {path}")
        self.report: ScanReport | None = None
        self._path = path
        self._window = (start_us, end_us)
        self._short_side = short_side
        self._draft = draft
        self._keep = keep
        self._max_pixels = max_pixels
        self._max_damaged_share = max_damaged_share
        self._frames = self._run()

    def __next__(self) -> tuple[int, np.ndarray]:
        return next(self._frames)

    def close(self) -> None:
        """Release the file before the end was reached."""
        self._frames.close()  # type: ignore[attr-defined]  # a generator, typed as its protocol

    def _run(self) -> Iterator[tuple[int, np.ndarray]]:
        start_us, asked_end = self._window
        with open_video(self._path, self._max_pixels) as video:
            if self._draft:
                _skip_needless_filtering(video)
            facts = probe_open(video, Path(self._path).stat().st_size)
            end_us = facts.duration_us if asked_end is None else min(asked_end, facts.duration_us)
            if start_us >= facts.duration_us:
                raise ValueError(
                    f"{self._path}: window starts at {start_us} us, the film ends at "
                    f"{facts.duration_us} us"
                )
            # A last frame may start just where a coarse header says the film ends.
            stop_us = facts.duration_us + 1_000_000 if end_us == facts.duration_us else end_us
            small = _SmallFrames(facts, self._short_side, draft=self._draft)
            tally = _Tally(facts, start_us, end_us)
            if self._keep is not None:
                self._keep.open(facts)
            frames = decoded_from(video, start_us, facts.frame_us, tally.bad_packet)
            for pts_us, frame, damaged in frames:
                if pts_us >= stop_us:
                    tally.see_beyond(pts_us, frame, damaged)
                    break
                tally.see(pts_us, frame, damaged)
                if pts_us >= start_us:
                    if self._keep is not None and not damaged:
                        self._keep.see(pts_us, frame)
                    yield pts_us, small(frame)
            self.report = tally.report()
        tally.judge(self._path, self._max_damaged_share)


def scan(
    path: str | PathLike[str],
    start_us: int = 0,
    end_us: int | None = None,
    short_side: int = 144,
    *,
    draft: bool = False,
    keep: Keeper | None = None,
    max_pixels: int = MAX_PIXELS,
    max_damaged_share: float = MAX_DAMAGED_SHARE,
) -> Scan:
    """Decode ``[start_us, end_us)`` in order, small, in display orientation.

    Args:
        path: local video file.
        start_us: first frame at or after this time, microseconds.
        end_us: frames before this time; None for the whole film.
        short_side: pixels of the shorter displayed side; smaller videos are not enlarged.
        draft: frames for measuring, not for keeping: a quarter cheaper, see :mod:`.draft`.
        keep: shown every whole frame at full size before its small one is yielded.
        max_pixels: pixel budget of one coded frame.
        max_damaged_share: share of damaged frames above which the window is ``corrupt``.

    Returns:
        An iterator of ``(pts_us, rgb)`` with ``rgb`` uint8 ``(h, w, 3)``, and ``.report``.

    Raises:
        MediaError: before the first frame for files that do not open; *after the last one*
            ``truncated`` when frames stop well before the declared end, and ``corrupt`` when
            too many are damaged or missing in between. Keep nothing of a scan that raised.
        ValueError: the window is empty or begins behind the declared end.
    """
    return Scan(
        path,
        start_us,
        end_us,
        short_side,
        draft=draft,
        keep=keep,
        max_pixels=max_pixels,
        max_damaged_share=max_damaged_share,
    )


def scan_frames(*args: Any, **kwargs: Any) -> Generator[tuple[int, np.ndarray], None, ScanReport]:
    """:func:`scan` as a generator that returns its report, the form a sandbox can stream."""
    frames = scan(*args, **kwargs)
    yield from frames
    if frames.report is None:
        raise RuntimeError("a scan ended without a report")
    return frames.report


def end_tolerance_us(facts: VideoProbe) -> int:
    """How far before the declared end a whole film may stop.

    Three frames, as muxers round; a second where the only duration is the container's or the
    file states an average of few frames, since sound may outlast the picture.
    """
    slack = max(3 * facts.frame_us, 125_000)
    if facts.demuxer in {"mov", "avi"} and not facts.vfr:
        return slack
    return max(slack, 500_000) if not facts.vfr else max(slack, 1_000_000)


def _skip_needless_filtering(video: OpenVideo) -> None:
    """Pictures that no other refers to are not deblocked: a tenth of decoding, and no drift.

    Only in streams with bidirectional pictures, so that all the others are whole: a camera that
    writes layers in time has predicted pictures that no other refers to.
    """
    codec = video.stream.codec_context
    if not codec.has_b_frames:
        return
    codec.options = {**codec.options, "skip_loop_filter": "noref"}


class _SmallFrames:
    """Scales coded frames to the small displayed size."""

    def __init__(self, facts: VideoProbe, short_side: int, *, draft: bool) -> None:
        self._orientation = facts.orientation
        factor = min(1.0, short_side / min(facts.width, facts.height))
        width = max(1, round(facts.width * factor))
        height = max(1, round(facts.height * factor))
        self._size = (height, width) if facts.orientation.transpose else (width, height)
        self._reformatter = VideoReformatter()
        self._draft = _draft.DraftFrames(*self._size, facts.orientation) if draft else None

    def __call__(self, frame: Any) -> np.ndarray:
        if self._draft is not None and _draft.fits(frame):
            return self._draft(frame)
        width, height = self._size
        small = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=SMALL_FLAGS, threads=1
        )
        return self._orientation.apply(small.to_ndarray())


class _Tally:
    """Counts frames and damage of one window and judges it."""

    def __init__(self, facts: VideoProbe, start_us: int, end_us: int) -> None:
        self.facts = facts
        self.start_us = start_us
        self.window_end_us = end_us
        self.end_us = start_us
        self.first_us: int | None = None
        self.frames = 0
        self.damaged: list[tuple[int, int]] = []
        self.damaged_frames = 0
        self._bad: list[int] = []
        self._holes = Holes(facts, start_us, end_us)
        self._steps: dict[int, int] = {}

    def see(self, pts_us: int, frame: Any, damaged: bool) -> None:
        """A frame, of the run-up or of the window."""
        self._holes.see(pts_us, frame, damaged)
        if pts_us < self.start_us:
            return
        step = self._step_us(frame)
        self.end_us = max(self.end_us, pts_us + step)
        self.first_us = pts_us if self.first_us is None else self.first_us
        self.frames += 1
        if damaged:
            self._damage(pts_us, step)

    def see_beyond(self, pts_us: int, frame: Any, damaged: bool) -> None:
        """The first frame behind the window."""
        self._holes.see(pts_us, frame, damaged)
        self.end_us = max(self.end_us, self.window_end_us)

    def _step_us(self, frame: Any) -> int:
        """How long a frame is shown; remembered, as films have few different durations."""
        ticks = frame.duration or 0
        if ticks not in self._steps:
            shown = round(ticks * frame.time_base * 1_000_000) if ticks else 0
            self._steps[ticks] = max(self.facts.frame_us, shown)
        return self._steps[ticks]

    def bad_packet(self, at_us: int) -> None:
        """A packet that gave an error instead of frames."""
        if self.start_us <= at_us < self.window_end_us:
            self._bad.append(at_us)
            self._damage(at_us, self.facts.frame_us)

    def _damage(self, at_us: int, step: int) -> None:
        self.damaged_frames += 1
        self.damaged.append((max(self.start_us, at_us - self.facts.frame_us), at_us + step))

    def report(self) -> ScanReport:
        length = self.window_end_us - self.start_us
        missing = self._holes.spans()
        return ScanReport(
            probe=self.facts,
            start_us=self.start_us,
            end_us=self.window_end_us,
            frames=self.frames,
            expected_frames=length / 1e6 * float(self.facts.avg_fps),
            first_us=self.first_us,
            decoded_end_us=self.end_us,
            damaged=_merged([*self.damaged, *missing]),
            missing=tuple(missing),
            damaged_frames=self.damaged_frames + self._missing_frames(),
        )

    def judge(self, path: str | PathLike[str], max_damaged_share: float) -> None:
        """Raise when the window is not what the container declares."""
        report = self.report()
        short = self.window_end_us - self.end_us
        if self.facts.duration_declared and short > end_tolerance_us(self.facts):
            raise MediaError(
                MediaErrorKind.TRUNCATED,
                path,
                f"frames end at {self.end_us / 1e6:.2f} s of {self.window_end_us / 1e6:.2f} s "
                f"declared ({self.frames} of about {report.expected_frames:.0f} frames); "
                "fetch the file again",
            )
        lost = self._missing_frames()
        total = max(1, self.frames + lost, report.damaged_frames)
        if report.damaged_frames > max_damaged_share * total:
            spoilt = f"{self.damaged_frames} damaged and {lost} missing in between"
            raise MediaError(
                MediaErrorKind.CORRUPT,
                path,
                f"of {total} frames {spoilt}, more than {max_damaged_share:.0%}; "
                f"the first at {report.damaged[0][0] / 1e6:.2f} s",
            )
        left_out = self._holes.repeats_us() / 1e6 * float(self.facts.avg_fps)
        expected = report.expected_frames - left_out
        if not self.facts.vfr and self.frames < (1 - _MAX_MISSING_SHARE) * expected - 2:
            raise MediaError(
                MediaErrorKind.CORRUPT,
                path,
                f"{self.frames} frames where about {expected:.0f} are declared, though the last "
                "is in its place: frames are missing in between",
            )

    def _missing_frames(self) -> int:
        """Pictures for which there is room in the holes, less packets that count as damaged."""
        missing = self._holes.between()
        usual = self._holes.usual_us
        room = sum(round((end - start) / usual) for start, end in missing)
        return max(0, room - sum(a <= at < b for at in self._bad for a, b in missing))


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted spans, those that touch joined."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)
