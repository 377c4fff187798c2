"""Latents to tokens and back; where each token sits in time, height and width."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut latents into tokens, in order time, height, width.

    Args:
        x: ``[B, C, T, H, W]``.
        patch: ``(pt, ph, pw)``; must divide ``T, H, W``.

    Returns:
        ``[B, (T/pt)(H/ph)(W/pw), pt*ph*pw*C]``.
    """
    B, C, T, H, W = x.shape
    pt, ph, pw = patch
    x = x.reshape(B, C, T // pt, pt, H // ph, ph, W // pw, pw)
    return x.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(B, -1, pt * ph * pw * C)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """Inverse of :func:`patchify`.

    Args:
        tokens: ``[B, t*h*w, pt*ph*pw*C]``.
        grid: ``(t, h, w)`` in tokens.
        patch: ``(pt, ph, pw)``.

    Returns:
        ``[B, C, t*pt, h*ph, w*pw]``.
    """
    t, h, w = grid
    pt, ph, pw = patch
    B = tokens.shape[0]
    x = tokens.reshape(B, t, h, w, pt, ph, pw, -1)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(B, -1, t * pt, h * ph, w * pw)


def grid_positions(slots: Tensor, h: int, w: int) -> Tensor:
    """Positions of the tokens of frames that stand at the given places in time.

    Args:
        slots: ``[..., n]`` time position of each latent frame.
        h: tokens per column.
        w: tokens per row.

    Returns:
        ``[..., n*h*w, 3]`` integer (t, h, w) positions.
    """
    lead = slots.shape
    t = slots[..., :, None, None].expand(*lead, h, w)
    y = torch.arange(h, device=slots.device)[:, None].expand(*lead, h, w)
    x = torch.arange(w, device=slots.device)[None, :].expand(*lead, h, w)
    return torch.stack([t, y, x], dim=-1).reshape(*lead[:-1], lead[-1] * h * w, 3)
