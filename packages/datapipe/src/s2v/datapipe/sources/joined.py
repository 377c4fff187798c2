"""A part of a joined picture, cut without loss; runs in a child process of the media room."""

from __future__ import annotations

import io

from PIL import Image

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.images import load_image


def crop_png(path: str, box: tuple[int, int, int, int]) -> bytes:
    """PNG of a part of a picture.

    Args:
        path: a local picture.
        box: ``x, y, width, height`` in pixels of the picture as it is meant to be seen.

    Raises:
        MediaError: ``corrupt`` when the part leads out of the picture, or the picture's own.
    """
    picture = load_image(path)
    x, y, width, height = box
    if x + width > picture.shape[1] or y + height > picture.shape[0]:
        raise MediaError(
            MediaErrorKind.CORRUPT,
            path,
            f"the part xywh={x},{y},{width},{height} leads out of its "
            f"{picture.shape[1]}x{picture.shape[0]} pixels",
        )
    buffer = io.BytesIO()
    Image.fromarray(picture[y : y + height, x : x + width]).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
