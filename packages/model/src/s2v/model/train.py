"""The training loop, to be read top to bottom.

Nothing random is kept between steps: noise, level, dropout and reference form of a sample are
functions of (seed, sample, its number in the stream). A step is made of ``train.slots``
micro-batches, formed from the one stream whoever computes them. So a resumed run repeats the
losses of an uninterrupted one to the last bit, on the same machine and thread count, and another
number of processes sees the same samples and computes the same step, but for rounding.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model import checkpoint, conditioning, flow, metrics, networks, optim, tune
from s2v.model.binding import HasOffsets
from s2v.model.checkpoint import Checkpoint
from s2v.model.config import Config
from s2v.model.data.collate import Batch
from s2v.model.data.features import FeatureStore
from s2v.model.data.index import Selection, select
from s2v.model.data.plan import Plan
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.slots import Bucket, Loader, Micro, Step, StepPlan
from s2v.model.errors import Interrupted, ModelError
from s2v.model.mmdit import Widths
from s2v.model.parallel import gradients
from s2v.model.parallel import world as processes
from s2v.model.parallel.build import build
from s2v.model.parallel.compiled import graphs
from s2v.model.parallel.shard import share_gradients
from s2v.model.parallel.world import World
from s2v.model.progress import Track, quiet, shown
from s2v.model.records import Records, SlotRecord, StepRecord
from s2v.model.run import Run, device_of, fit_autoencoder


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
        quarantined: unreadable samples.
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
) -> TrainResult:
    """Train from a shard folder; the same call goes on where it was.

    Args:
        config: resolved configuration.
        shards: folder with ``index/samples.parquet``.
        out: run folder, see :mod:`s2v.model.run`.
        track: where progress is shown.
        cache: where pixels and features are kept; ``out/cache`` by default.

    Raises:
        ModelError: wrong input; the message says what to do.
        Interrupted: SIGTERM or SIGINT came; a checkpoint of the last finished step is saved.
    """
    with processes.begin(config.parallel, device_of(config)) as world:
        world.check_slots(config.train.slots)
        return _train(config, shards, Run(out, cache), track if world.first else quiet, world)


def _train(
    config: Config, shards: str | Path, run: Run, track: Track, world: World
) -> TrainResult:
    index = ShardIndex.open(shards)
    torch.set_num_threads(config.train.threads)

    def prepare() -> None:
        run.begin(config)
        if config.autoencoder.kind == "linear" and not run.autoencoder.is_file():
            fit_autoencoder(config, shards, run, track)

    world.alone("begun", prepare)
    store = run.store(config)
    selection = select(index, config.data, "train")
    samples, quarantined = _encode(config, selection, store, run, track, world)
    trainer = Trainer(config, samples, store, run, world)
    if world.first and config.tune.kind != "full":
        print(tune.told(tune.table(trainer.model)), file=sys.stderr)
    spent = time.process_time()
    with stop_on_signals() as stop:
        trainer.loop(track, stop)
    spent = time.process_time() - spent
    losses = [x["loss"] for x in metrics.read(run.metrics) if x["loss"] is not None]
    tenth = max(1, len(losses) // 10)
    last = checkpoint.latest(run.checkpoints)
    result = TrainResult(
        run=str(run.folder),
        checkpoint=str(last),
        steps=trainer.step,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        samples=dict(sorted(Counter(str(s.row["pair_type"]) for s in samples).items())),
        dropped=selection.dropped,
        quarantined=quarantined,
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        rates=trainer.rates(),
        cpu_seconds=round(spent, 1),
    )
    world.alone("result", partial(write_json, run.result, asdict(result)))
    return result


def _encode(
    config: Config,
    selection: Selection,
    store: FeatureStore,
    run: Run,
    track: Track,
    world: World,
) -> tuple[tuple[Sample, ...], int]:
    """Every process encodes its part of what is not cached; returns the readable and how many not."""
    quarantine = Quarantine(config.data.fuse)
    part = store.prepare(selection.samples[world.rank :: world.size], quarantine, "encode", track)
    told = world.gather(([s.id for s in part], quarantine.faults))
    readable = {name for names, _ in told for name in names}
    quarantine.faults = [fault for _, faults in told for fault in faults]
    if world.first:
        write_bytes(run.quarantine, quarantine.lines().encode())
    return tuple(s for s in selection.samples if s.id in readable), len(quarantine.faults)


class Trainer:
    """Network, optimiser, average and plan of one run, brought to its newest checkpoint."""

    def __init__(
        self,
        config: Config,
        samples: tuple[Sample, ...],
        store: FeatureStore,
        run: Run,
        world: World,
    ) -> None:
        self.config, self.store, self.run, self.world = config, store, run, world
        self.device = world.device
        sources: dict[str, list[str]] = {}
        for sample in samples:
            sources.setdefault(str(sample.row["pair_type"]), []).append(sample.id)
        plan = Plan(sources, {str(k): v for k, v in config.data.mix.items()}, config.train.seed)
        self.plan = StepPlan(plan, config)
        self.loader = Loader(
            self.plan, store, {s.id: s for s in samples}, config, world.reader, world.readers
        )
        encoders = store.encoders
        self.null_text = encoders.text.encode("").cpu()
        if config.network.subject_ids and not isinstance(encoders.text, HasOffsets):
            raise ModelError(
                f"network.subject_ids {config.network.subject_ids}: the text encoder "
                f"{encoders.text.id} does not say where its tokens stand; set it to 0"
            )
        widths = Widths(encoders.video.channels, encoders.text.width, encoders.image.width)
        path = checkpoint.latest(run.checkpoints)
        self.model = build(config, widths, world, fresh=path is None or config.tune.kind == "lora")
        self.optimiser = optim.adamw(self.model, config.optim, config.tune)
        self.ema = optim.Ema(self.model.named_parameters(), config.optim.ema)
        self.about = {
            "network": networks.described(config),
            "widths": asdict(widths),
            "features": encoders.fingerprint(config.data),
        }
        self.step = 0
        self.verdicts = gradients.Verdicts(self.device)
        self.records = Records(world, {})
        if path is not None:
            self._restore(checkpoint.load(path), path)

    def loop(self, track: Track, stop: Mapping[str, int]) -> None:
        """Train up to ``train.steps``; see :func:`train` for what it raises."""
        t = self.config.train
        log = metrics.MetricsLog(self.run.metrics, after=self.step) if self.world.first else None
        try:
            with track("train", max(0, t.steps - self.step)) as progress:
                recent: list[float] = []
                batches = iter(self.loader)
                while self.step < t.steps:
                    self.one_step(*next(batches))
                    asked = self.world.any(stop.get("signal", 0))
                    save = self.step % t.checkpoint_every == 0 or self.step == t.steps or asked
                    if save or self.step % self.log_every == 0:
                        for line in self.flush():
                            log.add(line) if log else None
                            recent = [*recent, line["loss"]][-t.log_every :]
                    progress(1, f"loss {sum(recent) / len(recent):.4f}" if recent else "")
                    if save:
                        self.save()
                    if asked and self.step < t.steps:
                        raise Interrupted(self.step, asked)
        finally:
            if log:
                log.close()

    @property
    def log_every(self) -> int:
        """Steps between two lookings at what the device has computed; each makes it wait."""
        waits = self.device.type == "cuda" or self.world.size > 1
        return self.config.train.log_every if waits else 1

    def one_step(self, step: Step, batches: Sequence[Batch]) -> None:
        """Take a step on this process's slots."""
        c, began = self.config, time.process_time()
        numbers = range(len(step.slots))[self.world.reader :: self.world.readers]
        total = self._weight(step) * self.world.cp
        self.optimiser.zero_grad(set_to_none=True)
        slots = []
        for number, batch in zip(numbers, batches, strict=True):
            now = c.parallel.reduce_every_slot or number == numbers[-1]
            share_gradients(self.model, now)
            slots.append(self._slot(number, step.slots[number], batch, total))
        norm = gradients.clip(self.model.parameters(), c.optim.clip)
        bad = self.verdicts.judge(norm)
        lr = optim.learning_rate(c.optim, self.step, c.train.steps)
        optim.step(self.optimiser, lr, bad)
        self.ema.update(self.model.named_parameters(), self.step, bad)
        self.step += 1
        more = {"lr": lr, "cpu_seconds": round(time.process_time() - began, 3)}
        if c.parallel.compile:
            more["graphs"] = graphs()
        self.records.add(StepRecord(self.step, norm, slots, more))

    def _slot(self, number: int, micro: Micro, batch: Batch, total: float) -> SlotRecord:
        """Forward and backward of one micro-batch, its share of the step's loss."""
        c, seed = self.config, self.config.train.seed
        keys = [(d.sample_id, d.number) for d in micro.draws]
        hidden = [
            conditioning.draw(c.dropout, seed, key, int(mask.sum()))
            for key, mask in zip(keys, batch.condition.reference_mask, strict=True)
        ]
        condition = conditioning.hide(batch.condition, hidden, self.null_text).on(self.device)
        tokens = self._tokens(micro.bucket)
        levels = flow.noise_levels(c.flow, seed, keys, tokens)
        eps = flow.noise(tuple(batch.video.shape[1:]), seed, keys).to(self.device)
        x0, t = batch.video.to(self.device), levels.to(self.device)
        losses = flow.video_loss(self.model(flow.interpolate(x0, eps, t), t, condition), x0, eps)
        each = tokens if c.flow.reduction == "token" else 1
        loss = (losses * flow.level_weights(c.flow, t)).sum() * (each / total)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        references = [int(n) for n in batch.condition.reference_mask.sum(dim=1)]
        return SlotRecord(
            number, losses.detach(), levels.tolist(), micro.draws, references, hidden
        )

    def _weight(self, step: Step) -> int:
        """Of all samples of a step, by the plan alone: no process asks another."""
        if self.config.flow.reduction == "sample":
            return sum(len(micro.draws) for micro in step.slots)
        return sum(len(micro.draws) * self._tokens(micro.bucket) for micro in step.slots)

    def _tokens(self, bucket: Bucket) -> int:
        """Video tokens of one sample."""
        _, ph, pw = networks.patch_of(self.config)
        area = (bucket.height // 8 // ph) * (bucket.width // 8 // pw)
        return ((bucket.frames - 1) // 4 + 1) * area

    def flush(self) -> list[dict[str, object]]:
        """Lines of the steps since the last time; here the host waits for the device.

        Raises:
            ModelError: more steps in a row were not finite than ``train.patience``.
        """
        lines = self.records.flush()
        skipped, row, worst = self.verdicts.read()
        self.records.counts["skipped"] = skipped
        if worst > self.config.train.patience:
            c = self.config.optim
            raise ModelError(
                f"{self.run.folder}: {worst} steps in a row are not finite at step "
                f"{self.step}; lower optim.lr ({c.lr}) or optim.clip"
            )
        self.bad_in_a_row = row
        return lines

    def rates(self) -> dict[str, float]:
        """Realised shares since step 0: dropout states, hidden latents, sources, skipped steps."""
        counts = self.records.counts
        total = max(1, counts["samples"])
        sources = {
            f"source {s}": counts[f"source {s}"] / total for s in sorted(self.plan.plan.share)
        }
        out = conditioning.rates(counts) | sources
        return out | {"skipped": counts["skipped"] / max(1, self.step)}

    def save(self) -> None:
        """Write a checkpoint of the finished steps."""
        saved = Checkpoint(
            step=self.step,
            model=whole(self.model.state_dict()),
            ema=whole(self.ema.weights),
            optim=whole(optim.state_tensors(self.model, self.optimiser)),
            state={
                "plan": self.plan.state(),
                "counts": dict(self.records.counts),
                "bad_in_a_row": self.bad_in_a_row,
            },
            about=self.about,
        )
        if self.world.first:
            checkpoint.save(self.run.checkpoints, saved, self.config.train.keep)

    def _restore(self, saved: Checkpoint, path: Path) -> None:
        if saved.about != json.loads(json.dumps(self.about)):
            raise ModelError(
                f"{path}: was trained on other features or another network than this "
                "configuration makes; start a new run folder"
            )
        self.plan.restore(saved.state["plan"])
        for name, target in self.model.state_dict().items():
            set_share(target, saved.model[name])
        optim.load_state_tensors(self.model, self.optimiser, saved.optim)
        self.ema.load(saved.ema)
        counts = saved.state["counts"]
        row = int(saved.state["bad_in_a_row"])
        self.verdicts = gradients.Verdicts(self.device, int(counts.get("skipped", 0)), row)
        self.records = Records(self.world, counts)
        self.step = saved.step


@contextmanager
def stop_on_signals() -> Iterator[dict[str, int]]:
    """Turn SIGTERM and SIGINT into ``{"signal": n}``; a second one ends the process at once.

    Signals reach the main thread only; elsewhere (a Ray worker) nothing is installed.
    """
    seen: dict[str, int] = {}
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, _frame: object) -> None:
        if seen:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen["signal"] = number

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
