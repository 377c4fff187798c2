"""When each frame of a film is shown: for datasets that name frames by their number."""

from __future__ import annotations

from os import PathLike

from s2v.datapipe.base.media.container import open_video, packet_times
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind


def frame_times(path: str | PathLike[str], limit: int = 10_000_000) -> list[int]:
    """Presentation times of all shown frames, without decoding any.

    Args:
        path: local video file.
        limit: frames at most; four days of film.

    Returns:
        Microseconds after the first frame, sorted; entry ``i`` is frame number ``i``.

    Raises:
        MediaError: ``unsupported`` where packets have no times; ``too_large``; what opening gives.
    """
    with open_video(path) as video:
        times = packet_times(video)
    if times is None or not times.shown_us:
        raise MediaError(
            MediaErrorKind.UNSUPPORTED,
            path,
            "its frames have no times, so frame numbers cannot be found; remux it to MP4",
        )
    if len(times.shown_us) > limit:
        raise MediaError(MediaErrorKind.TOO_LARGE, path, f"more than {limit} frames")
    return times.shown_us
