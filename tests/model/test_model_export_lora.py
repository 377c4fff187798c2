"""A LoRA from us adds the same to the stock network as to ours, under both namings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2v.model.errors import ModelError
from s2v.model.export import lora
from s2v.model.export.lora import KOHYA_FILE, PEFT_FILE
from s2v.model.export.run import export
from s2v.model.wan import WanModel

KINDS = ("self_attn", "cross_attn")
ATTENTION = [f"blocks.{i}.{kind}.{n}" for i in range(2) for kind in KINDS for n in "qkvo"]


@pytest.fixture
def base(wan: Callable[..., WanModel], tmp_path: Path) -> Path:
    path = tmp_path / "base.safetensors"
    save_file(wan().state_dict(), path)
    return path


def pairs(modules: list[str], model: WanModel, rank: int = 3) -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(5)
    out = {}
    for name in modules:
        layer = model.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=random) * 0.2
        b = torch.randn(layer.out_features, rank, generator=random) * 0.2
        out[name] = (a, b)
    return out


def test_a_lora_trained_by_peft_on_our_network_loads_in_diffusers(
    base: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    """peft wraps, peft names; its alpha is in what we write; the stock loader reads it."""
    from diffusers import WanTransformer3DModel
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q", "k", "v", "o", "ffn.0", "ffn.2"])
    wrapped = get_peft_model(wan(), config)
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    state = {k: v.clone() for k, v in get_peft_model_state_dict(wrapped).items()}
    alphas = {f"{k.split('.lora_A')[0]}.alpha": torch.tensor(8.0) for k in state if "lora_A" in k}
    save_file(state | alphas, tmp_path / "adapter.safetensors")
    made = export(tmp_path / "adapter.safetensors", "lora", tmp_path / "out", base=base, heads=2)
    assert made.parity["rel_l2"] < 1e-5
    assert made.parity["effect"] > 0.01
    assert made.parity["modules"] == 2 * 10
    written = load_file(made.out / PEFT_FILE)
    assert "transformer.blocks.0.attn1.to_q.lora_A.weight" in written
    kohya = load_file(made.out / KOHYA_FILE)
    assert float(kohya["lora_unet_blocks_1_ffn_2.alpha"]) == 4.0
    # Independent of our check: peft's own product against the stock class with the stock loader.
    folder = export(base, "diffusers", tmp_path / "stock", heads=2).out
    stock = WanTransformer3DModel.from_pretrained(folder / "transformer", local_files_only=True)
    stock.load_lora_adapter(made.out / PEFT_FILE, prefix="transformer")
    stock.fuse_lora()
    for ours, theirs in (("self_attn.q", "attn1.to_q"), ("cross_attn.o", "attn2.to_out.0")):
        got = stock.get_submodule(f"blocks.1.{theirs}").base_layer.weight
        layer = wrapped.base_model.model.get_submodule(f"blocks.1.{ours}")
        expected = layer.base_layer.weight + layer.get_delta_weight("default")
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("naming", ["original", "comfyui", "kohya", "diffusers"])
def test_every_naming_is_read_and_gives_the_same_files(
    naming: str, base: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    given = {}
    for name, (a, b) in pairs(ATTENTION, wan()).items():
        if naming == "kohya":
            stem = "lora_unet_" + name.replace(".", "_")
            given |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b,
                      f"{stem}.alpha": torch.tensor(3.0)}  # fmt: skip
        elif naming == "diffusers":
            stem = "transformer." + name.replace("self_attn.", "attn1.to_").replace(
                "cross_attn.", "attn2.to_"
            )
            stem = stem.replace("to_o", "to_out.0")
            given |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        else:
            stem = ("diffusion_model." if naming == "comfyui" else "") + name
            given |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
    save_file(given, tmp_path / "given.safetensors")
    made = export(tmp_path / "given.safetensors", "lora", tmp_path / "out", base=base, heads=2)
    written = load_file(made.out / PEFT_FILE)
    for name, (a, b) in pairs(ATTENTION, wan()).items():
        stem = name.replace("self_attn.o", "attn1.to_out.0")
        stem = stem.replace("cross_attn.o", "attn2.to_out.0")
        stem = stem.replace("self_attn.", "attn1.to_").replace("cross_attn.", "attn2.to_")
        assert torch.equal(written[f"transformer.{stem}.lora_A.weight"], a)
        assert torch.equal(written[f"transformer.{stem}.lora_B.weight"], b)


def test_a_full_fine_tune_of_low_rank_is_extracted_whole(
    base: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    tuned = wan()
    modules = lora.linear_modules(lora.open_source(base, heads=2))
    assert len(modules) == 2 * 10 + 6  # blocks; text, time, its projection, head
    for name, (a, b) in pairs(sorted(modules), tuned).items():
        tuned.get_submodule(name).weight.data += b @ a
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    arguments = {"base": base, "heads": 2}
    whole = export(tmp_path / "tuned.safetensors", "lora", tmp_path / "a", rank=3, **arguments)
    assert whole.facts["left_out_by_rank"] < 1e-5
    assert whole.facts["left_out_elsewhere"] == 0.0
    assert whole.parity["rel_l2"] < 1e-5
    poorer = export(tmp_path / "tuned.safetensors", "lora", tmp_path / "b", rank=1, **arguments)
    assert 0.1 < poorer.facts["left_out_by_rank"] < 1.0
    told = json.loads((poorer.out / "provenance.json").read_text())["source"]
    assert told["left_out_by_rank"] == poorer.facts["left_out_by_rank"]
    assert set(told["base"]["files"]) == {"base.safetensors"}
    again = export(tmp_path / "tuned.safetensors", "lora", tmp_path / "c", rank=1, **arguments)
    assert again.files == poorer.files


def test_the_factors_are_close_to_the_best_of_their_rank() -> None:
    delta = torch.randn(60, 40, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    for rank in (1, 8, 40, 99):
        a, b = lora.factors(delta, rank)
        best = delta - (u[:, :rank] * s[:rank]) @ v[:rank]
        assert (delta - b @ a).norm() <= 1.02 * best.norm() + 1e-4
        assert a.shape[0] == min(rank, 40)


def test_a_change_that_a_lora_cannot_hold_is_measured(
    base: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    tuned = wan()
    tuned.blocks[0].self_attn.q.weight.data[0] += 1
    tuned.blocks[0].norm3.weight.data += 0.5
    save_file(tuned.state_dict(), tmp_path / "tuned.safetensors")
    made = export(
        tmp_path / "tuned.safetensors", "lora", tmp_path / "out", base=base, heads=2, rank=2
    )
    assert made.facts["left_out_elsewhere"] > 0.01
    assert made.parity["modules"] == 1


def test_what_is_no_lora_of_this_network_is_refused(
    base: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    def fails(tensors: dict[str, Tensor]) -> str:
        save_file(tensors, tmp_path / "given.safetensors")
        with pytest.raises(ModelError) as error:
            export(tmp_path / "given.safetensors", "lora", tmp_path / "out", base=base, heads=2)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    name = "blocks.0.self_attn.q.lora_"
    a = torch.zeros(2, 24)
    assert "fits no linear layer" in fails({"blocks.7.self_attn.q.lora_A.weight": a})
    assert "one half of its pair" in fails({f"{name}A.weight": a})
    assert "not a LoRA of a layer 24 -> 24" in fails(
        {f"{name}A.weight": a, f"{name}B.weight": a.clone()}
    )
    assert "ranks 2 and 3" in fails({f"{name}A.weight": a, f"{name}B.weight": torch.zeros(24, 3)})
    assert "no linear layer differs" in fails(wan().state_dict())
    wider = wan(ffn=48).state_dict()
    assert "not of the shapes of --base" in fails(wider)
