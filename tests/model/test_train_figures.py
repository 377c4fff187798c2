"""Figures and where they go: a utilisation that is claimed is true, a line written is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s2v.model import config as configuration
from s2v.model.config import Config
from s2v.model.devices import DEVICES, named
from s2v.model.errors import ModelError
from s2v.model.figures import Figures, imbalance, note
from s2v.model.flops import Sizes
from s2v.model.sinks import Log, scalars

LINE = {
    "step": 3,
    "loss": 0.5,
    "loss_by_pair": {"in": 0.4, "cross": 0.6},
    "grad_norm": None,
    "figures": {"tokens_per_s": 12_345.0, "mfu": 0.41, "data_wait": 0.2},
}


def test_four_references_at_this_speed_are_forty_percent() -> None:
    """1 145 TFLOP in 2.9 s on a peak of 989: with references counted, not without."""
    figures = Figures(configuration.load("phantom_wan_1_3b_480p"), torch.device("cpu"))
    figures.peak = DEVICES["h200"].peak
    found = figures.step([Sizes.of_video(81, 480, 832, references=4)], 2.9)
    assert found["mfu"] == pytest.approx(0.40, abs=0.005)
    without = figures.step([Sizes.of_video(81, 480, 832)], 2.9)
    assert without["mfu"] == pytest.approx(0.30, abs=0.005)
    assert found["tokens_per_s"] == pytest.approx(39_000 / 2.9)


def test_what_is_recomputed_counts_for_the_hardware_alone() -> None:
    config = configuration.load("phantom_wan_1_3b_480p", ["parallel.recompute=full"])
    figures = Figures(config, torch.device("cpu"))
    figures.peak = DEVICES["h200"].peak
    found = figures.step([Sizes.of_video(81, 480, 832)], 2.0)
    assert found["mfu"] is not None
    assert found["hfu"] is not None
    assert found["hfu"] / found["mfu"] == pytest.approx(4 / 3, rel=1e-3)


def test_a_cpu_has_no_utilisation_but_a_rate() -> None:
    figures = Figures(configuration.load("ci_tiny"), torch.device("cpu"), world=2)
    found = figures.step([Sizes(3, 6, 10, 1, 4, 5)] * 4, 0.5, waited=0.1, loads=[2.0, 1.0])
    assert found["mfu"] is None
    assert found["hfu"] is None
    assert found["tflops"] is not None
    assert found["tflops"] > 0
    assert found["samples_per_s"] == 8
    assert found["data_wait"] == pytest.approx(0.2)
    assert found["imbalance"] == pytest.approx(0.25)
    assert found["memory_gib"] is not None
    assert 0.05 < found["memory_gib"] < 64


@pytest.mark.parametrize(
    ("title", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_board_has_its_own_dense_peak_or_none(title: str, peak: float | None) -> None:
    device = named(title)
    assert (device.peak if device else None) == peak


def test_imbalance_is_the_time_the_others_wait() -> None:
    assert imbalance([]) == 0
    assert imbalance([3.0]) == 0
    assert imbalance([1.0, 1.0]) == 0
    assert imbalance([1.0, 1.0, 1.0, 3.0]) == pytest.approx(0.5)


def test_the_progress_bar_says_what_is_worth_knowing() -> None:
    assert note(LINE) == "loss 0.5000, 12.3k tokens/s, MFU 41.0%, waits 20% for data"
    assert note({"step": 1, "loss": None}) == ""


def test_nested_numbers_get_paths_and_nothing_else_does() -> None:
    found = dict(scalars({**LINE, "name": "x", "flag": True, "bad": float("nan")}))
    assert found["loss_by_pair/in"] == 0.4
    assert found["figures/mfu"] == 0.41
    assert not {"step", "grad_norm", "name", "flag", "bad"} & set(found)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {
        tag: [(e.step, round(e.value, 6)) for e in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def test_tensorboard_reads_what_training_wrote_and_redone_steps_are_not_doubled(
    tmp_path: Path,
) -> None:
    def written(after: int, steps: range, loss: float) -> None:
        log = Log(
            tmp_path / "metrics.jsonl", ("tensorboard",), folder=tmp_path, config={}, after=after
        )
        for step in steps:
            log.add({**LINE, "step": step, "loss": loss})
        log.close()

    written(0, range(1, 6), 0.5)
    written(3, range(4, 7), 0.25)  # killed after step 5; the last checkpoint was of step 3
    found = events(tmp_path / "tensorboard")
    assert found["loss"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25), (6, 0.25)]
    assert "loss_by_pair/cross" in found
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_wandb_keeps_a_run_offline_without_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    log = Log(
        tmp_path / "metrics.jsonl", ("wandb",), folder=tmp_path, config={"train": {"steps": 3}},
        after=0,
    )  # fmt: skip
    for step in (1, 2):
        log.add({**LINE, "step": step})
    log.close()
    wandb.teardown()  # its own process writes, and ends with ours
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    raw = file.read_bytes()
    assert b"loss_by_pair" in raw
    assert b"steps" in raw


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_sink_that_is_not_installed_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=rf"s2v-model\[{name}\]"):
        Log(tmp_path / "metrics.jsonl", (name,), folder=tmp_path, config={}, after=0)


def test_every_line_of_a_training_has_its_figures(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    from s2v.model.progress import quiet
    from s2v.model.train import train

    config = tiny("train.steps=3", 'train.log=["tensorboard"]', "train.checkpoint_async=false")
    train(config, drawn_shards, tmp_path / "run", quiet)
    lines: list[dict[str, Any]] = [
        json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    for line in lines:
        found = line["figures"]
        assert found["mfu"] is None
        assert found["tokens_per_s"] > 0
        assert 0 <= found["data_wait"] <= 1
        assert found["seconds"] > 0
    shown = events(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in shown["loss"]] == [1, 2, 3]
    assert [value for _, value in shown["loss"]] == pytest.approx(
        [line["loss"] for line in lines], rel=1e-5
    )
