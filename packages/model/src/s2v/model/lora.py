"""Small matrices beside linear layers: ``W x + (alpha / rank) B A x`` (Hu et al., 2106.09685).

Names are peft's (``<layer>.lora_A.weight``), so that :mod:`s2v.model.export.lora` reads them. B
starts at zero: the first output is the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from s2v.datapipe.base.atomic import write_bytes
from s2v.model.errors import ModelError
from s2v.model.rng import generator


class LoraLinear(nn.Linear):
    """A linear layer with a pair of matrices beside it.

    Its own weight and bias keep their names and do not learn. Made by :func:`add`, from a layer.
    """

    lora_A: nn.Linear  # noqa: N815 - peft's names
    lora_B: nn.Linear  # noqa: N815
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` -> ``[..., out]``."""
        beside: Tensor = self.lora_B(self.lora_A(x))
        return F.linear(x, self.weight, self.bias) + self.scale * beside


def add(model: nn.Module, targets: Iterable[str], rank: int, alpha: float) -> list[str]:
    """Give the linear layers that ``targets`` match their pairs; returns their names.

    The first matrices are drawn by the layer's name alone, so any start draws the same.

    Raises:
        ModelError: no layer matches.
    """
    patterns = list(targets)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and any(fnmatchcase(name, p) for p in patterns)
    ]
    if not found:
        raise ModelError(
            f"tune.targets {patterns}: no linear layer matches; names are such as "
            "blocks.0.self_attn.q or double_blocks.0.vision.qkv"
        )
    for _, layer in found:
        like = layer.weight
        with torch.device("meta"):  # filled below, or by who fills the whole network
            down = nn.Linear(layer.in_features, rank, bias=False, dtype=like.dtype)
            up = nn.Linear(rank, layer.out_features, bias=False, dtype=like.dtype)
        layer.__class__ = LoraLinear
        assert isinstance(layer, LoraLinear)  # noqa: S101 - since the line above
        layer.scale = alpha / rank
        layer.lora_A = down.to_empty(device=like.device)
        layer.lora_B = up.to_empty(device=like.device)
    names = [name for name, _ in found]
    if not found[0][1].weight.is_meta:
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in fresh(names, model).items():
                parameters[name].copy_(value)
    return names


def fresh(names: Iterable[str], model: nn.Module) -> dict[str, Tensor]:
    """First values of the pairs of layers, as peft draws them: A uniform, B zero."""
    out = {}
    for name in names:
        a, b = (model.get_parameter(f"{name}.lora_{x}.weight") for x in "AB")
        bound = 1 / math.sqrt(a.shape[1])
        drawn = generator(0, name, "lora").uniform(-bound, bound, tuple(a.shape))
        out[f"{name}.lora_A.weight"] = torch.from_numpy(drawn).float()
        out[f"{name}.lora_B.weight"] = torch.zeros(tuple(b.shape))
    return out


def adapter(weights: Mapping[str, Tensor], scale: float) -> dict[str, tuple[Tensor, Tensor]]:
    """``{layer: (A, B)}`` with ``W + B A``: the scale is in B, as the export wants it."""
    suffix = ".lora_A.weight"
    layers = [name.removesuffix(suffix) for name in weights if name.endswith(suffix)]
    return {
        name: (weights[f"{name}{suffix}"], scale * weights[f"{name}.lora_B.weight"])
        for name in layers
    }


def merged(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights of the plain network that computes the same."""
    pairs = adapter(weights, scale)
    out = {n: w for n, w in weights.items() if ".lora_A." not in n and ".lora_B." not in n}
    for name, (a, b) in pairs.items():
        weight = out[f"{name}.weight"]
        out[f"{name}.weight"] = weight + b.to(weight) @ a.to(weight)
    return out


def write(path: Path, weights: Mapping[str, Tensor], scale: float, *, peft: bool) -> None:
    """The pairs alone, as a file that ``s2v-model export`` and, with ``peft``, diffusers read.

    Args:
        path: ``.safetensors``.
        weights: of the tuned network, whole tensors.
        scale: alpha / rank.
        peft: name them as diffusers does; a network of Wan's names only.
    """
    pairs = adapter(weights, scale)
    if peft:
        from s2v.model.export.lora_keys import to_peft

        named = to_peft(pairs)
    else:
        named = {f"{n}.lora_{x}.weight": t for n, p in pairs.items() for x, t in zip("AB", p)}  # noqa: B905 - two of each
    write_bytes(path, save({n: t.detach().cpu().contiguous() for n, t in named.items()}))
