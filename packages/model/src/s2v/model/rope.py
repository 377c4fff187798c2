"""Rotary positions in three axes: time, height, width."""

from __future__ import annotations

import torch
from torch import Tensor


def default_axes(head: int) -> tuple[int, int, int]:
    """Share a head's width among (t, h, w) as Wan does: ``(d - 4*(d//6), 2*(d//6), 2*(d//6))``."""
    third = 2 * (head // 6)
    return head - 2 * third, third, third


def tables(positions: Tensor, axes: tuple[int, int, int], theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's angles.

    Args:
        positions: ``[..., S, 3]`` (t, h, w) positions.
        axes: even widths per axis; their sum is the head's width D.
        theta: base of the frequencies.

    Returns:
        ``(cos, sin)``, each ``[..., S, D/2]`` float32; computed in float64, because angles of
        late frames lose digits in float32.
    """
    angles = []
    for axis, width in enumerate(axes):
        powers = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
        angles.append(positions[..., axis, None].double() * theta**-powers)
    angle = torch.cat(angles, dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs ``(2i, 2i+1)`` of each head by their angles.

    Args:
        x: ``[..., H, S, D]``.
        cos: ``[..., 1, S, D/2]``.
        sin: as ``cos``.

    Returns:
        ``[..., H, S, D]`` in the type of ``x``; dot products between turned queries and keys
        depend on the difference of their positions only. Any order of axes will do, as long as
        ``cos`` broadcasts to the pairs.
    """
    if torch.compiler.is_compiling():  # a compiler joins these; alone, each is a pass over x
        even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:
        wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
        pairs = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)
