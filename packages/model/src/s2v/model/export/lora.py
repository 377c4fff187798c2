"""A LoRA for diffusers and for ComfyUI, from a LoRA file or from two whole networks.

A full fine-tune becomes a LoRA by the leading singular vectors of what changed in each linear
layer. That leaves something out, which is measured and written into the card: the share of the
change that the rank does not hold, and the change of everything that is no linear layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from s2v.model.checkpoints.identify import LORA, identify
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.weights import Weights, open_weights
from s2v.model.checkpoints.writing import Stored, write_file
from s2v.model.errors import ModelError
from s2v.model.export import parity
from s2v.model.export.lora_keys import Adapter, read_adapter, to_kohya, to_peft
from s2v.model.export.source import Source, metadata, open_source
from s2v.model.wan import WanModel

PEFT_FILE: Final = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
KOHYA_FILE: Final = "phantom_wan_lora_comfyui.safetensors"
_OVERSAMPLE: Final = 8
_POWER: Final = 4


@dataclass(frozen=True)
class Extracted:
    """An adapter and what it does not hold.

    Attributes:
        adapter: by module.
        left: relative L2 of what the rank leaves out, over all linear layers; 0 for a LoRA file.
        other: relative L2 of the change in tensors that are no linear layer's matrix.
    """

    adapter: Adapter
    left: float
    other: float


def from_source(
    path: Path, base: Source, rank: int, *, ema: bool
) -> tuple[Extracted, dict[str, Any]]:
    """The adapter that turns ``base`` into what lies at ``path``, and its provenance.

    Args:
        path: a LoRA file, or a run, checkpoint or network of the same shape as ``base``.
        base: what the LoRA is added to.
        rank: of the pairs where they are extracted.
        ema: the moving average of a run.

    Raises:
        ModelError: another network's, or nothing that changed.
    """
    lora = _lora_file(path)
    if lora is not None:
        adapter = read_adapter(lora, linear_modules(base))
        return Extracted(adapter, 0.0, 0.0), {"files": _digest(lora), "model": "a LoRA"}
    tuned = open_source(path, ema=ema, heads=base.config.heads)
    shapes = {n: tuned.weights.entries[p.source].shape for n, p in tuned.pieces.items()}
    if shapes != {n: base.weights.entries[p.source].shape for n, p in base.pieces.items()}:
        raise ModelError(f"{path}: is not of the shapes of --base {base.weights.path}")
    return extract(tuned, base, rank), dict(tuned.facts)


def _lora_file(path: Path) -> Weights | None:
    if path.is_dir():
        return None
    weights = open_weights(path)
    return weights if identify(weights).kind == LORA else None


def _digest(weights: Weights) -> dict[str, str]:
    from s2v.model.checkpoints.writing import digests

    return digests(weights.files)


def linear_modules(source: Source) -> dict[str, tuple[int, int]]:
    """``(out, in)`` of every linear layer, by original name."""
    with torch.device("meta"):
        model = WanModel(source.config)
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def extract(tuned: Source, base: Source, rank: int) -> Extracted:
    """The best adapter of a rank, module by module, one in memory at a time.

    Raises:
        ModelError: no linear layer changed.
    """
    modules = linear_modules(base)
    adapter: Adapter = {}
    change = left = other = other_base = 0.0
    for name in sorted(base.pieces):
        before = base.weights.read(base.pieces[name].source).float()
        delta = tuned.weights.read(tuned.pieces[name].source).float() - before
        size = float(delta.double().square().sum())
        module = name.removesuffix(".weight")
        if module not in modules or name == module:
            other += size
            other_base += float(before.double().square().sum())
        elif size:
            a, b = factors(delta, rank)
            adapter[module] = (a, b)
            change += size
            left += float((delta - b @ a).double().square().sum())
    if not adapter:
        raise ModelError(f"{tuned.weights.path}: no linear layer differs from --base")
    return Extracted(
        adapter, round((left / change) ** 0.5, 6), round((other / max(other_base, 1e-30)) ** 0.5, 6)
    )


def factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``A [r, in], B [out, r]`` with ``B A`` close to the best of that rank.

    Randomised range finding with power iterations: a full decomposition of a layer of the 14B
    takes minutes, this seconds. The same matrix gives the same factors.
    """
    r = min(rank, *delta.shape)
    random = torch.Generator().manual_seed(0)
    k = min(r + _OVERSAMPLE, *delta.shape)
    q = torch.linalg.qr(delta @ torch.randn(delta.shape[1], k, generator=random)).Q
    for _ in range(_POWER):
        q = torch.linalg.qr(delta @ torch.linalg.qr(delta.T @ q).Q).Q
    u, s, v = torch.linalg.svd(q.T @ delta, full_matrices=False)
    root = s[:r].sqrt()
    return (root[:, None] * v[:r]).contiguous(), ((q @ u[:, :r]) * root).contiguous()


def write_lora(found: Extracted, base: Source, out: Path, dtype: str | None) -> None:
    """Both files."""
    header = {
        "format": "pt",
        **{k: v for k, v in metadata(base.config, "lora").items() if k == "s2v"},
    }
    for file, tensors in (
        (PEFT_FILE, to_peft(found.adapter)),
        (KOHYA_FILE, to_kohya(found.adapter)),
    ):
        stored = {
            n: Stored(Entry(dtype or "float32", tuple(t.shape)), lambda t=t: t)  # type: ignore[misc]  # a lambda's default is untyped
            for n, t in tensors.items()
        }
        write_file(out / file, stored, header)


def check(base: Source, folder: Path) -> dict[str, Any]:
    """Load both files by the stock loaders and compare with the weights added by hand.

    Returns:
        ``{"modules", "rel_l2", "effect", "against"}``; ``effect`` is how far the LoRA moves the
        output, which must be more than nothing for the comparison to mean anything.

    Raises:
        ModelError: peft or diffusers is missing, or an output differs.
    """
    try:
        import peft  # noqa: F401 - diffusers needs it to load a LoRA
        from diffusers.loaders import WanLoraLoaderMixin
    except ImportError as error:
        raise ModelError(f"the parity check needs peft and diffusers ({error})") from None
    modules = linear_modules(base)
    written = {f: read_adapter(open_weights(folder / f), modules) for f in (PEFT_FILE, KOHYA_FILE)}
    one, two = written.values()
    if one.keys() != two.keys() or any(
        not torch.equal(x, y) for m in one for x, y in zip(one[m], two[m], strict=True)
    ):
        raise ModelError(f"{folder.name}: the two LoRA files differ; nothing is exported")
    model = base.model(None, rope_precision="float64")
    without = parity.run_ours(model, base.config)
    merge(model, one)
    ours = parity.run_ours(model, base.config)
    del model
    worst = 0.0
    for file in _loadable(one, modules):
        stock = _stock_base(base)
        mapped = open_weights(folder / file)
        given = {n: mapped.read(n) for n in mapped.entries}
        try:
            keys = WanLoraLoaderMixin.lora_state_dict(given)
            stock.load_lora_adapter(keys, prefix="transformer", adapter_name="exported")
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{file}: diffusers does not load it ({error})") from None
        worst = max(worst, parity.compare(stock, base.config, ours))
    if worst > parity.TOLERANCE:
        raise ModelError(
            f"{folder.name}: diffusers with this LoRA gives another output than merged weights "
            f"(relative L2 {worst:.2e}, at most {parity.TOLERANCE:.0e}); nothing is exported"
        )
    effect = max(float((ours[k] - without[k]).norm() / without[k].norm()) for k in ours)
    return {"modules": len(one), "rel_l2": worst, "effect": effect, "against": "load_lora_adapter"}


@torch.no_grad()
def merge(model: WanModel, adapter: Adapter) -> None:
    """Add an adapter to a network's weights."""
    for module, (a, b) in adapter.items():
        weight = model.get_submodule(module).weight
        assert isinstance(weight, nn.Parameter)  # noqa: S101 - linear_modules said so
        weight.data = weight.data + b.to(weight) @ a.to(weight)


def _loadable(adapter: Adapter, modules: dict[str, tuple[int, int]]) -> list[str]:
    """diffusers' converter of kohya's names wants every linear layer of every block."""
    whole = all(m in adapter for m in modules if m.startswith("blocks."))
    only = all(m.startswith("blocks.") for m in adapter)
    return [PEFT_FILE, KOHYA_FILE] if whole and only else [PEFT_FILE]


def _stock_base(base: Source) -> Any:
    from diffusers import WanTransformer3DModel

    from s2v.model.checkpoints.keymaps import WAN_DIFFUSERS
    from s2v.model.export.layouts import diffusers_config

    config = {k: v for k, v in diffusers_config(base.config).items() if k[0] != "_"}
    with torch.no_grad():
        stock = WanTransformer3DModel(**config)
        tensors = {
            str(WAN_DIFFUSERS.there(n)): base.weights.read(p.source).float()
            for n, p in base.pieces.items()
        }
        stock.load_state_dict(tensors, strict=True, assign=True)
    return stock.eval()
