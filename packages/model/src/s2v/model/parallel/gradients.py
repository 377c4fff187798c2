"""The norm of all gradients, clipping, and whether a step counts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients down to a global L2 norm of at most ``most``.

    Args:
        parameters: whole, or this process's share of each; those without gradient do not count.
        most: ``optim.clip``.

    Returns:
        The norm before, 0-dim, on the device of the gradients: the same number on every process,
        so that all judge a step alike. Nothing waits for the device.
    """
    trained = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(trained, most, norm)
    return norm


class Verdicts:
    """Steps whose norm is not finite, counted on the device.

    Attributes:
        skipped: so far, 0-dim float32.
        row: how many of them came last, one after the other.
        worst: the longest such row since :meth:`read`.
    """

    def __init__(self, device: torch.device, skipped: int = 0, row: int = 0) -> None:
        self.skipped = torch.tensor(float(skipped), device=device)
        self.row = torch.tensor(float(row), device=device)
        self.worst = self.row.clone()

    def judge(self, norm: Tensor) -> Tensor:
        """1.0 for a step that must not count, else 0.0; 0-dim, on the device."""
        bad = (~torch.isfinite(norm)).float()
        self.skipped += bad
        self.row = (self.row + bad) * bad
        self.worst = torch.maximum(self.worst, self.row)
        return bad

    def read(self) -> tuple[int, int, int]:
        """``(skipped, row, worst)`` on the host; ``worst`` starts anew. Waits for the device."""
        skipped, row, worst = (int(n) for n in torch.stack([self.skipped, self.row, self.worst]))
        self.worst = self.row.clone()
        return skipped, row, worst
