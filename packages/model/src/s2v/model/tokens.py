"""Latents to tokens and back; where each token sits in time, height and width."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Placement:
    """Where references stand, ``network.reference_position`` and ``reference_offset``."""

    kind: str = "slot"
    offset: int = 0

    def positions(
        self, slots: Tensor, seats: Tensor, ranks: Tensor, frames: int, grid: tuple[int, int]
    ) -> Tensor:
        """Positions of the tokens of frames and references as they sit in attention.

        Args:
            slots: ``[..., n]`` place inside the window, counted from 0.
            seats: ``[..., n]`` index of the video's frame; what references have is not used.
            ranks: ``[..., n]`` 0, 1, ... for the references a sample has, -1 for video frames.
            frames: T, latent frames of the video.
            grid: ``(h, w)`` tokens of a latent frame.

        Returns:
            ``[..., n*h*w, 3]`` integer (t, h, w) positions.
        """
        h, w = grid
        if self.kind == "slot":
            return grid_positions(slots, h, w)
        times = {
            "tail": frames + ranks,
            "offset": frames + self.offset + ranks,
            "negative": -1 - ranks,
            "spatial-offset": torch.full_like(ranks, -1),
        }[self.kind]
        is_reference = ranks >= 0
        out = grid_positions(torch.where(is_reference, times, seats), h, w)
        if self.kind == "spatial-offset":
            # Past the video's own grid, one grid per reference, along the diagonal.
            steps = torch.where(is_reference, ranks + 1, 0).repeat_interleave(h * w, dim=-1)
            out = out + torch.stack([torch.zeros_like(steps), steps * h, steps * w], dim=-1)
        return out
