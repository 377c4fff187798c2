"""Small networks of the paper's kind with drawn weights, and what they are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from s2v.model.attention import Layout
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.mmdit import MMDiT, Widths

C, H, W, WORDS = 4, 4, 6, 5
POSITIONS = ("slot", "tail", "offset", "negative", "spatial-offset")


def drawn_network(widths: Widths = Widths(C, 10, 12), **options: Any) -> MMDiT:  # noqa: B008
    """In float64, every weight drawn: a fresh one says zero."""
    torch.manual_seed(3)
    sizes = {"width": 24, "heads": 2, "double_layers": 2, "single_layers": 2}
    model = MMDiT(NetworkConfig(**{**sizes, **options}), widths).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def drawn_condition(batch: int, count: int, present: list[int] | None = None) -> Condition:
    """Of ``batch`` samples, the b-th with ``present[b]`` of ``count`` references."""
    torch.manual_seed(5)
    there = torch.ones(batch, count, dtype=torch.bool)
    for b, n in enumerate(present or [count] * batch):
        there[b, n:] = False
    words = torch.ones(batch, WORDS, dtype=torch.bool)
    words[0, 3:] = False
    return Condition(
        text=torch.randn(batch, WORDS, 10).double(),
        text_mask=words,
        references=torch.randn(batch, C, count, H, W).double(),
        reference_mask=there,
        image=torch.randn(batch, count, 3, 12).double(),
        image_mask=there.clone(),
    )


def drawn_video(batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Noisy latents ``[B, C, T, H, W]`` and their levels."""
    torch.manual_seed(7)
    return torch.randn(batch, C, frames, H, W).double(), torch.rand(batch).double()


def in_double(where: Layout) -> Layout:
    """A layout for attention in float64."""
    return replace(where, cos=where.cos.double(), sin=where.sin.double())
