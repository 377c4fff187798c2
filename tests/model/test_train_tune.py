"""Training a part: what learns, what stays, and what a LoRA is afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from s2v.model import lora, networks, optim, tune
from s2v.model.checkpoints.weights import open_weights
from s2v.model.config import Config
from s2v.model.config_tune import GroupConfig, TuneConfig
from s2v.model.errors import ModelError

sys.path.insert(0, str(Path(__file__).parent))

from learning_kit import PAPER, WAN, WIDTHS, inputs, learned, lively


def test_a_lora_merged_computes_what_it_computed_beside(tiny: Callable[..., Config]) -> None:
    config = tiny(*WAN, "tune.kind=lora", "tune.rank=3", "tune.alpha=5")
    torch.manual_seed(0)
    model = lively(networks.build(config, WIDTHS))
    before, _ = learned(model)
    layers = tune.apply(model, config.tune)
    assert torch.equal(learned(model)[0], before)  # B is zero at first
    _, grads = learned(model)
    assert set(grads) == {f"{n}.lora_{x}.weight" for n in layers for x in "AB"}
    assert len(layers) == 3 * 10  # q k v o twice, two of the MLP, in three blocks
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.3)
    beside = learned(model)[0]
    assert not torch.allclose(beside, before, atol=1e-3)
    plain = networks.build(config, WIDTHS)
    plain.load_state_dict(tune.plain(model.state_dict(), config.tune))
    assert torch.allclose(plain(*inputs()), beside, atol=1e-5)


def test_a_loras_pairs_are_what_the_export_reads(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from s2v.model.export.lora_keys import read_adapter, to_peft

    config = tiny(*WAN, "tune.kind=lora", "tune.rank=3", "tune.alpha=5")
    model = networks.build(config, WIDTHS)
    layers = tune.apply(model, config.tune)
    lively(model)
    pairs = lora.adapter(model.state_dict(), 5 / 3)
    save_file({n: t.contiguous() for n, t in to_peft(pairs).items()}, tmp_path / "l.safetensors")
    shapes = {
        n: (m.out_features, m.in_features)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and "lora" not in n
    }
    read = read_adapter(open_weights(tmp_path / "l.safetensors"), shapes)
    assert sorted(read) == sorted(layers)
    assert all(torch.equal(read[n][0], pairs[n][0]) for n in read)
    assert all(torch.equal(read[n][1], pairs[n][1]) for n in read)


@pytest.mark.parametrize("kind", [PAPER, WAN], ids=["paper", "wan"])
def test_attention_alone_learns_attention_alone(
    tiny: Callable[..., Config], kind: tuple[str, ...]
) -> None:
    model = networks.build(tiny(*kind), WIDTHS)
    tune.apply(model, TuneConfig(kind="attention"))
    names = set(tune.trained(model))
    assert names
    assert not [n for n in names if "mlp" in n or "ffn" in n or "modulation" in n or "head" in n]
    parts = tune.table(model)
    assert sum(p.parameters for p in parts) == sum(p.numel() for p in model.parameters())
    assert sum(p.trained for p in parts) == sum(p.numel() for p in tune.trained(model).values())
    assert "(" in tune.told(parts).splitlines()[-1]


def test_frozen_and_faster_groups_are_what_they_say(tiny: Callable[..., Config]) -> None:
    config = tiny(*WAN, "wan.image_width=12")
    model = networks.build(config, WIDTHS)
    told = TuneConfig(
        freeze=("patch_embedding.*",), groups=(GroupConfig(match="img_emb.*", lr=5.0),)
    )
    tune.apply(model, told)
    optimiser = optim.adamw(model, config.optim, told)
    optim.step(optimiser, 0.01, torch.zeros(()))
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    assert id(model.get_parameter("patch_embedding.weight")) not in rates
    assert rates[id(model.get_parameter("img_emb.proj.1.weight"))] == pytest.approx(0.05)
    assert rates[id(model.get_parameter("head.head.weight"))] == pytest.approx(0.01)
    with pytest.raises(ModelError, match=r"tune\.groups.*nothing\.\*"):
        optim.adamw(model, config.optim, TuneConfig(groups=(GroupConfig(match="nothing.*"),)))
    with pytest.raises(ModelError, match=r"tune\.freeze 'nothing\.\*'"):
        tune.apply(model, TuneConfig(freeze=("nothing.*",)))
    with pytest.raises(ModelError, match="nothing to train"):
        tune.apply(model, TuneConfig(freeze=("*",)))
    with pytest.raises(ModelError, match=r"tune\.targets.*blocks\.0\.self_attn\.q"):
        tune.apply(model, TuneConfig(kind="lora", targets=("layers.*",)))
