"""Rectified flow: a straight line from data to noise, and the loss on the video's part of it.

``x_t = (1 - t) x_0 + t eps``, target ``eps - x_0`` (paper, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from s2v.model.config import FlowConfig
from s2v.model.rng import Key, generator, normal


def shifted(t: Tensor, shift: float) -> Tensor:
    """``s t / (1 + (s - 1) t)``: more of the levels near noise for ``s > 1``."""
    return shift * t / (1 + (shift - 1) * t)


def noise_levels(config: FlowConfig, seed: int, keys: Sequence[Key]) -> Tensor:
    """One level per sample, ``[B]`` in (0, 1), a function of seed and key only."""
    levels = []
    for key in keys:
        random = generator(seed, *key, "level")
        if config.distribution == "uniform":
            levels.append(random.random())
        else:
            levels.append(1 / (1 + np.exp(-(config.mean + config.std * random.standard_normal()))))
    return shifted(torch.tensor(np.array(levels), dtype=torch.float32), config.shift)


def noise(shape: tuple[int, ...], seed: int, keys: Sequence[Key]) -> Tensor:
    """Standard normal noise ``[B, *shape]``, a function of seed and key only."""
    return torch.stack([normal(shape, seed, *key, "noise") for key in keys])


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """``(1 - t) x_0 + t eps`` with ``t [B]`` over ``[B, ...]``."""
    t = t.reshape(-1, *([1] * (x0.dim() - 1)))
    return (1 - t) * x0 + t * eps


def video_loss(velocity: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """Squared error over the video's latent frames; the references' tail does not count.

    Args:
        velocity: ``[B, C, T + K, H, W]`` the network's output.
        x0: ``[B, C, T, H, W]`` clean latents.
        eps: ``[B, C, T, H, W]`` noise.

    Returns:
        ``[B]`` float32 mean per sample.
    """
    T = x0.shape[2]
    error = velocity[:, :, :T].float() - (eps.float() - x0.float())
    return error.square().flatten(1).mean(dim=1)


def euler_levels(steps: int, shift: float) -> list[float]:
    """``steps + 1`` levels from 1 to 0, shifted."""
    return [float(t) for t in shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)]
