"""Cut clips out of films, and small previews of them for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Final

import ffmpeg as ffmpeg_python

from s2v.datapipe.base.media import ffmpeg, remux
from s2v.datapipe.base.media.buckets import trimmed
from s2v.datapipe.base.media.container import TIME_SLACK_US
from s2v.datapipe.base.media.encode import (
    AS_IT_IS,
    SCALE_FLAGS,
    CutResult,
    Shape,
    cut_out,
    encoding,
    frame_rate,
    local,
    verify,
    written,
)
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.probe import VideoProbe, probe
from s2v.datapipe.base.media.stills import Motion, animate_still

__all__ = ["CutResult", "Motion", "animate_still", "cut_clip", "preview_clip"]

_RUN_UP_US: Final = 12_000_000  # longer than the distance of key frames that encoders choose


def cut_clip(
    src: str | PathLike[str],
    start_us: int,
    end_us: int,
    dst: str | PathLike[str],
    *,
    crop: Sequence[float] | None = None,
    keep: Sequence[float] | None = None,
    short_side: int = 480,
    fps: Fraction | float | None = None,
    crf: int = 23,
    preset: str = "medium",
    shape: Shape = AS_IT_IS,
    source: VideoProbe | None = None,
    timeout_s: float | None = None,
) -> CutResult:
    """Cut ``[start_us, end_us)`` into an H.264 MP4 that decodes to exactly what it should.

    8-bit 4:2:0, constant frame rate, even size, square pixels, upright, no audio, index first.

    Args:
        src: local video file.
        start_us, end_us: microseconds from the first frame of the film.
        dst: file to write; it appears whole or not at all.
        crop: the part of the picture to keep, ``x0, y0, x1, y1`` in even pixels of the displayed
            frame (after rotation and sample aspect ratio), as :func:`frames_at` gives it.
        keep: what a bucket should not cut into, ``x0, y0, x1, y1`` as shares of that part.
        short_side: pixels of the shorter side of that part; smaller films are not enlarged.
        fps: output rate; None keeps the source's average rate.
        crf, preset: of x264.
        shape: buckets of size and length; by default the span's own.
        source: the film's probe, if at hand.
        timeout_s: wall clock; by default a minute and 20 s per second of clip.

    Raises:
        MediaError: ``unsupported`` when too small for every bucket; ``truncated`` or
            ``corrupt`` when the span does not decode whole, or the written frames are not the
            span times the rate (within one).
        ValueError: an empty span, or one behind the declared end; a crop of odd pixels, or of
            ones outside the frame.
    """
    facts = source or probe(src)
    order = ordered(
        src,
        start_us,
        end_us,
        facts,
        crop=crop,
        keep=keep,
        short_side=short_side,
        fps=fps,
        shape=shape,
    )
    options = order.options(crf, preset)
    limit_s = timeout_s or order.limit_s
    with written(dst, src) as temporary:
        try:
            _cut(order, temporary, options, limit_s, strict=True)
        except MediaError as error:
            if error.kind is not MediaErrorKind.CORRUPT:
                raise
            if not _cut(order, temporary, options, limit_s, strict=False):
                raise
        return order.verified(temporary, dst)


def ordered(
    src: str | PathLike[str],
    start_us: int,
    end_us: int,
    facts: VideoProbe,
    *,
    crop: Sequence[float] | None,
    keep: Sequence[float] | None,
    short_side: int,
    fps: Fraction | float | None,
    shape: Shape,
) -> Order:
    """Check what is asked for, with arguments and errors of :func:`cut_clip`."""
    if not 0 <= start_us < end_us:
        raise ValueError(f"{src}: empty span [{start_us}, {end_us}) us")
    if end_us > facts.duration_us + 3 * facts.frame_us:
        raise ValueError(f"{src}: span ends at {end_us} us, the film at {facts.duration_us} us")
    end_us = min(end_us, facts.duration_us)
    rate = frame_rate(fps if fps is not None else facts.avg_fps)
    span_s = (end_us - start_us) / 1e6
    expected = max(1, round(span_s * rate))
    part = _checked(src, facts, crop) if crop is not None else None
    across, down = (part[2] - part[0], part[3] - part[1]) if part else (facts.width, facts.height)
    cover, size = shape.sizes(src, across, down, short_side)
    frames = trimmed(expected, shape.frame_step)
    return Order(Path(src), facts, start_us, end_us, rate, frames, size, part, cover, keep)


@dataclass(frozen=True)
class Order:
    """What is to be cut: a span of a film, its frames and their size."""

    src: Path
    facts: VideoProbe
    start_us: int
    end_us: int
    rate: Fraction
    frames: int
    size: tuple[int, int]
    crop: tuple[int, int, int, int] | None
    cover: tuple[int, int]  # what the picture is scaled to, before ``size`` is cut from it
    keep: Sequence[float] | None = None

    @property
    def limit_s(self) -> float:
        """Wall clock: a minute and 20 s per second of clip."""
        return 60 + 20 * (self.end_us - self.start_us) / 1e6

    def options(self, crf: int, preset: str) -> dict[str, Any]:
        """Output options of its file."""
        return encoding(crf, preset, **{"frames:v": self.frames, "r": str(self.rate)})

    def filtered(self, stream: Any, zero_us: int, **until: str) -> Any:
        """The span out of decoded pictures whose time zero is ``zero_us`` of the film.

        Args:
            stream: the decoded pictures.
            zero_us: the film's time of their time zero.
            until: ``end`` of the filter "trim", behind the span, where more pictures follow.
        """
        begin = max(0, self.start_us - zero_us - TIME_SLACK_US)  # early, as stamps are rounded
        video = (
            _turned(stream, self.facts)
            .filter("trim", start=f"{begin}us", **until)
            .filter("setpts", f"PTS-{begin}/1000000/TB")
            # Rate before size, frames counted afterwards: the filter knows the last one's end.
            .filter("fps", fps=f"{self.rate.numerator}/{self.rate.denominator}", start_time=0)
        )
        video = _cropped(video, self).filter(
            "scale", *self.cover, flags=SCALE_FLAGS, out_range="tv"
        )
        return cut_out(video, self.cover, self.size, self.keep).filter("setsar", 1)

    def verified(self, temporary: Path, dst: str | PathLike[str]) -> CutResult:
        """Decode what was written and hold it to this order."""
        return verify(temporary, dst, self.src, frames=self.frames, size=self.size, rate=self.rate)


def _checked(
    src: str | PathLike[str], facts: VideoProbe, crop: Sequence[float]
) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = part = tuple(int(v) for v in crop)
    inside = 0 <= x0 < x1 <= facts.width and 0 <= y0 < y1 <= facts.height
    if not inside or any(v % 2 or v != given for v, given in zip(part, crop, strict=True)):
        raise ValueError(
            f"{src}: crop {list(crop)} is not of even whole pixels inside the displayed frame of "
            f"{facts.width}x{facts.height}"
        )
    return x0, y0, x1, y1


def _cut(
    order: Order, target: Path, options: dict[str, Any], timeout_s: float, *, strict: bool
) -> bool:
    """Copy the span's packets and encode them.

    ffmpeg's strictness knows no mercy for open-GOP entry points, whose followers may refer to
    pictures before them. So where the strict way fails, the packets are taken from further
    back and decoded here; if the span itself is whole, ffmpeg may take them as they are.

    Returns:
        False where ``strict`` is off and the span is not whole; nothing is written then.
    """
    facts = order.facts
    packets = target.with_name(f"{target.name}.{remux.FORMAT}.tmp")  # swept after a kill
    span = (order.start_us, order.end_us)
    try:
        run_up_us = 0 if strict else _RUN_UP_US
        copied = remux.copy_span(order.src, facts, *span, packets, run_up_us=run_up_us)
        if not strict and not remux.is_whole(packets, copied, facts.frame_us, *span):
            return False
        stream = ffmpeg_python.input(
            local(packets),
            **ffmpeg.source_arguments(remux.FORMAT, strict=strict),
            noautorotate=None,
            copyts=None,  # or ffmpeg shifts time zero to the first picture shown
        )
        video = order.filtered(stream["v:0"], copied.zero_us)
        spec = video.output(str(target), **options)
        ffmpeg.run(spec, order.src, timeout_s=timeout_s, strict=strict)
        return True
    finally:
        packets.unlink(missing_ok=True)


def _turned(stream: Any, facts: VideoProbe) -> Any:
    """Apply the film's own display matrix, which the copied packets no longer carry."""
    if facts.orientation.transpose:
        stream = stream.filter("transpose", dir="cclock_flip")  # along the main diagonal
    if facts.orientation.hflip:
        stream = stream.filter("hflip")
    if facts.orientation.vflip:
        stream = stream.filter("vflip")
    return stream


def _cropped(stream: Any, order: Order) -> Any:
    """Cut out the part in square pixels, whatever the pixels of the film are."""
    if order.crop is None:
        return stream
    facts, (x0, y0, x1, y1) = order.facts, order.crop
    turned = (facts.coded_width, facts.coded_height)
    if facts.orientation.transpose:
        turned = turned[::-1]
    if turned != (facts.width, facts.height):
        stream = stream.filter("scale", facts.width, facts.height, flags=SCALE_FLAGS)
    return stream.filter("crop", x1 - x0, y1 - y0, x0, y0, exact=1)


def preview_clip(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    height: int = 180,
    max_seconds: float = 4.0,
    crf: int = 30,
    timeout_s: float = 120.0,
) -> CutResult:
    """A small MP4 of a file's first seconds, for a report page.

    Args:
        src: local video file, usually a clip of this pipeline.
        dst: file to write.
        height: pixels; the width follows.
        max_seconds: length at most.
        crf: of x264.
        timeout_s: wall clock.

    Raises:
        MediaError: as :func:`cut_clip`.
    """
    facts = probe(src)
    end_us = min(facts.duration_us, round(max_seconds * 1e6))
    short_side = round(height * min(facts.width, facts.height) / facts.height)
    return cut_clip(
        src,
        0,
        end_us,
        dst,
        short_side=short_side,
        crf=crf,
        preset="veryfast",
        source=facts,
        timeout_s=timeout_s,
    )
