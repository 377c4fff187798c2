"""Pictures as they travel: JPEG in a data address, shrunk, and back to our pixels."""

from __future__ import annotations

import base64
from functools import cache

import numpy as np

from s2v.datapipe.base.media.images import encode_jpeg, resize
from s2v.datapipe.roles import Image


def shrink(image: Image, longest: int) -> Image:
    """Scale down so that no side is longer; never up.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        longest: pixels.
    """
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    return resize(image, (max(1, round(width * factor)), max(1, round(height * factor))))


def to_grid(image: Image, longest: int, step: int) -> Image:
    """Scale so that both sides are multiples of ``step`` and none is longer than ``longest``.

    Qwen-VL's own processor scales every picture to such sizes, and its boxes count in the pixels
    of that; a picture that has such a size already is left alone, so that the boxes are in its own.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        longest: pixels, rounded down to a multiple of ``step``.
        step: pixels of a token's side: 28 for Qwen2-VL and 2.5, 32 for 3.
    """
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    most = max(1, longest // step)
    across = min(most, max(1, round(width * factor / step)))
    down = min(most, max(1, round(height * factor / step)))
    return resize(image, (across * step, down * step))


def jpeg_url(image: Image, quality: int) -> str:
    """A picture as JPEG in a ``data:`` address; the same pixels give the same characters."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(image, quality)).decode()}"


@cache
def grey_url() -> str:
    """64 x 64 grey pixels, to see whether a server can look at anything."""
    return jpeg_url(np.full((64, 64, 3), 128, np.uint8), 50)
