"""Opinions of single pictures, behind `ImageScorer`: clarity and beauty.

MUSIQ and the two LAION heads score what people said of photographs, and their weights are a
user's own. The light form of clarity is NIQE (`s2v.evals.encoders.embedded`); beauty has none,
because no open network for it comes in a package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from s2v.datapipe.base.embedded.net import one_torch_thread
from s2v.evals.encoders import Image, ImageEmbedder, Vectors, pixels
from s2v.evals.encoders.nets.musiq import MUSIQ
from s2v.evals.encoders.torch_files import fill, read_state

LONGEST: Final = 512
"""Larger frames are shrunk to this before MUSIQ, as VBench does."""


class MusiqQuality:
    """MUSIQ on frames of at most 512 pixels, 0 to 100 with the SPAQ weights.

    Args:
        path: IQA-PyTorch's checkpoint or one like it; loaded strictly and at once.
        net: another layout of it, for tests of the code around it.

    Raises:
        EvalError: a damaged file, or another architecture's.
    """

    def __init__(self, path: Path, net: MUSIQ | None = None) -> None:
        self.id = f"musiq-{path.name}"
        self._net: Any = fill(net or MUSIQ(), read_state(path, below="params"), path)

    def score(self, images: Sequence[Image]) -> Vectors:
        """(N,) float32."""
        with torch.inference_mode(), one_torch_thread():
            found = [float(self._net(musiq_pixels(image))[0, 0]) for image in images]
        return np.asarray(found, np.float32)


def musiq_pixels(image: Image) -> torch.Tensor:
    """RGB uint8 (H, W, 3) -> [1, 3, h, w] in [0, 1], at most 512 long; never enlarged."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= LONGEST:
        return pixels.as_tensor(image) / 255
    size = int(height * LONGEST / longer), int(width * LONGEST / longer)
    return pixels.resized(image, size, mode="bilinear") / 255


def linear_head() -> nn.Module:
    """LAION's ``sa_0_4_vit_l_14_linear``: VBench's aesthetic quality."""
    return nn.Linear(768, 1)


class MlpHead(nn.Module):
    """The improved aesthetic predictor, without an activation between its layers: OpenS2V's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(768, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 768] of unit length -> [N, 1]."""
        y: torch.Tensor = self.layers(x)
        return y


class AestheticHead:
    """A head over CLIP ViT-L/14: about 1 to 10.

    Args:
        tower: gives unit vectors of 768 numbers; its preprocessing is part of the protocol.
        path: of the head's state dict; loaded strictly.
        head: the architecture.

    Raises:
        EvalError: a damaged file, or another architecture's.
    """

    def __init__(self, tower: ImageEmbedder, path: Path, head: nn.Module) -> None:
        self.id = f"{path.name}-on-{tower.id}"
        self._tower = tower
        self._head: Any = fill(head, read_state(path), path)

    def score(self, images: Sequence[Image]) -> Vectors:
        """(N,) float32."""
        with torch.inference_mode(), one_torch_thread():
            vectors = torch.from_numpy(self._tower.embed(images))
            return np.asarray(self._head(vectors)[:, 0].numpy(), np.float32)
