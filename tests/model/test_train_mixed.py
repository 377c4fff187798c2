"""Training on all kinds of samples at once: images, text and video, several sizes, workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import metrics
from s2v.model.config import Config
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.fetch import Fetch
from s2v.model.data.loader import Loader
from s2v.model.data.pool import pool_of
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Reader
from s2v.model.data.samples import Samples
from s2v.model.data.steps import Step, StepPlan
from s2v.model.errors import ModelError
from s2v.model.loop import Trainer
from s2v.model.mmdit import Widths
from s2v.model.progress import quiet
from s2v.model.records import SlotRecord
from s2v.model.run import Run
from s2v.model.train import train

MIXED = (
    "data.mix={ in = 0.4, cross = 0.2, image = 0.2, t2v = 0.2 }",
    "data.sizes=[[9, 48, 80], [17, 48, 80]]",
    "train.slots=2",
    "train.batch=2",
    "train.steps=8",
)


@pytest.fixture(scope="module")
def alone(
    mixed_shards: Path, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that reads in its own process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    result = train(tiny(*MIXED), mixed_shards, out, quiet)
    assert result.samples == {"cross": 4, "image": 6, "in": 8, "t2v": 4}
    assert result.dropped == {}
    return out


def _losses(run: Path) -> list[Any]:
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl")]


def test_images_and_videos_of_two_lengths_train_together(alone: Path) -> None:
    lines = metrics.read(alone / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {kind for line in lines for kind in line["loss_by_pair"]} == {
        "in",
        "cross",
        "image",
        "t2v",
    }
    assert {k for line in lines for k in line["loss_by_references"]} >= {"0", "1"}


@pytest.mark.parametrize("reduction", ["sample", "token"])
def test_every_sample_counts_alike_whatever_company_its_slot_has(
    alone: Path,
    mixed_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reduction: str,
) -> None:
    """A step descends on the mean over its samples, not on that over slots of one and of two.

    With ``flow.reduction = "token"`` on that over the tokens of its videos.
    """
    counts: list[list[int]] = []
    descended: list[float] = []
    expected: list[list[tuple[float, int]]] = []
    one_step, one_slot, backward = Trainer.one_step, Trainer._slot, torch.Tensor.backward

    def step(self: Trainer, step: Step, parts: Any) -> None:
        counts.append([len(micro.draws) for micro in step.slots])
        descended.append(0.0)
        expected.append([])
        one_step(self, step, parts)

    def slot(self: Trainer, number: int, part: Any, total: float) -> SlotRecord:
        record = one_slot(self, number, part, total)
        b = part.bucket  # a token is 4 frames (the first of one) and 16 x 16 pixels
        tokens = (1 + (b.frames - 1) // 4) * (b.height // 16) * (b.width // 16)
        weight = tokens if reduction == "token" else 1
        expected[-1] += [(float(loss), weight) for loss in record.losses]
        return record

    def down(self: torch.Tensor, *args: Any, **more: Any) -> None:
        descended[-1] += float(self.detach())
        backward(self, *args, **more)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Trainer, "one_step", step)
    monkeypatch.setattr(Trainer, "_slot", slot)
    monkeypatch.setattr(torch.Tensor, "backward", down)
    # A short queue leaves a step no company of its own size, now and then.
    config = tiny(*MIXED, "train.batch=3", "data.max_pending=8", f"flow.reduction={reduction}")
    train(config, mixed_shards, _fitted(alone, tmp_path), quiet, cache=alone / "cache")
    assert any(len(set(of_one)) > 1 for of_one in counts), counts  # else this has shown nothing
    means = [sum(x * w for x, w in one) / sum(w for _, w in one) for one in expected]
    assert descended == pytest.approx(means, rel=1e-5)
    plain = _losses(tmp_path / "run")
    if reduction == "sample":
        assert means == pytest.approx(plain, rel=1e-5)
    else:  # images have a third of the tokens, or a fifth
        assert means != pytest.approx(plain, rel=1e-3)


def _fitted(run: Path, folder: Path) -> Path:
    """A run folder with the latent space of another."""
    (folder / "run").mkdir()
    for path in run.glob("autoencoder.*"):
        shutil.copy(path, folder / "run")
    return folder / "run"


def test_workers_change_no_loss(
    alone: Path, mixed_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Whether features were made before or are made on the way, and whoever decodes."""
    cached = tmp_path / "cached"
    shutil.copytree(alone, cached, ignore=shutil.ignore_patterns("checkpoints", "metrics*"))
    (cached / "config.json").unlink()
    train(tiny(*MIXED, "data.workers=2"), mixed_shards, cached, quiet)
    assert _losses(cached) == _losses(alone)
    on_the_way = tmp_path / "on the way"
    config = tiny(*MIXED, "data.workers=2", "data.prepare=false")
    train(config, mixed_shards, on_the_way, quiet)
    assert _losses(on_the_way) == _losses(alone)


def test_a_clip_decoded_by_a_worker_makes_the_batch_that_it_makes_here(
    alone: Path, mixed_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Nothing is cached: workers decode, the training process encodes, in the plan's order."""
    config, index = tiny(*MIXED), ShardIndex.open(mixed_shards)

    def batches(workers: int, cache: Path) -> list[Any]:
        samples = Samples(index, Run(alone, cache).store(config), config.train.seed)
        pool = pool_of(index.table, config.data)
        encoders = samples.store.encoders
        widths = Widths(encoders.video.channels, encoders.text.width, encoders.image.width)
        plan = StepPlan.of(config, pool, widths, encoders.image.tokens)
        fetch = Fetch(pool, samples, config.train.seed)
        loader = Loader(plan, fetch, samples.together, until=4, workers=workers)
        return [part.batch for _, parts in loader for part in parts]

    here, there = batches(0, tmp_path / "a"), batches(1, tmp_path / "b")
    assert len(here) == len(there) == 8
    for one, other in zip(here, there, strict=True):
        assert one.sample_ids == other.sample_ids
        assert one.video.equal(other.video)
        assert one.condition.references.equal(other.condition.references)
        assert one.condition.text.equal(other.condition.text)


def test_a_member_that_rots_during_training_costs_only_itself(
    alone: Path, mixed_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config, broken = tiny(*MIXED), tmp_path / "shards"
    shutil.copytree(mixed_shards, broken)
    index = ShardIndex.open(broken)
    sample = next(s for s in index if s.row["pair_type"] == "in")
    member = next(m for m in sample.row["members"] if m["suffix"] == "mp4")
    with (broken / str(sample.row["shard"])).open("r+b") as file:
        file.seek(member["offset"] + 30)
        file.write(b"\xff" * 9)
    samples = Samples(index, Run(alone, tmp_path / "cache").store(config), config.train.seed)
    pool = pool_of(index.table, config.data)
    encoders = samples.store.encoders
    widths = Widths(encoders.video.channels, encoders.text.width, encoders.image.width)
    plan = StepPlan.of(config, pool, widths, encoders.image.tokens)
    quarantine = Quarantine(20)
    fetch = Fetch(pool, samples, config.train.seed)
    loader = Loader(plan, fetch, samples.together, until=10, quarantine=quarantine)
    ids = {i for _, parts in loader for part in parts for i in part.batch.sample_ids}
    assert sample.id not in ids
    assert [f.sample_id for f in quarantine.faults] == [sample.id]
    assert "sha256" in quarantine.faults[0].message
    assert loader.figures.stand_ins >= 1


def test_a_changed_letter_of_a_caption_is_not_trained_on(
    mixed_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Still JSON, still the same length: only its digest says that it is not what was written."""
    shutil.copytree(mixed_shards, tmp_path / "shards")
    sample = ShardIndex.open(tmp_path / "shards")[0]
    member = next(m for m in sample.row["members"] if m["suffix"] == "json")
    path = tmp_path / "shards" / str(sample.row["shard"])
    data = bytearray(path.read_bytes())
    at = data.index(sample.meta().caption.encode(), member["offset"])
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match=r"member json: sha256 differs from the index"):
        Reader(tiny().data).read(sample, videos=False, references=False)


def test_a_reference_of_an_excluded_clip_is_left_out_while_reading(
    alone: Path, mixed_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config, index = tiny(*MIXED), ShardIndex.open(mixed_shards)
    row = {"key_type": "subject_id", "key": "v1-1-s0", "reason": "", "by": "", "when": ""}
    path = tmp_path / "no.jsonl"
    path.write_text(json.dumps(row) + "\n")
    lists = Exclusions.read([path], index.table)
    store = Run(alone).store(config)
    samples = Samples(index, store, config.train.seed, lists)
    pool = pool_of(index.table, config.data, excluded=lists.reasons)
    encoders = store.encoders
    widths = Widths(encoders.video.channels, encoders.text.width, encoders.image.width)
    plan = StepPlan.of(config, pool, widths, encoders.image.tokens)
    loader = Loader(plan, Fetch(pool, samples, 0), samples.together, until=20)
    ids = {i for _, parts in loader for part in parts for i in part.batch.sample_ids}
    assert not ids & {"in-01-001", "cross-01-001"}
    assert loader.figures.excluded > 0
    assert not loader.quarantine.faults
