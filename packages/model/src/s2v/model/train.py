"""The training loop, to be read top to bottom.

Nothing random is kept between steps: noise, level, dropout and reference form of a sample are
functions of (seed, sample, its number in the stream). A resumed run therefore repeats the
losses of an uninterrupted one to the last bit, on the same machine and thread count.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model import checkpoint, conditioning, flow, metrics, networks, optim
from s2v.model.binding import HasOffsets
from s2v.model.checkpoint import Checkpoint
from s2v.model.config import Config
from s2v.model.data.collate import choose, collate
from s2v.model.data.features import FeatureStore
from s2v.model.data.index import select
from s2v.model.data.plan import Draw, Plan
from s2v.model.data.quarantine import Quarantine
from s2v.model.errors import Interrupted, ModelError
from s2v.model.mmdit import Widths
from s2v.model.progress import Track, shown
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
    index = ShardIndex.open(shards)
    run = Run(out, cache)
    run.begin(config)
    torch.set_num_threads(config.train.threads)
    if config.autoencoder.kind == "linear" and not run.autoencoder.is_file():
        fit_autoencoder(config, shards, run, track)
    store = run.store(config)
    selection = select(index, config.data, "train")
    quarantine = Quarantine(config.data.fuse)
    samples = store.prepare(selection.samples, quarantine, "encode", track)
    write_bytes(run.quarantine, quarantine.lines().encode())
    trainer = Trainer(config, samples, store, run)
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
        quarantined=len(quarantine.faults),
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        rates=trainer.rates(),
        cpu_seconds=round(spent, 1),
    )
    write_json(run.result, asdict(result))
    return result


class Trainer:
    """Network, optimiser, average and plan of one run, brought to its newest checkpoint."""

    def __init__(
        self, config: Config, samples: tuple[Sample, ...], store: FeatureStore, run: Run
    ) -> None:
        self.config, self.store, self.run = config, store, run
        self.device = device_of(config)
        self.samples = {sample.id: sample for sample in samples}
        sources: dict[str, list[str]] = {}
        for sample in samples:
            sources.setdefault(str(sample.row["pair_type"]), []).append(sample.id)
        self.plan = Plan(
            sources, {str(k): v for k, v in config.data.mix.items()}, config.train.seed
        )
        encoders = store.encoders
        self.null_text = encoders.text.encode("").to(self.device)
        d, (_, ph, pw) = config.data, networks.patch_of(config)
        self.tokens = ((d.frames - 1) // 4 + 1) * (d.height // 8 // ph) * (d.width // 8 // pw)
        if config.network.subject_ids and not isinstance(encoders.text, HasOffsets):
            raise ModelError(
                f"network.subject_ids {config.network.subject_ids}: the text encoder "
                f"{encoders.text.id} does not say where its tokens stand; set it to 0"
            )
        widths = Widths(encoders.video.channels, encoders.text.width, encoders.image.width)
        torch.manual_seed(config.train.seed)  # initial weights only
        path = checkpoint.resume_point(run.checkpoints)
        make = networks.start if path is None else networks.build
        self.model = make(config, widths).to(self.device)
        self.optimiser = optim.adamw(self.model, config.optim)
        self.ema = optim.Ema(self.model.named_parameters(), config.optim.ema)
        self.about = {
            "network": networks.described(config),
            "widths": asdict(widths),
            "features": encoders.fingerprint(config.data),
        }
        self.counts: Counter[str] = Counter()
        self.step = 0
        self.bad_in_a_row = 0
        if path is not None:
            self._restore(checkpoint.load(path), path)

    def loop(self, track: Track, stop: Mapping[str, int]) -> None:
        """Train up to ``train.steps``; see :func:`train` for what it raises."""
        t = self.config.train
        log = metrics.MetricsLog(self.run.metrics, after=self.step)
        try:
            with track("train", max(0, t.steps - self.step)) as progress:
                recent: list[float] = []
                while self.step < t.steps:
                    line = self.one_step()
                    log.add(line)
                    recent = [*recent, line["loss"]][-t.log_every :]
                    progress(1, f"loss {sum(recent) / len(recent):.4f}")
                    asked = stop.get("signal")
                    if self.step % t.checkpoint_every == 0 or self.step == t.steps or asked:
                        self.save()
                    if asked and self.step < t.steps:
                        raise Interrupted(self.step, asked)
        finally:
            log.close()

    def one_step(self) -> dict[str, Any]:
        """Draw a batch, take a step, return its metrics line."""
        c, began = self.config, time.process_time()
        draws = [self.plan.next() for _ in range(c.train.batch)]
        keys = [(d.sample_id, d.number) for d in draws]
        batch = collate([self._item(draw) for draw in draws])
        hidden = [
            conditioning.draw(c.dropout, c.train.seed, key, int(mask.sum()))
            for key, mask in zip(keys, batch.condition.reference_mask, strict=True)
        ]
        condition = conditioning.hide(batch.condition.to(self.device), hidden, self.null_text)
        x0 = batch.video.to(self.device)
        tokens = torch.full((len(keys),), self.tokens)
        levels = flow.noise_levels(c.flow, c.train.seed, keys, self.tokens)
        eps = flow.noise(tuple(x0.shape[1:]), c.train.seed, keys).to(self.device)
        t = levels.to(self.device)
        losses = flow.video_loss(self.model(flow.interpolate(x0, eps, t), t, condition), x0, eps)
        weights = flow.level_weights(c.flow, t)
        loss = flow.reduce(losses, weights, tokens.to(self.device), c.flow.reduction)
        lr = optim.learning_rate(c.optim, self.step, c.train.steps)
        norm = self._update(loss, lr)
        self.step += 1
        self.counts.update(conditioning.tally(hidden))
        self.counts.update(f"source {draw.source}" for draw in draws)
        values = losses.tolist()
        return {
            "step": self.step,
            "loss": sum(values) / len(values),
            "loss_by_pair": metrics.by_group(values, [d.source for d in draws]),
            "loss_by_level": metrics.by_group(values, map(metrics.level_bin, levels.tolist())),
            "loss_by_references": metrics.by_group(
                values, (str(int(n)) for n in batch.condition.reference_mask.sum(dim=1))
            ),
            "hidden": conditioning.rates(self.counts),
            "grad_norm": norm,
            "lr": lr,
            "epochs": {d.source: d.epoch for d in draws},
            "cpu_seconds": round(time.process_time() - began, 3),
        }

    def _item(self, draw: Draw) -> Any:
        features = self.store.get(self.samples[draw.sample_id])
        data = self.config.data
        return choose(
            (draw.sample_id, draw.number),
            features,
            {str(form): odds for form, odds in data.forms.items()},
            self.config.train.seed,
            epoch=draw.epoch,
            most=data.max_references,
        )

    def _update(self, loss: Tensor, lr: float) -> float | None:
        """One optimiser step; a non-finite one is skipped and counted. Returns the norm."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        if not torch.isfinite(norm):
            self.counts["skipped"] += 1
            self.bad_in_a_row += 1
            if self.bad_in_a_row > self.config.train.patience:
                raise ModelError(
                    f"{self.run.folder}: {self.bad_in_a_row} steps in a row are not finite at step "
                    f"{self.step}; lower optim.lr ({self.config.optim.lr}) or optim.clip"
                )
            return None
        self.bad_in_a_row = 0
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()
        self.ema.update(self.model.named_parameters(), self.step)
        return float(norm)

    def rates(self) -> dict[str, float]:
        """Realised shares since step 0: dropout states, hidden latents, sources, skipped steps."""
        total = max(1, self.counts["samples"])
        sources = {
            f"source {s}": self.counts[f"source {s}"] / total for s in sorted(self.plan.share)
        }
        out = conditioning.rates(self.counts) | sources
        return out | {"skipped": self.counts["skipped"] / max(1, self.step)}

    def save(self) -> Path:
        """Write a checkpoint of the finished steps."""
        return checkpoint.save(
            self.run.checkpoints,
            Checkpoint(
                step=self.step,
                model=self.model.state_dict(),
                ema=self.ema.weights,
                optim=optim.state_tensors(self.model, self.optimiser),
                state={
                    "plan": self.plan.state(),
                    "counts": dict(self.counts),
                    "bad_in_a_row": self.bad_in_a_row,
                },
                about=self.about,
            ),
            self.config.train.keep,
        )

    def _restore(self, saved: Checkpoint, path: Path) -> None:
        if saved.about != json.loads(json.dumps(self.about)):
            raise ModelError(
                f"{path}: was trained on other features or another network than this "
                "configuration makes; start a new run folder"
            )
        self.plan.restore(saved.state["plan"])
        self.model.load_state_dict(dict(saved.model))
        optim.load_state_tensors(self.model, self.optimiser, saved.optim)
        self.ema.load(saved.ema)
        self.counts = Counter(saved.state["counts"])
        self.bad_in_a_row = int(saved.state["bad_in_a_row"])
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
