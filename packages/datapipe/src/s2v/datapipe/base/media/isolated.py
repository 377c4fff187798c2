"""The media room's decoders in a child process: what stages should call on strangers' files."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from os import PathLike
from typing import Any, Final

import numpy as np

from s2v.datapipe.base.media.probe import VideoProbe
from s2v.datapipe.base.media.sandbox import run_isolated, stream_isolated
from s2v.datapipe.base.media.scan import MAX_DAMAGED_SHARE, ScanReport

_DECODE: Final = "s2v.datapipe.base.media.decode:frames_at"
_PROBE: Final = "s2v.datapipe.base.media.probe:probe"
_IMAGE: Final = "s2v.datapipe.base.media.images:load_image"
_TIMES: Final = "s2v.datapipe.base.media.times:frame_times"
_SCAN: Final = "s2v.datapipe.base.media.scan:scan_frames"
_ITEM_TIMEOUT_S: Final = 60.0


def probe(path: str | PathLike[str], *, timeout_s: float = 60.0) -> VideoProbe:
    """As :func:`s2v.datapipe.base.media.probe.probe`, contained."""
    found: VideoProbe = run_isolated(_PROBE, [str(path)], timeout_s=timeout_s)
    return found


def frames_at(
    path: str | PathLike[str], pts_us: Sequence[int], *, timeout_s: float = 300.0, **options: Any
) -> list[tuple[int, np.ndarray]]:
    """As :func:`s2v.datapipe.base.media.decode.frames_at`, contained."""
    found: list[tuple[int, np.ndarray]] = run_isolated(
        _DECODE, [str(path), list(pts_us)], options, timeout_s=timeout_s
    )
    return found


def frame_times(path: str | PathLike[str], *, timeout_s: float = 300.0) -> list[int]:
    """As :func:`s2v.datapipe.base.media.times.frame_times`, contained."""
    found: list[int] = run_isolated(_TIMES, [str(path)], timeout_s=timeout_s)
    return found


def load_image(path: str | PathLike[str], *, timeout_s: float = 60.0) -> np.ndarray:
    """As :func:`s2v.datapipe.base.media.images.load_image`, contained."""
    found: np.ndarray = run_isolated(_IMAGE, [str(path)], timeout_s=timeout_s)
    return found


def scan(
    path: str | PathLike[str],
    start_us: int = 0,
    end_us: int | None = None,
    short_side: int = 144,
    *,
    max_damaged_share: float = MAX_DAMAGED_SHARE,
) -> Generator[tuple[int, np.ndarray], None, ScanReport]:
    """As :func:`s2v.datapipe.base.media.scan.scan`, contained; *returns* the report.

    Use it as ``report = yield from scan(...)``, or take ``StopIteration.value``.

    Raises:
        MediaError: after the last frame as well, see there.
    """
    return stream_isolated(
        _SCAN,
        [str(path), start_us, end_us, short_side],
        {"max_damaged_share": max_damaged_share},
        timeout_s=_ITEM_TIMEOUT_S,
    )
