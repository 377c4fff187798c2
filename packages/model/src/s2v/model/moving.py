"""From the host to a GPU without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``; the host goes on while a GPU copies.

    A copy from ordinary memory makes the host wait until the GPU has done all that it was given
    before, so that it has nothing to do when the copy ends. From pinned memory it need not;
    torch keeps the pinned pages until the copy is done.
    """
    if device.type == "cuda" and x.device.type == "cpu" and torch.cuda.is_available():
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
