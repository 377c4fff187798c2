"""The training loop, to be read top to bottom.

Nothing random is kept between steps: noise, level, dropout and reference form of a sample are
functions of (seed, sample, its number in the stream). A step is made of ``train.slots``
micro-batches, formed from the one stream whoever computes them. So a resumed run repeats the
losses of an uninterrupted one to the last bit, on the same machine and thread count, and another
number of processes sees the same samples and computes the same step, but for rounding.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import torch

from s2v.model import checkpoint, conditioning, flow, lora, networks, optim
from s2v.model.binding import HasOffsets
from s2v.model.checkpoint import Checkpoint
from s2v.model.config import Config
from s2v.model.data.buckets import Bucket
from s2v.model.data.collate import Batch
from s2v.model.data.fetch import Fetch
from s2v.model.data.loader import Loader, Part
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine, add_to_list
from s2v.model.data.samples import Samples
from s2v.model.data.steps import Step, StepPlan
from s2v.model.errors import Interrupted, ModelError
from s2v.model.figures import Figures, note
from s2v.model.flops import Sizes
from s2v.model.measures import Measures
from s2v.model.moving import onto
from s2v.model.parallel import gradients
from s2v.model.parallel.build import build
from s2v.model.parallel.compiled import graphs
from s2v.model.parallel.kernels import attention_kernels
from s2v.model.parallel.shard import share_gradients
from s2v.model.parallel.world import World
from s2v.model.planner.shapes import image_tokens_of
from s2v.model.progress import Track
from s2v.model.records import Records, SlotRecord, StepRecord
from s2v.model.run import Run
from s2v.model.sinks import Log


class Trainer:
    """Network, optimiser, average and plan of one run, brought to its newest checkpoint."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        samples: Samples,
        run: Run,
        world: World,
        measures: Measures,
    ) -> None:
        self.config, self.run, self.world, self.measures = config, run, world, measures
        self.device = world.device
        encoders = samples.store.encoders
        self.null_text = samples.store.empty_text.cpu()
        if config.network.subject_ids and not isinstance(encoders.text, HasOffsets):
            raise ModelError(
                f"network.subject_ids {config.network.subject_ids}: the text encoder "
                f"{encoders.text.id} does not say where its tokens stand; set it to 0"
            )
        widths = samples.store.widths
        self.plan = StepPlan.of(config, pool, widths, image_tokens_of(config))
        self.loader = Loader(
            self.plan,
            Fetch(pool, samples, config.train.seed),
            samples.together,
            rank=world.reader,
            world=world.readers,
            until=config.train.steps,
            workers=config.data.workers,
            prefetch_bytes=config.data.prefetch_mb << 20,
            timeout_s=config.data.worker_timeout_s,
            quarantine=Quarantine(config.data.fuse),
            tell=lambda said: print(f"s2v-model: {said}", file=sys.stderr),
        )
        path = checkpoint.resume_point(run.checkpoints)
        self.model = build(config, widths, world, fresh=path is None)
        self.optimiser = optim.adamw(self.model, config.optim, config.tune)
        self.ema = optim.Ema(self.model.named_parameters(), config.optim.ema)
        self.about = {
            "network": networks.described(config),
            "widths": asdict(widths),
            "features": encoders.fingerprint(config.data),
        }
        self.step = 0
        self.verdicts = gradients.Verdicts(self.device)
        self.bad_in_a_row = self.measured = 0
        self.records = Records(world, {}, Figures(config, self.device, world.size))
        if path is not None:
            self._restore(path)

    def loop(self, track: Track, stop: Mapping[str, int]) -> None:
        """Train up to ``train.steps``; see :func:`train` for what it raises."""
        t = self.config.train
        saver = checkpoint.Saver(
            self.run.checkpoints,
            t.keep,
            asynchronous=t.checkpoint_async,
            by={"config": self.run.digest(self.config)},
        )
        try:
            left = max(0, t.steps - self.step)
            with self._log() as log, track("train", left) as progress, saver:
                watch = checkpoint.Watch(t.checkpoint_every, t.checkpoint_minutes)
                batches = iter(self.loader)
                told = ""
                self.records.resume()
                while self.step < t.steps:
                    step, parts = next(batches)
                    try:
                        self.one_step(step, parts)
                    except torch.OutOfMemoryError as error:
                        raise ModelError(self._too_large(parts)) from error
                    if self.step % self.log_every == 0 or self.measures.due(self.step):
                        told = self.tell(log) or told
                    progress(1, told)
                    asked = watch.look(self.step, self.step == t.steps, stop, saver.failed)
                    if asked.failed or asked.save:
                        told = self.tell(log) or told
                        if asked.failed:
                            saver.retry(self.now())
                        else:
                            saver.save(self.now(), wait=bool(asked.signal))
                        watch.saved()
                        self.write_lora()
                        self.records.resume()
                    if asked.signal and self.step < t.steps:
                        raise Interrupted(self.step, asked.signal)
        except ModelError:
            # Of this process alone: the others may not be there any more to be asked.
            with suppress(OSError):  # which would hide the error that ends the run
                add_to_list(self.run.quarantine, self.loader.quarantine.fresh(), self.step)
            raise

    def _log(self) -> AbstractContextManager[Log | None]:
        """Where rank 0 writes its lines."""
        if not self.world.first:
            return nullcontext()
        shown, names = self.config.model_dump(mode="json"), self.config.train.log
        run = self.run
        return Log(run.metrics, names, folder=run.folder, config=shown, after=self.step)

    @property
    def log_every(self) -> int:
        """Steps between two lookings at what the device has computed; each makes it wait."""
        waits = self.device.type == "cuda" or self.world.size > 1
        return self.config.train.log_every if waits else 1

    def one_step(self, step: Step, parts: Sequence[Part[Batch]]) -> None:
        """Take a step on this process's slots."""
        c, world, began = self.config, self.world, time.process_time()
        numbers = range(len(step.slots))[world.reader :: world.readers]
        total = step.weight * world.cp
        self.optimiser.zero_grad(set_to_none=True)
        slots = []
        for number, part in zip(numbers, parts, strict=True):
            now = c.parallel.reduce_every_slot or number == numbers[-1]
            share_gradients(self.model, now)
            with attention_kernels(c.parallel):
                slots.append(self._slot(number, part, total))
        norm = gradients.clip(self.model.parameters(), c.optim.clip)
        bad = self.verdicts.judge(norm)
        lr = optim.learning_rate(c.optim, self.step, c.train.steps)
        optim.step(self.optimiser, lr, bad)
        self.ema.update(self.model.named_parameters(), self.step, bad)
        self.step += 1
        more = {"lr": lr, "cpu_seconds": round(time.process_time() - began, 3)}
        if c.parallel.compile:
            more["graphs"] = graphs()
        shares = [step.of_rank(r, world.readers) for r in range(world.readers)]
        loads = [sum(micro.cost for micro in share) for share in shares]
        waited = self.loader.figures.last_wait_s
        self.records.add(StepRecord(self.step, norm, slots, waited, loads, more))

    def _too_large(self, parts: Sequence[Part[Batch]]) -> str:
        """What a user is told whose GPU is full."""
        b = max((part.bucket for part in parts), key=lambda b: b.frames * b.height * b.width)
        size = f"{b.frames}x{b.height}x{b.width}"
        return (
            f"{self.run.folder}: the GPU's memory is full in step {self.step + 1}, with clips of "
            f"{size} and {b.references} references; `s2v-model plan` says what each size needs. "
            "parallel.recompute = 'full', parallel.cp, a smaller train.batch or more GPUs need "
            "less; the same command then goes on from the newest checkpoint"
        )

    def _slot(self, number: int, part: Part[Batch], total: float) -> SlotRecord:
        """Forward and backward of one micro-batch, its share of the step's loss."""
        c, seed, batch = self.config, self.config.train.seed, part.batch
        keys = [(d.sample_id, d.number) for d in part.draws]
        hidden = [
            conditioning.draw(c.dropout, seed, key, int(mask.sum()))
            for key, mask in zip(keys, batch.condition.reference_mask, strict=True)
        ]
        condition = conditioning.hide(batch.condition, hidden, self.null_text).on(self.device)
        tokens = self._tokens(part.bucket)
        levels = flow.noise_levels(c.flow, seed, keys, tokens)
        eps = onto(flow.noise(tuple(batch.video.shape[1:]), seed, keys), self.device)
        x0, t = onto(batch.video, self.device), onto(levels, self.device)
        losses = flow.video_loss(self.model(flow.interpolate(x0, eps, t), t, condition), x0, eps)
        each = tokens if c.flow.reduction == "token" else 1
        loss = (losses * flow.level_weights(c.flow, t)).sum() * (each / total)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        references = [int(n) for n in batch.condition.reference_mask.sum(dim=1)]
        rows, image = batch.condition.text.shape[1], batch.condition.image.shape[2]
        sizes = [Sizes.of_video(*part.bucket.size, n, image, rows) for n in references]
        kept = losses.detach()
        return SlotRecord(number, kept, levels.tolist(), part.draws, references, hidden, sizes)

    def _tokens(self, bucket: Bucket) -> int:
        """Video tokens of one sample."""
        _, ph, pw = networks.patch_of(self.config)
        area = (bucket.height // 8 // ph) * (bucket.width // 8 // pw)
        return ((bucket.frames - 1) // 4 + 1) * area

    def tell(self, log: Log | None) -> str:
        """Write what the steps since the last time were and met; the host waits for the device.

        Returns:
            The newest in a few words; on other ranks than 0 nothing.

        Raises:
            ModelError: more steps in a row were not finite than ``train.patience``.
        """
        lines = self.records.flush()
        met = self.world.gather(self.loader.quarantine.fresh())
        if self.world.first:
            # A checkpoint follows what was met before it, so a kill loses none of these lines.
            faults = [fault for of_one in met for fault in of_one]
            add_to_list(self.run.quarantine, faults, self.step)
        if self.measures.due(self.step) and self.measured < self.step:
            self.measured = self.step
            measured = self.measures.take(self.step, self.model, self.ema)
            if lines:
                lines[-1] |= measured
        for line in lines:
            if log:
                log.add(line)
        skipped, self.bad_in_a_row, worst = self.verdicts.read()
        self.records.counts["skipped"] = skipped
        if worst > self.config.train.patience:
            c = self.config.optim
            raise ModelError(
                f"{self.run.folder}: {worst} steps in a row are not finite at step "
                f"{self.step}; lower optim.lr ({c.lr}) or optim.clip"
            )
        self.records.resume()
        return note(lines[-1]) if lines else ""

    def rates(self) -> dict[str, float]:
        """Realised shares since step 0: dropout states, hidden latents, sources, skipped steps."""
        counts = self.records.counts
        total = max(1, counts["samples"])
        sources = {f"source {s}": counts[f"source {s}"] / total for s in self.plan.plan.sources}
        out = conditioning.rates(counts) | sources
        return out | {"skipped": counts["skipped"] / max(1, self.step)}

    def now(self) -> Checkpoint:
        """The finished steps, as a checkpoint."""
        return Checkpoint(
            step=self.step,
            model=self.model.state_dict(),
            ema=self.ema.weights,
            optim=optim.state_tensors(self.model, self.optimiser),
            state={
                "plan": self.loader.state(),
                "counts": dict(self.records.counts),
                "bad_in_a_row": self.bad_in_a_row,
            },
            about=self.about,
        )

    def write_lora(self) -> None:
        """The average of a LoRA's pairs as a file of its own, for export and other programs."""
        c = self.config
        if c.tune.kind == "lora":
            pairs = {n: optim.whole(w) for n, w in self.ema.weights.items() if ".lora_" in n}
            if self.world.first:
                scale = c.tune.alpha / c.tune.rank
                lora.write(self.run.lora, pairs, scale, peft=c.network.kind == "wan")

    def _restore(self, path: Path) -> None:
        if dict(checkpoint.describe(path).about) != json.loads(json.dumps(self.about)):
            raise ModelError(
                f"{path}: was trained on other features or another network than this "
                "configuration makes; start a new run folder"
            )
        saved = checkpoint.load(
            path,
            {
                "model": self.model.state_dict(),
                "ema": self.ema.weights,
                "optim": checkpoint.blank_optimiser(path, self.model.named_parameters()),
            },
        )
        self.loader.restore(saved.state["plan"])
        optim.load_state_tensors(self.model, self.optimiser, saved.optim)
        counts, self.bad_in_a_row = saved.state["counts"], int(saved.state["bad_in_a_row"])
        skipped = int(counts.get("skipped", 0))
        self.verdicts = gradients.Verdicts(self.device, skipped, self.bad_in_a_row)
        self.records.counts.update(counts)
        self.step = saved.step
