"""What a start takes up from a checkpoint, part by part: looked at before the next step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import checkpoint, metrics, optim
from s2v.model.checkpointing import lock
from s2v.model.config import Config
from s2v.model.data.pool import pool_of
from s2v.model.data.samples import Samples
from s2v.model.errors import ModelError
from s2v.model.loop import Trainer
from s2v.model.measures import Measures
from s2v.model.parallel.world import World
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import train

Tiny = Callable[..., Config]
# Warming up, so that every step has a rate of its own.
RUN = ("train.steps=3", "train.checkpoint_every=3", "train.batch=2", "optim.warmup=8",
       "optim.schedule=constant")  # fmt: skip


@pytest.fixture(scope="module")
def stopped(drawn_shards: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    train(tiny(*RUN), drawn_shards, out, quiet)
    return out


@contextmanager
def _begun(config: Config, shards: Path, folder: Path) -> Iterator[Trainer]:
    """A trainer as ``train`` makes it, before its first step."""
    run, world, index = Run(folder), World(), ShardIndex.open(shards)
    store = run.store(config)
    samples = Samples(index, store, config.train.seed)
    measures = Measures(config, index, store, run, world, None, quiet)
    try:
        yield Trainer(config, pool_of(index.table, config.data), samples, run, world, measures)
    finally:
        lock.release(run.checkpoints)


def _newest(run: Path) -> Path:
    path = checkpoint.latest(run / "checkpoints")
    assert path is not None
    return path


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_weights_average_moments_and_counters_are_those_that_were_saved(
    stopped: Path, drawn_shards: Path, tiny: Tiny
) -> None:
    """Each by itself: an average that began anew would show in no loss, and in every sample."""
    saved = checkpoint.load(_newest(stopped))
    assert not _equal(saved.model, saved.ema)  # else one could stand for the other
    with _begun(tiny(*RUN), drawn_shards, stopped) as trainer:
        assert trainer.step == saved.step == 3
        assert _equal(trainer.model.state_dict(), saved.model)
        assert _equal(trainer.ema.weights, saved.ema)
        moments = optim.state_tensors(trainer.model, trainer.optimiser)
        assert _equal(moments, saved.optim)
        assert {float(t) for n, t in moments.items() if n.endswith("/step")} == {3.0}
        assert trainer.loader.state() == saved.state["plan"]
        assert trainer.loader.plan.number == 3
        assert dict(trainer.records.counts) == saved.state["counts"]
        assert trainer.records.counts["samples"] == 6


def test_skipped_steps_are_counted_on_and_patience_does_not_begin_anew(
    stopped: Path, drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """Else a run that blows up, and is started again every few steps, would never end."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in stopped.glob("autoencoder.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    saved = checkpoint.load(_newest(stopped))
    counts = {**saved.state["counts"], "skipped": 5}
    state = {**saved.state, "counts": counts, "bad_in_a_row": 2}
    checkpoint.save(folder / "checkpoints", replace(saved, state=state), keep=2)
    with _begun(tiny(*RUN), drawn_shards, folder) as trainer:
        assert trainer.verdicts.read() == (5, 2, 2)
        trainer.verdicts.judge(torch.tensor(float("nan")))
        assert trainer.verdicts.read() == (6, 3, 3)


def test_the_rate_goes_on_where_it_was(
    stopped: Path, drawn_shards: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """A schedule that began anew would warm up at every restart."""
    config = tiny(*RUN, "train.steps=10")
    expected = [optim.learning_rate(config.optim, step, 10) for step in range(10)]
    assert len(set(expected)) > 6
    train(config, drawn_shards, stopped, quiet)
    assert [line["lr"] for line in metrics.read(stopped / "metrics.jsonl")] == expected


def test_weights_of_other_features_are_not_gone_on_from(
    stopped: Path, drawn_shards: Path, tiny: Tiny
) -> None:
    """Where encoders lie may change between two starts; what they are may not."""
    with (
        pytest.raises(ModelError, match=r"step-\d+: was trained on other features .* new run"),
        _begun(tiny(*RUN, "data.pad=grey"), drawn_shards, stopped),
    ):
        pass
