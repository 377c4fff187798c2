"""IR-101, the backbone of CurricularFace (Huang et al. 2020, arXiv 2004.00288).

An improved residual network: batch norm before each convolution pair, PReLU between them, strides
in the second convolution, a 512-d linear head over the 7 x 7 map. Module names are those of the
released checkpoints, which this class therefore loads strictly.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

STAGES: Final = ((64, 3), (128, 13), (256, 30), (512, 3))
SIDE: Final = 112


class Block(nn.Module):
    """Residual block; its shortcut is a projection only where the width changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        if width_in == width:
            # A 1 x 1 pooling is plain subsampling, and has no weights to load.
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, 1, 1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        y: torch.Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return y


class IR101(nn.Module):
    """[B, 3, 112, 112] in [-1, 1], RGB -> [B, 512], not normalised.

    Args:
        stages: (width, blocks) of each; the default is the published network.
        dim: of the embedding.
    """

    def __init__(self, stages: tuple[tuple[int, int], ...] = STAGES, dim: int = 512) -> None:
        super().__init__()
        width = stages[0][0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        blocks = []
        for wide, count in stages:
            for n in range(count):
                blocks.append(Block(width, wide, 2 if n == 0 else 1))
                width = wide
        self.body = nn.Sequential(*blocks)
        side = SIDE // 2 ** len(stages)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(width * side * side, dim),
            nn.BatchNorm1d(dim, affine=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The embedding of aligned faces."""
        y: torch.Tensor = self.output_layer(self.body(self.input_layer(x)))
        return y
