"""A training from a shard folder: what is prepared, the loop, what is told at the end."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.shards import ShardIndex
from s2v.model import checkpoint, metrics, tune
from s2v.model.checkpointing import lock, names
from s2v.model.config import Config
from s2v.model.data.complete import check_shards
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.plan import Plan
from s2v.model.data.pool import Pool, pool_of, some_left
from s2v.model.data.quarantine import Quarantine, add_to_list, begin_list
from s2v.model.data.samples import UNREADABLE, Samples
from s2v.model.data.steps import mixes
from s2v.model.errors import ModelError
from s2v.model.explaining import disk_told
from s2v.model.loop import Trainer
from s2v.model.measures import Measures
from s2v.model.monitor import Evaluator
from s2v.model.parallel import world as processes
from s2v.model.parallel.ulysses import check_heads
from s2v.model.parallel.world import World
from s2v.model.progress import Track, quiet, shown
from s2v.model.run import Run, device_of, fit_autoencoder
from s2v.model.signals import stop_on_signals


@dataclass(frozen=True)
class TrainResult:
    """What a finished training leaves.

    Attributes:
        run: the folder.
        checkpoint: the last one.
        steps: finished steps.
        parameters: of the network.
        samples: training samples per pair type.
        dropped: samples not trained on, by reason; with ``quarantined`` and ``samples`` they
            add up to the index.
        quarantined: samples unreadable before the first step.
        stand_ins: places in steps that others took of samples unreadable later, this start only.
        first_loss: mean over the first tenth of the steps.
        last_loss: mean over the last tenth.
        rates: realised dropout and mixture shares.
        cpu_seconds: of this process in the loop, this start only.
    """

    run: str
    checkpoint: str
    steps: int
    parameters: int
    samples: dict[str, int]
    dropped: dict[str, int]
    quarantined: int
    stand_ins: int
    first_loss: float
    last_loss: float
    rates: dict[str, float]
    cpu_seconds: float


def train(
    config: Config,
    shards: str | Path,
    out: str | Path,
    track: Track = shown,
    *,
    cache: str | Path | None = None,
    evaluate: Evaluator | None = None,
) -> TrainResult:
    """Train from a shard folder; the same call goes on where it was.

    Args:
        config: resolved configuration.
        shards: folder with ``index/samples.parquet``.
        out: run folder, see :mod:`s2v.model.run`.
        track: where progress is shown.
        cache: where pixels and features are kept; ``out/cache`` by default.
        evaluate: scores the samples that ``validation.sample_every`` asks for; ``jobs/`` has one.

    Raises:
        ModelError: wrong input; the message says what to do.
        Interrupted: SIGTERM or SIGINT came; a checkpoint of the last finished step is saved.
    """
    check_heads(config, config.parallel.cp)  # now, not after hours of encoding
    _check_start(config, Run(out, cache))
    with processes.begin(config.parallel, device_of(config)) as world:
        world.check_slots(config.train.slots)
        told, run = track if world.first else quiet, Run(out, cache)
        try:
            with disk_told():
                return _train(config, shards, run, told, world, evaluate)
        finally:
            lock.release(run.checkpoints)


def _check_start(config: Config, run: Run) -> None:
    """Refuse weights to start from that are not there; a run with a checkpoint needs none.

    Raises:
        ModelError: names the file.
    """
    start = config.train.start_from
    if start is not None and not Path(start).exists() and not checkpoint.latest(run.checkpoints):
        raise ModelError(f"train.start_from: {start}: no such file or folder; say where it lies")


def _train(
    config: Config,
    shards: str | Path,
    run: Run,
    track: Track,
    world: World,
    evaluate: Evaluator | None,
) -> TrainResult:
    index = ShardIndex.open(shards)
    torch.set_num_threads(config.train.threads)

    exclusions = Exclusions.read(config.data.exclusions, index.table)
    if world.first and exclusions.unmatched:
        print(exclusions.told, file=sys.stderr)
    where = str(index.folder)
    pool = pool_of(index.table, config.data, excluded=exclusions.reasons, where=where)
    check_shards(index, pool)
    Plan(pool, mixes(config.data), config.train.seed)  # a phase without samples, found now

    def prepare() -> None:
        # First of all: nothing of a run that another process is at work on may be touched.
        lock.hold(run.checkpoints)
        run.begin(config)
        if config.autoencoder.kind == "linear" and not run.autoencoder.is_file():
            fit_autoencoder(config, shards, run, track)

    world.alone("begun", prepare)
    store = run.store(config)
    samples = Samples(index, store, config.train.seed, exclusions)
    pool, quarantine = _encode(config, pool, samples, run, track, world)
    quarantined = len(quarantine.faults)
    measures = Measures(config, index, store, run, world, evaluate, track)
    trainer = Trainer(config, pool, samples, run, world, measures)
    if world.first and config.tune.kind != "full":
        print(tune.told(tune.table(trainer.model)), file=sys.stderr)
    spent = time.process_time()
    with stop_on_signals() as stop:
        trainer.loop(track, stop)
    spent = time.process_time() - spent
    # Those of a group read the same.
    stand_ins = sum(world.gather(trainer.loader.figures.stand_ins)[:: world.cp])
    losses = [x["loss"] for x in metrics.read(run.metrics) if x["loss"] is not None]
    tenth = max(1, len(losses) // 10)
    last = checkpoint.latest(run.checkpoints)
    result = TrainResult(
        run=str(run.folder),
        checkpoint=str(last),
        steps=trainer.step,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        samples=pool.counts,
        dropped={why: n for why, n in pool.dropped.items() if why != UNREADABLE},
        quarantined=quarantined,
        stand_ins=stand_ins,
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        rates=trainer.rates(),
        cpu_seconds=round(spent, 1),
    )
    world.alone("result", partial(write_json, run.result, asdict(result)))
    return result


def _encode(
    config: Config,
    pool: Pool,
    samples: Samples,
    run: Run,
    track: Track,
    world: World,
) -> tuple[Pool, Quarantine]:
    """Every process encodes its part of what is not cached; what is readable, and what is not."""
    quarantine = Quarantine(config.data.fuse)
    try:
        if config.data.prepare:
            bad = samples.prepare(pool, quarantine, track, world.rank, world.size)
        else:
            bad = samples.check(pool, world.rank, world.size)
    except ModelError:
        add_to_list(run.quarantine, quarantine.faults, None)  # the list is what a user needs now
        raise
    world.meet("encoded")  # one may have hours more to do than another
    told = world.gather((bad, quarantine))
    quarantine.join([met for _, met in told])
    if world.first:
        last = checkpoint.latest(run.checkpoints)
        done = (names.step_of(last) if last else None) or 0
        begin_list(run.quarantine, quarantine.faults, done)
    quarantine.close()
    if world.first and (faults := quarantine.faults):
        print(
            f"s2v-model: {len(faults)} of {pool.size} samples cannot be read and are left out, the "
            f"first: {faults[0].message}; {run.quarantine} lists them",
            file=sys.stderr,
        )
    left = pool.without({row: why for rows, _ in told for row, why in rows.items()})
    some_left(left, str(samples.index.folder))
    return left, quarantine
