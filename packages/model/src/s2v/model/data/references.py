"""A reference image in its three forms, and brought to the video's size.

The released code fits a reference into the video's frame, centres it and pads with white; a
stretched reference loses its identity. Paper, figure 14, shows the same padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from s2v.datapipe.base.media import images
from s2v.datapipe.base.media.errors import MediaError
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Form = Literal["crop", "white", "masked"]
FORMS: Final[tuple[Form, ...]] = ("crop", "white", "masked")
PAD: Final = {"white": 255, "grey": 128, "black": 0}


@dataclass(frozen=True)
class Reference:
    """A decoded reference.

    Attributes:
        crop: ``[h, w, 3]``.
        mask: ``[h, w]`` or None.
        where: its name in errors.
        flips: False for persons and faces, which are never mirrored on their own.
    """

    crop: Pixels
    mask: Mask | None
    where: str
    flips: bool = True


def decode_image(data: bytes, where: str) -> Pixels:
    """Decode one image to RGB ``[h, w, 3]``; ``where`` names it in errors.

    Raises:
        ModelError: not an image, a broken one, or one too large.
    """
    try:
        return np.asarray(images.load_image(data), dtype=np.uint8)
    except MediaError as error:
        raise ModelError(f"{where}: {error.kind.value}: {error.message}") from None


def decode_mask(data: bytes, where: str) -> Mask:
    """Decode a mask PNG to bool ``[h, w]``; ``where`` names it in errors.

    Raises:
        ModelError: not a one-channel PNG of 0 and 255.
    """
    try:
        return np.asarray(images.decode_png_mask(data), dtype=np.bool_)
    except MediaError as error:
        raise ModelError(f"{where}: {error.kind.value}: {error.message}") from None


def forms(reference: Reference) -> dict[Form, Pixels]:
    """The forms that can be made.

    Returns:
        ``crop`` as it is, ``white`` with everything but the subject white, ``masked`` the same
        cut tight to the subject. Only ``crop`` without a mask.

    Raises:
        ModelError: the mask has another size or is empty.
    """
    crop, inside, where = reference.crop, reference.mask, reference.where
    out: dict[Form, Pixels] = {"crop": crop}
    if inside is None:
        return out
    if inside.shape != crop.shape[:2]:
        raise ModelError(f"{where}: mask is {inside.shape}, its crop {crop.shape[:2]}")
    if not inside.any():
        raise ModelError(f"{where}: the mask is empty")
    out["white"] = np.where(inside[..., None], crop, np.uint8(255))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    out["masked"] = out["white"][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return out


def fit_and_pad(image: Pixels, size: tuple[int, int], pad: str) -> Pixels:
    """Scale to fit inside ``(H, W)`` keeping the aspect (Lanczos), centre, pad.

    The release's arithmetic to the pixel: the free side is cut down, not rounded, and an odd
    margin has its larger half below or on the right.

    Args:
        image: ``[h, w, 3]``.
        size: ``(H, W)``.
        pad: ``white``, ``grey`` or ``black``.
    """
    H, W = size
    h, w = image.shape[:2]
    ratio = w / h
    to = (W, int(W / ratio)) if ratio > W / H else (int(H * ratio), H)
    to = (max(1, to[0]), max(1, to[1]))  # a sliver is kept; the release fails on it
    scaled = np.asarray(Image.fromarray(image).resize(to, Image.Resampling.LANCZOS))
    out = np.full((H, W, 3), PAD[pad], np.uint8)
    top, left = (H - to[1]) // 2, (W - to[0]) // 2
    out[top : top + to[1], left : left + to[0]] = scaled
    return out
