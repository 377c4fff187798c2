"""What of a network is trained: all of it, its attention, or LoRA pairs beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from torch import Tensor, nn

from s2v.model import lora
from s2v.model.config_tune import TuneConfig
from s2v.model.errors import ModelError

#: Projections and norms of attention, in both networks.
ATTENTION: Final = (
    "blocks.*_attn.*",
    "double_blocks.*.qkv.*", "double_blocks.*.out.*", "double_blocks.*.norm.*",
    # The MLP's first layer is joined with the projections; its last with the way out.
    "single_blocks.*.into.*", "single_blocks.*.out.*", "single_blocks.*.norm.*",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One line of the table of parameters.

    Attributes:
        name: with ``*`` for the number of a block.
        tensors: how many.
        parameters: in them.
        trained: of these.
    """

    name: str
    tensors: int
    parameters: int
    trained: int


def apply(model: nn.Module, config: TuneConfig) -> list[str]:
    """Freeze what is not trained; add the LoRA's pairs.

    Returns:
        The layers that got a pair.

    Raises:
        ModelError: a pattern matches nothing, or nothing is left to train.
    """
    layers = []
    if config.kind == "lora":
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        layers = lora.add(model, config.targets, config.rank, config.alpha)
    elif config.kind == "attention":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(name, p) for p in ATTENTION))
    for pattern in config.freeze:
        names = [n for n, _ in model.named_parameters() if fnmatchcase(n, pattern)]
        if not names:
            raise ModelError(f"tune.freeze {pattern!r}: matches no parameter of this network")
        for name in names:
            model.get_parameter(name).requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(f"tune.kind {config.kind!r}, tune.freeze {list(config.freeze)}: "
                         "leave nothing to train")  # fmt: skip
    return layers


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def table(model: nn.Module) -> list[Part]:
    """The network's parts with the numbers of their parameters, blocks of a kind together."""
    parts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        stem = ".".join("*" if x.isdecimal() else x for x in name.split(".")[:-1]) or name
        line = parts.setdefault(stem, [0, 0, 0])
        line[0] += 1
        line[1] += parameter.numel()
        line[2] += parameter.numel() if parameter.requires_grad else 0
    return [Part(name, *numbers) for name, numbers in parts.items()]


def told(parts: list[Part]) -> str:
    """The table as lines: what is trained of what."""
    total, learns = sum(p.parameters for p in parts), sum(p.trained for p in parts)
    width = max(len(p.name) for p in parts)
    rows = [
        f"  {p.name:<{width}}  {p.tensors:>5}  {p.parameters:>14,}  {p.trained:>14,}" for p in parts
    ]
    head = f"  {'part':<{width}}  {'':>5}  {'parameters':>14}  {'trained':>14}"
    share = 100 * learns / total
    tail = f"  {'all':<{width}}  {'':>5}  {total:>14,}  {learns:>14,}  ({share:.2f} %)"
    return "\n".join([head, *rows, tail])


def plain(weights: Mapping[str, Tensor], config: TuneConfig) -> dict[str, Tensor]:
    """The weights of the plain network: with a LoRA's pairs added to what they stand beside."""
    if config.kind != "lora":
        return dict(weights)
    return lora.merged(weights, config.alpha / config.rank)
