"""MUSIQ, a multi-scale image quality transformer (Ke et al. 2021, arXiv 2108.05997).

A picture is cut into patches of 32 pixels at its own size and at two smaller ones. A small
residual stem turns each patch into a token, which is told its scale and its place on a grid of
ten by ten cells; the class token of a transformer gives the opinion. Module names are those of
the checkpoints of IQA-PyTorch, which VBench's imaging quality uses, loaded strictly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.nn import functional

PATCH: Final = 32
LONGER_SIDES: Final = (224, 384)


@dataclass(frozen=True)
class Layout:
    """Sizes; the defaults are the published network's.

    Attributes:
        stem: channels of the stem, a multiple of 32.
        width: of a token.
        hidden: of the feed-forward layers.
        heads: of attention.
        layers: of the transformer.
        grid: cells each way of the position table.
    """

    stem: int = 64
    width: int = 384
    hidden: int = 1152
    heads: int = 6
    layers: int = 14
    grid: int = 10


def same(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's SAME padding with zeros, the odd pixel below and to the right."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        missing = (math.ceil(size / stride) - 1) * stride + kernel - size
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(x, pads)


class StdConv(nn.Conv2d):
    """A convolution whose kernels are standardised, with SAME padding and no bias."""

    def __init__(self, wide_in: int, wide: int, kernel: int, stride: int = 1) -> None:
        super().__init__(wide_in, wide, kernel, stride, bias=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        padded = same(input, self.kernel_size[0], self.stride[0])
        return functional.conv2d(padded, w, None, self.stride)


class Bottleneck(nn.Module):
    """Residual block of the stem."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.conv1, self.gn1 = StdConv(width, width, 1), nn.GroupNorm(32, width, eps=1e-4)
        self.conv2, self.gn2 = StdConv(width, width, 3), nn.GroupNorm(32, width, eps=1e-4)
        self.conv3, self.gn3 = StdConv(width, wide, 1), nn.GroupNorm(32, wide, eps=1e-4)
        self.conv_proj, self.gn_proj = StdConv(width, wide, 1), nn.GroupNorm(32, wide, eps=1e-4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C', H, W]."""
        y = functional.relu(self.gn1(self.conv1(x)))
        y = functional.relu(self.gn2(self.conv2(y)))
        return functional.relu(self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x)))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens of one picture."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, N, C] -> [1, N, C]."""
        batch, n, width = x.shape
        q, k, v = (
            part(x).reshape(batch, n, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        z: torch.Tensor = self.out(y.transpose(1, 2).reshape(batch, n, width))
        return z


class Feed(nn.Module):
    """Two layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C] -> [..., C]."""
        y: torch.Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(layout.width, eps=1e-6)
        self.attention = Attention(layout.width, layout.heads)
        self.norm2 = nn.LayerNorm(layout.width, eps=1e-6)
        self.mlp = Feed(layout.width, layout.hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[1, N, C] -> [1, N, C]."""
        x = x + self.attention(self.norm1(x))
        y: torch.Tensor = x + self.mlp(self.norm2(x))
        return y


class Places(nn.Module):
    """One vector per cell of the position grid."""

    def __init__(self, cells: int, width: int) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, cells, width))


class Scales(nn.Module):
    """One vector per scale."""

    def __init__(self, scales: int, width: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(scales, width))


class Encoder(nn.Module):
    """Tokens with their places and scales -> the class token."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.posembed_input = Places(layout.grid**2, layout.width)
        self.scaleembed_input = Scales(len(LONGER_SIDES) + 1, layout.width)
        self.cls = nn.Parameter(torch.zeros(1, 1, layout.width))
        self.encoder_norm = nn.LayerNorm(layout.width, eps=1e-6)
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": Block(layout) for i in range(layout.layers)}
        )

    def forward(self, x: torch.Tensor, places: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """[1, N, C], (N,), (N,) -> [1, C]."""
        x = (
            x
            + self.posembed_input.position_emb[0, places]
            + self.scaleembed_input.scale_emb[scales]
        )
        x = torch.cat([self.cls, x], dim=1)
        for block in self.transformer.values():
            x = block(x)
        y: torch.Tensor = self.encoder_norm(x)[:, 0]
        return y


def places_of(rows: int, columns: int, grid: int) -> torch.Tensor:
    """(rows * columns,) cell of each patch: its place on a grid of fixed size."""

    def along(count: int) -> torch.Tensor:
        line = torch.arange(grid).float().reshape(1, 1, grid)
        return functional.interpolate(line, count, mode="nearest").reshape(-1).long()

    return (along(rows)[:, None] * grid + along(columns)[None]).reshape(-1)


class MUSIQ(nn.Module):
    """One picture -> its quality, 0 to 100 with the SPAQ weights.

    The original pads the two smaller scales to a fixed number of tokens and masks them out of
    attention; leaving them away gives the class token the same answer.

    Args:
        layout: sizes.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        stem = self.layout.stem
        self.conv_root = StdConv(3, stem, 7, 2)
        self.gn_root = nn.GroupNorm(32, stem, eps=1e-6)
        self.block1 = Bottleneck(stem, stem * 4)
        self.embedding = nn.Linear(stem * 4 * (PATCH // 4) ** 2, self.layout.width)
        self.transformer_encoder = Encoder(self.layout)
        self.head = nn.Linear(self.layout.width, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[1, 3, H, W] in [0, 1] -> [1, 1]."""
        image = (image - 0.5) * 2
        height, width = image.shape[-2:]
        pictures = [
            functional.interpolate(
                image,
                (
                    round(height * side / max(height, width)),
                    round(width * side / max(height, width)),
                ),
                mode="bicubic",
            )
            for side in LONGER_SIDES
        ]
        patches, places, scales = [], [], []
        for scale, picture in enumerate([*pictures, image]):
            rows, columns = (math.ceil(n / PATCH) for n in picture.shape[-2:])
            cut = functional.unfold(same(picture, PATCH, PATCH), PATCH, stride=PATCH)
            patches.append(cut[0].T.reshape(-1, 3, PATCH, PATCH))
            places.append(places_of(rows, columns, self.layout.grid))
            scales.append(torch.full((rows * columns,), scale))
        x = functional.relu(self.gn_root(self.conv_root(torch.cat(patches))))
        x = functional.max_pool2d(same(x, 3, 2), 3, 2)
        x = self.block1(x).permute(0, 2, 3, 1)
        tokens = self.embedding(x.reshape(1, x.shape[0], -1))
        y: torch.Tensor = self.head(
            self.transformer_encoder(tokens, torch.cat(places), torch.cat(scales))
        )
        return y
