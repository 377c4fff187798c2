"""Perceptual hash for near copies: 64 bits that survive re-encoding and scaling.

The same bits as ``imagehash.phash`` (a test compares them), computed here because the base of
the product does not depend on imagehash.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

_SIDE = 32
_LOW = 8
# OpenCV scales the first row and column by sqrt(1/2) against the plain transform.
_UNSCALED = np.array([np.sqrt(2)] + [1.0] * (_LOW - 1))


def perceptual_hash(image: np.ndarray) -> str:
    """Hash an image by the signs of its low frequencies around their median.

    Args:
        image: uint8 ``(H, W, 3)`` RGB or ``(H, W)`` grey.

    Returns:
        16 hex digits, most significant bit first, row by row of the 8x8 lowest frequencies.
    """
    return _bits(_small(image))


def perceptual_hashes(image: np.ndarray) -> tuple[str, str]:
    """The hash of an image and of its mirror image, left to right, at little more than one's cost.

    Args:
        image: uint8 ``(H, W, 3)`` RGB or ``(H, W)`` grey.
    """
    small = _small(image)
    return _bits(small), _bits(small[:, ::-1])


def _small(image: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(grey, np.float64)


def _bits(small: np.ndarray) -> str:
    spectrum = cv2.dct(np.ascontiguousarray(small))
    low = np.asarray(spectrum)[:_LOW, :_LOW] * np.outer(_UNSCALED, _UNSCALED)
    bits = (low > np.median(low)).ravel()
    return np.packbits(bits).tobytes().hex()


def hamming(a: str, b: str) -> int:
    """Bits in which two hashes differ, 0 to 64.

    Raises:
        ValueError: not two hashes of 16 hex digits.
    """
    if len(a) != 16 or len(b) != 16:
        raise ValueError(f"perceptual hashes have 16 hex digits: {a!r}, {b!r}")
    return (int(a, 16) ^ int(b, 16)).bit_count()
