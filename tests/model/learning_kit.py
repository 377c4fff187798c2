"""Small networks that learn one step, for tests of what is wrapped around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2v.model import optim
from s2v.model.conditioning import Condition
from s2v.model.mmdit import Widths

WIDTHS = Widths(16, 64, 12)
WAN = (
    "network.kind=wan", "wan.width=48", "wan.heads=2", "wan.ffn=96", "wan.layers=3",
    "wan.text_width=64", "wan.text_tokens=48",
)  # fmt: skip
PAPER = ("network.window=3", "network.double_layers=2", "network.single_layers=2")


def inputs(frames: int = 5, size: int = 4) -> tuple[Tensor, Tensor, Condition]:
    """Noisy latents, levels and a condition of two samples, one reference short."""
    random = torch.Generator().manual_seed(1)
    k, n, words = 2, 3, 6
    mask = torch.tensor([[True, True], [True, False]])
    condition = Condition(
        torch.randn(2, words, 64, generator=random),
        torch.tensor([[True] * words, [True] * 4 + [False] * 2]),
        torch.randn(2, 16, k, size, size, generator=random),
        mask,
        torch.randn(2, k, n, 12, generator=random),
        mask.clone(),
    )
    return (
        torch.randn(2, 16, frames, size, size, generator=random),
        torch.tensor([0.3, 0.9]),
        condition,
    )


def lively(model: nn.Module) -> nn.Module:
    """Fresh networks give zeros: move every weight a little."""
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            local = optim.local(p.data)  # of one process: all of it
            local.add_(0.05 * torch.randn(local.shape, generator=random))
    return model


def learned(model: nn.Module, frames: int = 5) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one forward and backward."""
    model.zero_grad(set_to_none=True)
    out: Tensor = model(*inputs(frames))
    out.square().mean().backward()  # type: ignore[no-untyped-call]
    return out.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
