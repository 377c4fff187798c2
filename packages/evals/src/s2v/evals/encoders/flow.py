"""RAFT behind `FlowEstimator` (Teed and Deng 2020, arXiv 2003.12039)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from s2v.datapipe.base.embedded.net import one_torch_thread, require
from s2v.evals.encoders import Image, Vectors
from s2v.evals.encoders.pixels import as_tensor
from s2v.evals.encoders.torch_files import fill, read_state

UPDATES: Final = 20
SMALLEST: Final = 128
"""torchvision's RAFT needs maps of 16 cells each way."""


class RaftFlow:
    """torchvision's RAFT large with 20 updates, as VBench runs the original.

    ``raft_large_C_T_V1`` holds the very weights of the authors' ``raft-things``.

    Args:
        path: torchvision's state dict; loaded strictly and at once.
        net: another layout of it, for tests of the code around it.

    Raises:
        EvalError: a damaged file, or another architecture's.
    """

    def __init__(self, path: Path, net: torch.nn.Module | None = None) -> None:
        self.id = f"raft-{path.name}"
        twin = net or require("torchvision.models.optical_flow").raft_large(weights=None)
        self._net: Any = fill(twin, read_state(path), path)

    def flow(self, first: Image, second: Image) -> Vectors:
        """(H, W, 2) pixels of the given frames."""
        height, width = first.shape[:2]
        pair = [as_tensor(frame) / 255 * 2 - 1 for frame in (first, second)]
        # Edges are repeated to a multiple of eight, half of it on each side.
        pads = []
        for size in (width, height):
            missing = max(SMALLEST - size, -size % 8)
            pads += [missing // 2, missing - missing // 2]
        left, _, top, _ = pads
        padded = [functional.pad(frame, pads, mode="replicate") for frame in pair]
        with torch.inference_mode(), one_torch_thread():
            found = self._net(*padded, num_flow_updates=UPDATES)[-1][0]
        cut = found[:, top : top + height, left : left + width]
        return np.ascontiguousarray(cut.permute(1, 2, 0).numpy(), np.float32)
