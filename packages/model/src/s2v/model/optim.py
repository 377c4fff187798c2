"""AdamW, its learning rate, and the moving average of the weights.

Parameters may be shared out among processes (DTensor): every state is then this process's share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from s2v.model.config import OptimConfig
from s2v.model.config_tune import GroupConfig, TuneConfig
from s2v.model.errors import ModelError


def adamw(
    model: nn.Module, config: OptimConfig, tune: TuneConfig | None = None
) -> torch.optim.AdamW:
    """Over what learns; weight decay on matrices only: norms and biases keep their size.

    Args:
        model: its parameters, whole or shared out.
        config: of the optimiser.
        tune: learning rates of single groups of parameters.

    Raises:
        ModelError: a pattern of ``tune.groups`` matches nothing that learns.
    """
    groups = () if tune is None else tune.groups
    sorted_out: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    unmatched = {group.match for group in groups}
    for name, p in model.named_parameters():
        if p.requires_grad:
            group = _group(name, groups)
            unmatched.discard(group.match)
            sorted_out.setdefault((group.lr, p.dim() >= 2), []).append(p)
    if unmatched:
        raise ModelError(f"tune.groups: {sorted(unmatched)} match no parameter that learns")
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if matrices else 0.0,
                "factor": factor,
            }
            for (factor, matrices), parameters in sorted_out.items()
            if parameters
        ],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )


def _group(name: str, groups: Iterable[GroupConfig]) -> GroupConfig:
    """The first that matches; else the group of all others."""
    return next((g for g in groups if fnmatchcase(name, g.match)), GroupConfig(match=""))


def step(optimiser: torch.optim.Optimizer, lr: float, bad: Tensor) -> None:
    """One step of the optimiser, or none where ``bad`` is 1.

    The device decides: the fused kernels leave weights, moments and their count as they are, and
    the host waits for nothing (it is how gradient scaling skips steps).

    Args:
        optimiser: fused.
        lr: of the step, times each group's factor.
        bad: 0-dim, 0.0 or 1.0, on the device.
    """
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]
    optimiser.found_inf = bad  # type: ignore[attr-defined]  # read by the fused step
    optimiser.step()


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
        for key, value in optimiser.state.get(parameter, {}).items():
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
    """Exponential moving average; young averages forget faster (``(1 + n) / (10 + n)``).

    Attributes:
        weights: float32, by name; shared out as the parameters are.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in parameters}

    @torch.no_grad()
    def update(
        self, parameters: Iterable[tuple[str, Tensor]], step: int, bad: Tensor | None = None
    ) -> None:
        """Move towards the weights after step number ``step``; not where ``bad`` is 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, p in parameters:
            if p.requires_grad:
                own = local(self.weights[name])
                weight = share if bad is None else ((1 - bad) * share).to(own.dtype)
                own.lerp_(local(p.detach()), weight)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over saved weights."""
        for name, own in self.weights.items():
            own.copy_(weights[name])


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be shared out; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's share, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
