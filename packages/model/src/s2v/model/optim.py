"""AdamW, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from s2v.model.config import OptimConfig


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay on matrices only: norms, biases and embeddings keep their size."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up, then constant or cosine down to ``final_lr * lr`` at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (step - config.warmup) / max(1, steps - config.warmup))
    low = config.final_lr
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def state_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``<parameter>/<name>`` tensors."""
    out = {}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state[parameter].items():
            out[f"{name}/{key}"] = value
    return out


def load_state_tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of :func:`state_tensors`."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        of = parameters[parameter]
        optimiser.state[of][key] = tensor.to(of.device)


class Ema:
    """Exponential moving average; young averages forget faster (``(1 + n) / (10 + n)``)."""

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Move towards the weights after step number ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in parameters:
            self.weights[name].lerp_(p.detach(), 1 - decay)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved weights."""
        for name, own in self.weights.items():
            own.copy_(weights[name])
