"""The little of media handling that evaluation needs, all through datapipe's media room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.media.scan import scan
from s2v.evals.encoders import Image, Mask

# Checking needs every frame decoded, not seen: the smallest size converts fastest.
_CHECK_SIDE = 16
# Time stamps pass through float32 seconds in one decoder.
_SAME_FRAME_US = 1_000


def require_file(path: Path) -> None:
    """Refuse what is no file.

    Raises:
        MediaError: missing, or a folder.
    """
    if path.is_dir():
        raise MediaError(MediaErrorKind.NOT_MEDIA, path, "is a folder; name the files in it")
    if not path.is_file():
        raise MediaError(MediaErrorKind.MISSING, path, "no such file")


def frame_times(path: Path) -> tuple[int, ...]:
    """Presentation times (microseconds, ascending) of all frames, decoding to the end.

    Raises:
        MediaError: the file does not open, is cut short or damaged.
    """
    require_file(path)
    try:
        return tuple(pts for pts, _ in scan(path, short_side=_CHECK_SIDE))
    except ValueError as error:  # a film of no length has no window to scan
        raise MediaError(MediaErrorKind.CORRUPT, path, str(error)) from error


def read_frames(path: Path, times_us: Sequence[int], indices: Sequence[int]) -> dict[int, Image]:
    """Full-size frames by index, decoded once.

    Args:
        path: the video.
        times_us: of all its frames, as from `frame_times`.
        indices: wanted frames.

    Raises:
        MediaError: the file cannot be decoded, or gives another frame than the one asked for.
    """
    wanted = sorted(set(indices))
    try:
        found = frames_at(path, [times_us[i] for i in wanted])
    except ValueError as error:  # frames behind the declared end
        raise MediaError(MediaErrorKind.CORRUPT, path, str(error)) from error
    frames = {}
    for i, (pts_us, rgb) in zip(wanted, found, strict=True):
        if abs(pts_us - times_us[i]) > _SAME_FRAME_US:
            raise MediaError(
                MediaErrorKind.CORRUPT,
                path,
                f"frame {i} was at {times_us[i]} us when the file was checked, now at {pts_us} us",
            )
        frames[i] = np.asarray(rgb, np.uint8)
    return frames


def read_image(path: Path) -> Image:
    """A reference image as displayed RGB; transparency lies on white.

    Raises:
        MediaError: missing, no image, damaged, cut short, or too large.
    """
    require_file(path)
    return np.asarray(load_image(path), np.uint8)


def read_mask(path: Path) -> Mask:
    """(H, W) bool of a one-channel PNG of 0 and 255.

    Raises:
        MediaError: missing, or no such mask.
    """
    require_file(path)
    try:
        return np.asarray(decode_png_mask(path.read_bytes()), np.bool_)
    except MediaError as error:
        raise MediaError(error.kind, path, error.message) from error
