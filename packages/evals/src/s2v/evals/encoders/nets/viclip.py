"""ViCLIP (InternVid, arXiv 2307.06942): one vector for eight frames, one for a text.

The vision tower is CLIP's with space-time attention: every patch of every frame is a token, a
learned offset tells the frames apart, and one class token looks at all of them. The text tower is
CLIP's with a context of 32 tokens. Module names are those of the released checkpoint
(``ViClip-InternVid-10M-FLT.pth``), which these classes therefore load strictly.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Layout:
    """Sizes; the defaults are ViCLIP-L/14's.

    Attributes:
        side: pixels of a frame.
        patch: pixels of a patch.
        frames: of a video.
        vision_width: of a vision token.
        vision_layers: blocks.
        vision_heads: per block.
        text_width: of a text token.
        text_layers: blocks.
        text_heads: per block.
        vocabulary: tokens.
        context: tokens of a text.
        dim: of both embeddings.
    """

    side: int = 224
    patch: int = 14
    frames: int = 8
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 49408
    context: int = 32
    dim: int = 768


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm attention and MLP; tokens first, batch second."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, width * 4),
                gelu=QuickGELU(),
                c_proj=nn.Linear(width * 4, width),
            )
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[L, B, C] -> [L, B, C]; ``mask`` [L, L] is added to the attention."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        z: torch.Tensor = x + self.mlp(self.ln_2(x))
        return z


class Transformer(nn.Module):
    """Blocks one after another."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """[L, B, C] -> [L, B, C]."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Vision(nn.Module):
    """[B, 3, T, H, W] -> [B, dim], not normalised."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width, patch = layout.vision_width, layout.patch
        step = (1, patch, patch)
        self.conv1 = nn.Conv3d(3, width, step, step, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        grid = (layout.side // patch) ** 2
        self.positional_embedding = nn.Parameter(torch.zeros(grid + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, layout.frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layout.vision_layers, layout.vision_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, layout.dim))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """No token is masked: the released code drops 90 % of them unless told to test."""
        x = self.conv1(video).flatten(3).permute(0, 3, 2, 1)  # [B, N, T, C]
        x = x + self.positional_embedding[1:, None] + self.temporal_positional_embedding
        first = (self.class_embedding + self.positional_embedding[0]).expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x.flatten(1, 2)], dim=1))
        x = self.transformer(x.transpose(0, 1))
        return torch.as_tensor(self.ln_post(x[0]) @ self.proj)


class Text(nn.Module):
    """[B, context] token ids -> [B, dim], read off at the end token, not normalised."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width = layout.text_width
        self.token_embedding = nn.Embedding(layout.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(layout.context, width))
        self.transformer = Transformer(width, layout.text_layers, layout.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, layout.dim))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The end token has the highest id, so it is where the ids are largest."""
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x.transpose(0, 1), mask).transpose(0, 1))
        end = x[torch.arange(x.shape[0]), tokens.argmax(dim=-1)]
        return torch.as_tensor(end @ self.text_projection)


class ViCLIP(nn.Module):
    """Both towers and the learned temperature."""

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        self.vision_encoder = Vision(self.layout)
        self.text_encoder = Text(self.layout)
        self.temp = nn.Parameter(torch.tensor(0.01))
