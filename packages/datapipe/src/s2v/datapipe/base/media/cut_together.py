"""Cut neighbouring clips of a film in one pass: what two of them need is decoded once.

A clip is decoded from the key frame before it. Where that lies in front of the end of the clip
before, the film between would be decoded for both; such clips are cut together, one decoder
feeding an encoder each. Where it does not, a seek costs less than decoding on, and each is cut
by itself. The bytes are those of :func:`s2v.datapipe.base.media.cut.cut_clip` either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Final

import ffmpeg as ffmpeg_python

from s2v.datapipe.base.media import ffmpeg, remux
from s2v.datapipe.base.media.container import open_video
from s2v.datapipe.base.media.cut import CutResult, ordered
from s2v.datapipe.base.media.encode import AS_IT_IS, Shape, local, written
from s2v.datapipe.base.media.probe import VideoProbe, probe

#: Encoders at a time: each holds its look-ahead, some 40 pictures, once its clip has begun.
MAX_TOGETHER: Final = 8
_BEHIND_US: Final = 250_000  # pictures that the rate filter may look at to end a clip


@dataclass(frozen=True)
class Span:
    """One clip of a film.

    Attributes:
        start_us, end_us: microseconds from the first frame of the film.
        dst: file to write.
        crop, keep: as for ``cut_clip``.
    """

    start_us: int
    end_us: int
    dst: Path
    crop: Sequence[float] | None = None
    keep: Sequence[float] | None = None


def together(src: str | PathLike[str], spans: Sequence[Span]) -> list[list[Span]]:
    """Group clips that share pictures to decode; at most :data:`MAX_TOGETHER` a group.

    Args:
        src: local video file. Its index of key frames decides; one without has groups of one,
            and so has an unevenly spaced film, where the picture behind a clip ends it.
        spans: clips of it, in any order.

    Returns:
        Groups in the order of time.

    Raises:
        MediaError: the file cannot be opened.
    """
    groups: list[list[Span]] = []
    even = not probe(src).vfr
    with open_video(src) as video:
        for span in sorted(spans, key=lambda one: (one.start_us, one.end_us, str(one.dst))):
            entry = video.entry_us(span.start_us)
            last = groups[-1] if groups else []
            shared = even and last and entry is not None and entry < max(one.end_us for one in last)
            if shared and len(last) < MAX_TOGETHER:
                last.append(span)
            else:
                groups.append([span])
    return groups


def cut_together(
    src: str | PathLike[str],
    spans: Sequence[Span],
    *,
    short_side: int = 480,
    fps: Fraction | float | None = None,
    crf: int = 23,
    preset: str = "medium",
    shape: Shape = AS_IT_IS,
    source: VideoProbe | None = None,
) -> list[CutResult]:
    """Cut the clips of one group of :func:`together` in one pass.

    Args:
        src: local video file.
        spans: clips, in the order of time.
        short_side, fps, crf, preset, shape: as for ``cut_clip``.
        source: the film's probe, if at hand.

    Returns:
        One result per span; either all files are written, or none.

    Raises:
        MediaError: of any of the clips, or of the film between them. Cut them one by one then:
            the fault of one is not the others'.
        ValueError: as ``cut_clip``.
    """
    facts = source or probe(src)
    asked: dict[str, Any] = {"short_side": short_side, "fps": fps, "shape": shape}
    orders = [
        ordered(src, one.start_us, one.end_us, facts, crop=one.crop, keep=one.keep, **asked)
        for one in spans
    ]
    with ExitStack() as stack:
        targets = [stack.enter_context(written(one.dst, src)) for one in spans]
        packets = targets[0].with_name(f"{targets[0].name}.{remux.FORMAT}.tmp")
        stack.callback(packets.unlink, missing_ok=True)
        start, end = orders[0].start_us, max(one.end_us for one in orders)
        copied = remux.copy_span(src, facts, start, end, packets)
        stream = ffmpeg_python.input(
            local(packets),
            **ffmpeg.source_arguments(remux.FORMAT, strict=True),
            noautorotate=None,
            copyts=None,
        )
        shared = stream["v:0"].filter_multi_output("split", len(orders))
        outputs = [
            order.filtered(
                shared.stream(n),
                copied.zero_us,
                end=f"{order.end_us + _BEHIND_US - copied.zero_us}us",
            ).output(str(target), **order.options(crf, preset))
            for n, (order, target) in enumerate(zip(orders, targets, strict=True))
        ]
        limit_s = sum(order.limit_s for order in orders)
        ffmpeg.run(ffmpeg_python.merge_outputs(*outputs), src, timeout_s=limit_s)
        return [
            order.verified(target, one.dst)
            for order, target, one in zip(orders, targets, spans, strict=True)
        ]
