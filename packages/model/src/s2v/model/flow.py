"""Rectified flow: a straight line from data to noise, and the loss on the video's part of it.

``x_t = (1 - t) x_0 + t eps``, target ``eps - x_0`` (paper, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from s2v.model.config import FlowConfig
from s2v.model.rng import Key, generator, normal
from s2v.model.solver import shifted


def shift_of(config: FlowConfig, tokens: int) -> float:
    """The shift for clips of so many video tokens, by ``flow.shift_rule``."""
    if config.shift_rule == "const":
        return config.shift
    if config.shift_rule == "sqrt":
        return config.shift * math.sqrt(tokens / config.base_tokens)
    (a, b), (low, high) = config.exp_tokens, config.exp_mu
    return math.exp(low + (high - low) * (tokens - a) / (b - a))


def noise_levels(
    config: FlowConfig, seed: int, keys: Sequence[Key], tokens: int | None = None
) -> Tensor:
    """One level per sample, ``[B]`` in [0, 1], a function of seed and key only.

    Args:
        config: distribution and shift.
        seed: of the run.
        keys: of the samples.
        tokens: video tokens per sample; only rules that look at it need it.

    Raises:
        ValueError: the rule needs ``tokens`` and they are not given.
    """
    levels = []
    for key in keys:
        random = generator(seed, *key, "level")
        if config.distribution == "logit_normal":
            levels.append(1 / (1 + np.exp(-(config.mean + config.std * random.standard_normal()))))
        elif config.distribution == "mode":
            u, m = random.random(), config.mode_scale
            levels.append(1 - u - m * (np.cos(np.pi / 2 * u) ** 2 - 1 + u))
        else:
            levels.append(random.random())
    if tokens is None and config.shift_rule != "const":
        raise ValueError(f"flow.shift_rule {config.shift_rule!r} needs the number of tokens")
    return shifted(
        torch.tensor(np.array(levels), dtype=torch.float32), shift_of(config, tokens or 0)
    )


def evenly(count: int) -> list[float]:
    """The levels ``(i + 0.5) / count``: every noise counts alike, and two recipes compare."""
    return [(i + 0.5) / count for i in range(count)]


def quantiles(config: FlowConfig, count: int, tokens: int | None = None) -> list[float]:
    """The levels that share the drawn ones out evenly: a mean over them is what training expects.

    Args:
        config: distribution and shift of :func:`noise_levels`.
        count: how many; the quantiles are ``(i + 0.5) / count``.
        tokens: as there.

    Returns:
        Ascending, in (0, 1).

    Raises:
        ValueError: as :func:`noise_levels`.
    """
    if tokens is None and config.shift_rule != "const":
        raise ValueError(f"flow.shift_rule {config.shift_rule!r} needs the number of tokens")
    shift = shift_of(config, tokens or 0)
    return [shifted(_quantile(config, p), shift) for p in evenly(count)]


def _quantile(config: FlowConfig, p: float) -> float:
    """Below which a share ``p`` of the levels lies, before the shift."""
    if config.distribution == "logit_normal":
        return 1 / (1 + math.exp(-NormalDist(config.mean, config.std).inv_cdf(p)))
    if config.distribution == "mode":
        u, m = 1 - p, config.mode_scale  # it falls with u
        return 1 - u - m * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)
    return p


def level_weights(config: FlowConfig, t: Tensor) -> Tensor:
    """Weights of the levels ``[B]``, by ``flow.weighting``.

    ``bell`` (DiffSynth) and ``cosmap`` (SD3, ``2 / (pi (1 - 2t + 2t^2))``) have mean 1 over
    uniform levels; ``linear`` (NVIDIA DFM) has not, and takes ``flow.shift``.
    """
    if config.weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))
    if config.weighting == "linear":
        return 1 + config.shift * t
    if config.weighting == "bell":
        mean = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5))
        return torch.exp(-2 * (t - 0.5).square()) / mean
    return torch.ones_like(t)


def noise(shape: tuple[int, ...], seed: int, keys: Sequence[Key]) -> Tensor:
    """Standard normal noise ``[B, *shape]``, a function of seed and key only."""
    return torch.stack([normal(shape, seed, *key, "noise") for key in keys])


def interpolate(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """``(1 - t) x_0 + t eps`` with ``t [B]`` over ``[B, ...]``."""
    t = t.reshape(-1, *([1] * (x0.dim() - 1)))
    return (1 - t) * x0 + t * eps


def video_loss(velocity: Tensor, x0: Tensor, eps: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error over the video's latent frames; the references' tail does not count.

    Args:
        velocity: ``[B, C, T + K, H, W]`` the network's output.
        x0: ``[B, C, T, H, W]`` clean latents.
        eps: ``[B, C, T, H, W]`` noise.
        mask: ``[B, T]`` bool, the latent frames a clip has; all where it is not given.

    Returns:
        ``[B]`` mean per sample, float32 (float64 where the inputs are).
    """
    T = x0.shape[2]
    dtype = torch.promote_types(x0.dtype, torch.float32)
    error = velocity[:, :, :T].to(dtype) - (eps.to(dtype) - x0.to(dtype))
    by_frame = error.square().mean(dim=(1, 3, 4))
    if mask is None:
        return by_frame.mean(dim=1)
    there = mask.to(dtype)
    # Chosen, not multiplied: what stands in a frame that is not there may be anything.
    return torch.where(mask, by_frame, 0).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def reduce(losses: Tensor, weights: Tensor, tokens: Tensor, reduction: str) -> Tensor:
    """One number of a batch, to be minimised.

    Args:
        losses: ``[B]`` mean per sample.
        weights: ``[B]`` of the noise levels.
        tokens: ``[B]`` video tokens per sample.
        reduction: ``sample`` counts samples alike, ``token`` counts tokens alike.
    """
    weighted = losses * weights
    if reduction == "sample":
        return weighted.mean()
    share = tokens.to(losses.dtype)
    return (weighted * share).sum() / share.sum()
