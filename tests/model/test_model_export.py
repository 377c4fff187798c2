"""What is exported loads with the stock class, or nothing is left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from s2v.datapipe.base.atomic import sha256_file
from s2v.model import checkpoint
from s2v.model.checkpoint import Checkpoint
from s2v.model.checkpoints.loading import load_wan
from s2v.model.cli import main
from s2v.model.errors import ModelError
from s2v.model.export import layouts
from s2v.model.export.run import export
from s2v.model.wan import WanModel


@pytest.fixture
def source(wan: Callable[..., WanModel], tmp_path: Path) -> Path:
    path = tmp_path / "Phantom-Wan-1.3B.pth"
    torch.save(wan().state_dict(), path)
    return path


def equal(path: Path, model: WanModel, **options: object) -> bool:
    got = load_wan(path, heads=2, **options).state_dict()
    return all(torch.equal(got[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("to", ["original", "comfyui", "diffusers"])
@pytest.mark.parametrize("shard_bytes", [0, 20_000])
def test_every_layout_goes_round_and_is_checked_by_diffusers(
    to: str, shard_bytes: int, source: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    made = export(source, to, tmp_path / "out", heads=2, shard_bytes=shard_bytes)
    assert made.parity["rel_l2"] < 1e-5
    assert made.parity["tensors"] == len(wan().state_dict())
    assert made.parity["against"] == "WanTransformer3DModel"
    assert equal(made.out, wan())
    assert {n: sha256_file(made.out / n) for n in made.files} == made.files
    assert (len(made.files) > 2) == (shard_bytes > 0 and to != "comfyui")
    again = export(made.out, "original", tmp_path / "again")  # heads stand in what we wrote
    assert equal(again.out, wan())
    provenance = json.loads((made.out / "provenance.json").read_text())
    assert provenance["source"]["files"] == {source.name: sha256_file(source)}
    card = (made.out / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert sha256_file(source) in card
    assert f"{made.parity['rel_l2']:.1e}" in card
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_the_transformer_folder_loads_strictly_where_nothing_of_ours_is(
    source: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    from diffusers import WanTransformer3DModel

    out = export(source, "diffusers", tmp_path / "out", heads=2).out
    stock, told = WanTransformer3DModel.from_pretrained(
        out / "transformer", output_loading_info=True, local_files_only=True
    )
    assert not any(told.values())
    assert sum(p.numel() for p in stock.parameters()) == sum(p.numel() for p in wan().parameters())
    names = {p.name for p in out.iterdir()}
    assert names == {"README.md", "model_index.json", "pipeline.py", "provenance.json",
                     "scheduler", "transformer"}  # fmt: skip


@pytest.mark.parametrize("to", ["original", "comfyui", "diffusers"])
@pytest.mark.parametrize("positions", [None, 6])
def test_networks_with_image_tokens_are_exported_too(
    to: str, positions: int | None, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    # The stock attention splits text from image at 512 rows.
    model = wan(image_width=10, image_positions=positions, text_tokens=512)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    made = export(tmp_path / "w.safetensors", to, tmp_path / "out", heads=2)
    assert made.parity["rel_l2"] < 1e-5
    assert equal(made.out, model)
    assert not (made.out / "pipeline.py").exists()


@pytest.mark.parametrize(("short", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_types_are_rounded_once(
    short: str, kind: torch.dtype, source: Path, wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    made = export(source, "comfyui", tmp_path / "out", dtype=short, heads=2)
    written = load_file(made.out / layouts.COMFY_FILE)
    for name, tensor in wan().state_dict().items():
        assert torch.equal(written[f"model.diffusion_model.{name}"], tensor.to(kind))
    assert made.parity["rel_l2"] < 1e-5


def test_the_same_source_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    one = export(source, "diffusers", tmp_path / "one", heads=2, shard_bytes=20_000)
    two = export(source, "diffusers", tmp_path / "two", heads=2, shard_bytes=20_000)
    assert one.files == two.files
    assert (one.out / "README.md").read_bytes() == (two.out / "README.md").read_bytes()


@pytest.mark.parametrize("damage", ["value", "name", "config"])
def test_a_wrong_export_is_refused_and_leaves_nothing(
    damage: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is of what lies on the disk: a fault of the writer does not pass it."""
    right = layouts.write_transformer

    def wrong(*arguments: object) -> None:
        right(*arguments)  # type: ignore[arg-type]
        folder = arguments[1]
        assert isinstance(folder, Path)
        file, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
        if damage == "config":
            config.write_text(config.read_text().replace('"eps": 1e-06', '"eps": 1e-02'))
            return
        tensors = load_file(file)
        if damage == "value":
            tensors["proj_out.bias"][0] += 1e-3
        else:
            tensors["blocks.0.norm9.weight"] = tensors.pop("blocks.0.norm2.weight")
        save_file(tensors, file)

    monkeypatch.setattr(layouts, "write_transformer", wrong)
    told = {"value": "proj_out|head.head.bias was not written", "name": "one of source and export",
            "config": "another output than our network"}  # fmt: skip
    with pytest.raises(ModelError, match=told[damage]):
        export(source, "diffusers", tmp_path / "out", heads=2)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def saved(model: WanModel, ema: WanModel, folder: Path) -> Path:
    about = {"network": {"kind": "wan", **model.config.model_dump(mode="json")}}
    parts = {"model": model.state_dict(), "ema": ema.state_dict(), "optim": {}}
    return checkpoint.save(
        folder / "checkpoints", Checkpoint(step=7, state={}, about=about, **parts), keep=1
    )


def test_a_runs_newest_checkpoint_or_its_average_is_exported(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    step = saved(wan(0), wan(1), run)
    for path in (run, step):
        name = path.name
        raw = export(path, "original", tmp_path / f"{name}-raw")
        average = export(path, "original", tmp_path / f"{name}-ema", ema=True)
        assert equal(raw.out, wan(0))
        assert equal(average.out, wan(1))
        assert (average.facts["step"], average.facts["weights"]) == (7, "ema")


def test_what_other_programs_do_not_know_is_not_exported_in_silence(
    wan: Callable[..., WanModel], tmp_path: Path
) -> None:
    odd = wan(reference_timestep="zero")
    step = saved(odd, odd, tmp_path / "run")
    with pytest.raises(ModelError, match="reference_timestep = 'zero', which only this trainer"):
        export(step, "diffusers", tmp_path / "out")


def test_wrong_requests_are_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: str | Path) -> str:
        assert main(["export", *map(str, arguments)]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1
        return told.err

    out = ("--out", tmp_path / "out")
    assert "no multiple of 128" in fails(source, "--to", "original", *out)
    heads = ("--heads", "2")
    assert "--to lora needs --base" in fails(source, "--to", "lora", *out, *heads)
    assert "has no moving average" in fails(source, "--to", "original", "--ema", *out, *heads)
    assert "there already" in fails(source, "--to", "original", "--out", tmp_path, *heads)
    lora = tmp_path / "lora.safetensors"
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 24)}, lora)
    assert "a LoRA: additions to a network" in fails(lora, "--to", "original", *out)
    assert "divide into 5 heads" in fails(source, "--to", "original", *out, "--heads", "5")
    assert not (tmp_path / "out").exists()


def test_the_command_line_exports_and_inspect_reads_it_back(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(source), "--to", "diffusers", "--dtype", "bf16", "--heads", "2"]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["heads"], facts["layers"]) == ("diffusers", 2, 2)
    assert facts["dtypes"].keys() == {"bfloat16"}
    assert list(facts["files"].values()) == list(made["files"].values())
    assert re.fullmatch(r"[0-9a-f]{64}", next(iter(facts["files"].values())))
