"""LoRA files: four ways of naming the same pairs of matrices.

Inside, an adapter is ``{module: (A, B)}`` by original module name, ``W + B A``, with any ``alpha``
already in B: of the four, only two can say an alpha, and a scale of one means the same in all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
from s2v.model.checkpoints.weights import Weights
from s2v.model.errors import ModelError

Adapter = dict[str, tuple[Tensor, Tensor]]

_NAME: Final = re.compile(
    r"^(?P<module>.+)\.(?:(?P<a>lora_A|lora_down)|(?P<b>lora_B|lora_up))(?:\.[\w-]+)?\.weight$"
)
#: Before the module's name: peft around our network, diffusers, ComfyUI.
_PREFIXES: Final = (
    "base_model.model.", "transformer.", "model.diffusion_model.", "diffusion_model.",
)  # fmt: skip
_KOHYA: Final = "lora_unet_"


def read_adapter(weights: Weights, modules: Mapping[str, tuple[int, int]]) -> Adapter:
    """An adapter under any of the four namings.

    Args:
        weights: the LoRA's file.
        modules: ``(out, in)`` of every linear module of the network, by original name.

    Raises:
        ModelError: names or shapes that the network does not have, or half a pair.
    """
    kohya = {_kohya(module): module for module in modules}
    halves: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    for name in weights.entries:
        match = _NAME.match(name)
        stem = match["module"] if match else name.removesuffix(".alpha")
        module = _module(stem, modules, kohya)
        if module is None or not (match or name.endswith(".alpha")):
            raise ModelError(f"{weights.path}: {name} fits no linear layer of this network")
        if match:
            halves.setdefault(module, {})["A" if match["a"] else "B"] = weights.read(name)
        else:
            alphas[module] = float(weights.read(name))
    adapter: Adapter = {}
    for module, pair in sorted(halves.items()):
        if pair.keys() != {"A", "B"}:
            raise ModelError(f"{weights.path}: {module} has one half of its pair only")
        a, b = pair["A"].float(), pair["B"].float()
        out, width = modules[module]
        if a.dim() != 2 or b.dim() != 2 or (b.shape[0], a.shape[1]) != (out, width):
            raise ModelError(f"{weights.path}: {module} is not a LoRA of a layer {width} -> {out}")
        if a.shape[0] != b.shape[1]:
            raise ModelError(f"{weights.path}: {module}: ranks {a.shape[0]} and {b.shape[1]}")
        adapter[module] = (a, b * (alphas.get(module, float(a.shape[0])) / a.shape[0]))
    if not adapter:
        raise ModelError(f"{weights.path}: no pair of LoRA matrices in it")
    return adapter


def _module(stem: str, modules: Mapping[str, object], kohya: Mapping[str, str]) -> str | None:
    if stem.startswith(_KOHYA):
        return kohya.get(stem)
    for prefix in _PREFIXES:
        stem = stem.removeprefix(prefix)
    if stem in modules:
        return stem
    back = WAN_DIFFUSERS.back(f"{stem}.weight")
    return (
        back.removesuffix(".weight") if back and back.removesuffix(".weight") in modules else None
    )


def to_peft(adapter: Adapter) -> dict[str, Tensor]:
    """What diffusers reads: ``transformer.blocks.0.attn1.to_q.lora_A.weight``."""
    out = {}
    for module, (a, b) in adapter.items():
        renamed = WAN_DIFFUSERS.there(f"{module}.weight")
        assert renamed is not None  # noqa: S101 - read_adapter and extract know only its modules
        stem = f"transformer.{renamed.removesuffix('.weight')}"
        out[f"{stem}.lora_A.weight"], out[f"{stem}.lora_B.weight"] = a, b
    return out


def to_kohya(adapter: Adapter) -> dict[str, Tensor]:
    """What ComfyUI and musubi-tuner read: ``lora_unet_blocks_0_self_attn_q.lora_down.weight``."""
    out = {}
    for module, (a, b) in adapter.items():
        stem = _kohya(module)
        out[f"{stem}.lora_down.weight"], out[f"{stem}.lora_up.weight"] = a, b
        out[f"{stem}.alpha"] = torch.tensor(float(a.shape[0]))
    return out


def _kohya(module: str) -> str:
    return _KOHYA + module.replace(".", "_")
