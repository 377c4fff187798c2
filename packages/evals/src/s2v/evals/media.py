"""The little of media handling that evaluation needs, all through datapipe's media room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error
from s2v.datapipe.base.media.images import MAX_IMAGE_BYTES, decode_png_mask, load_image
from s2v.datapipe.base.media.scan import scan
from s2v.evals.encoders import Image, Mask

# Checking needs every frame decoded, not seen: the smallest size converts fastest.
_CHECK_SIDE = 16
# Time stamps pass through float32 seconds in one decoder.
_SAME_FRAME_US = 1_000
# Of decoded frames held at once. Below so many frames nobody looks how large they are.
_MAX_BYTES = 8 << 30
_FEW = 200


def require_file(path: Path) -> None:
    """Refuse what is no file.

    Raises:
        MediaError: missing, or a folder; transient where one may not look.
    """
    try:
        if path.is_dir():
            raise MediaError(MediaErrorKind.NOT_MEDIA, path, "is a folder; name the files in it")
        if not path.is_file():
            raise MediaError(MediaErrorKind.MISSING, path, "no such file")
    except OSError as error:  # a folder on the way that may not be entered, or a name too long
        raise from_os_error(error, path) from error
    if not os.access(path, os.R_OK):
        raise MediaError(
            MediaErrorKind.TRANSIENT, path, "may not be read by this user; change its permissions"
        )


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
        MediaError: the file cannot be decoded, gives another frame than the one asked for, or
            more of them than memory should hold.
    """
    wanted = sorted(set(indices))
    if len(wanted) > _FEW:
        _check_room(path, times_us[wanted[0]], len(wanted))
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


def _check_room(path: Path, first_us: int, count: int) -> None:
    ((_, rgb),) = frames_at(path, [first_us])
    needed = rgb.nbytes * count
    if needed > _MAX_BYTES:
        raise MediaError(
            MediaErrorKind.TOO_LARGE,
            path,
            f"{count} frames of {rgb.shape[1]}x{rgb.shape[0]} take {needed / 1e9:.0f} GB at once; "
            "cut the video, or leave out the protocols that look at every frame",
        )


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
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise MediaError(MediaErrorKind.TOO_LARGE, path, f"more than {MAX_IMAGE_BYTES} bytes")
    try:
        return np.asarray(decode_png_mask(path.read_bytes()), np.bool_)
    except MediaError as error:
        raise MediaError(error.kind, path, error.message) from error
