"""What the PyTorch backends share: where they run, in which precision, and thin images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.roles import Image

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "float16", "bfloat16"]

#: Longer side over shorter side beyond which nets lose the shorter one altogether: resized to
#: their input it would have less than a pixel, or too few cells for their queries.
THINNEST: Final = 8.0

_GREY = (124, 116, 104)  # ImageNet's mean: zero after normalisation


def device(name: str, where: str) -> torch.device:
    """The device by name; ``auto`` takes the GPU that the worker was given, else the CPU.

    Raises:
        SettingsError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise SettingsError(
            f"{where}.device: {name!r} is no device; use 'auto', 'cpu', 'cuda' or 'cuda:0'"
        ) from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"{where}.device: {name!r}, but this worker sees no GPU; set {where}.gpus = 1, or "
            f"{where}.device = 'auto'"
        )
    return found


def computing(on: torch.device, dtype: Precision, where: str) -> AbstractContextManager[object]:
    """Context in which a net computes in ``dtype``; its weights stay float32.

    Raises:
        SettingsError: half precision on a CPU, which has no fast one.
    """
    import torch

    if dtype == "float32":
        return nullcontext()
    if on.type == "cpu" and dtype == "float16":
        raise SettingsError(
            f"{where}.dtype: float16 needs a GPU; on this CPU use 'float32' or 'bfloat16'"
        )
    return torch.autocast(on.type, dtype=getattr(torch, dtype))


def widen(image: Image) -> Image:
    """Pad a very thin image at its right or lower edge, so that nets see it at all.

    Coordinates do not move; whoever widens clips boxes and masks to the image's own size.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
    """
    height, width = image.shape[:2]
    least = int(np.ceil(max(height, width) / THINNEST))
    if min(height, width) >= least:
        return image
    padded = np.empty((max(height, least), max(width, least), 3), np.uint8)
    padded[...] = _GREY
    padded[:height, :width] = image
    return padded
