"""Prove on the user's own configuration that a stopped training goes on as if it had not been.

A training of n steps runs straight through. Another is killed (``kill -9``) one step after its
checkpoint at n/2 and goes on in fresh processes, with another number of loader workers. Then
everything is compared: weights, average, optimiser, losses, what the next steps would be made of.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.shards import ShardIndex
from s2v.model import checkpoint, metrics
from s2v.model.checkpointing.layout import PARTS
from s2v.model.checkpointing.parts import open_part
from s2v.model.config import Config
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.pool import pool_of
from s2v.model.data.steps import StepPlan
from s2v.model.errors import ModelError
from s2v.model.planner.shapes import image_tokens_of
from s2v.model.run import Run
from s2v.model.verify_child import STOPPED

How = Literal["kill", "term"]
#: Losses of another number of processes: the same sums in another order.
CLOSE: Final = 1e-6
#: Steps after the end whose samples are compared.
AHEAD: Final = 5


@dataclass(frozen=True)
class Verified:
    """What came of it.

    Attributes:
        ok: everything that must agree does.
        steps: of each training.
        stopped: how, and after which finished step.
        resumed_from: step of the checkpoint that the second one went on from.
        processes: of the first and of the resumed training.
        workers: of their loaders.
        checks: per thing compared, ``same`` or how it differs.
        note: what explains a difference, else empty.
        seconds: all of it, by the clock.
    """

    ok: bool
    steps: int
    stopped: str
    resumed_from: int
    processes: tuple[int, int]
    workers: tuple[int, int]
    checks: dict[str, str]
    note: str
    seconds: float


def verify_resume(
    config: Config,
    shards: str | Path,
    *,
    steps: int = 6,
    how: How = "kill",
    processes: int = 1,
    resume_processes: int | None = None,
    cache: str | Path | None = None,
    scratch: str | Path | None = None,
) -> Verified:
    """Train, stop, go on, compare. Leaves nothing but what it put into ``cache``.

    Args:
        config: the user's; lengths and checkpoints are set for the test, all else stays.
        shards: folder with ``index/samples.parquet``.
        steps: of each training; the checkpoint is half way.
        how: ``kill``: SIGKILL a step after the checkpoint; ``term``: SIGTERM half way.
        processes: of the training, one per GPU; several are started here as ``torchrun`` would.
        resume_processes: of the resumed one; another number is compared to rounding.
        cache: pixels and features; a temporary one by default.
        scratch: where the temporary folder is made; it holds up to five checkpoints.

    Raises:
        ModelError: fewer than two steps, or a training ended with an error.
    """
    if steps < 2:
        raise ModelError(f"--steps {steps}: at least 2, one before the stop and one after")
    began, half = time.monotonic(), steps // 2
    if how == "kill" and half + 1 >= steps:
        raise ModelError(f"--steps {steps}: at least 3, so that the kill comes before the end")
    after = processes if resume_processes is None else resume_processes
    with _scratch(scratch) as folder:
        lab = _Lab(_for_test(config, steps, half), shards, folder, cache, half)
        straight = lab.train("straight", processes)
        lab.train("stopped", processes, how=how, like=straight)
        resumed_from = _newest(lab.run("stopped")).step
        own, other = config.data.workers, 2 if config.data.workers == 0 else 0
        stopped = lab.train("stopped", after, workers=other)
        checks = _compare(straight, stopped, exact=processes == after)
        checks[f"samples of the next {AHEAD} steps"] = _ahead(lab, straight, stopped)
        ok = not _bad(checks)
        note = "" if ok else _why(lab, straight, processes)
    last = half if how == "term" else half + 1
    return Verified(
        ok=ok,
        steps=steps,
        stopped=f"{'SIGKILL' if how == 'kill' else 'SIGTERM'} after step {last}",
        resumed_from=resumed_from,
        processes=(processes, after),
        workers=(own, other),
        checks=checks,
        note=note,
        seconds=round(time.monotonic() - began, 1),
    )


@dataclass(frozen=True)
class _Lab:
    """Where the trainings run."""

    config: Config
    shards: str | Path
    folder: Path
    cache: str | Path | None
    half: int

    def run(self, name: str) -> Run:
        return Run(self.folder / name)

    def train(
        self,
        name: str,
        processes: int,
        *,
        how: How | None = None,
        workers: int | None = None,
        like: Run | None = None,
    ) -> Run:
        """One training, to its end or to its stop."""
        run, config = self.run(name), self.config
        if workers is not None:
            data = config.data.model_copy(update={"workers": workers})
            config = config.model_copy(update={"data": data})
        if like is not None:  # fitting a latent space again would only take time
            for path in like.folder.glob("autoencoder.*"):
                run.folder.mkdir(exist_ok=True)
                shutil.copy(path, run.folder / path.name)
        ready, job = self.folder / f"{name}.ready", self.folder / f"{name}.json"
        said = {
            "config": config.model_dump(mode="json"),
            "shards": str(self.shards),
            "out": str(run.folder),
            "cache": str(self.cache or self.folder / "cache"),
            "half": self.half,
            "how": how,
            "ready": str(ready),
        }
        write_json(job, said)
        codes, told = _launch(job, processes, ready if how == "kill" else None)
        wanted = {None: 0, "kill": -signal.SIGKILL, "term": STOPPED}[how]
        if any(code != wanted for code in codes):
            raise ModelError(f"the {name} training ended with {codes}, not {wanted}: {told}")
        return run


def _launch(job: Path, processes: int, ready: Path | None) -> tuple[list[int], str]:
    """Start the training's processes; kill all of them once ``ready`` is there."""
    command = [sys.executable, "-m", "s2v.model.verify_child", str(job)]
    log = job.with_suffix(".log")
    children: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as out:
            for environment in _environments(processes):
                children.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
        while any(child.poll() is None for child in children):
            if ready is not None and ready.exists():
                for child in children:
                    child.kill()
            if any(child.poll() not in (None, 0) for child in children):
                _end(children)  # the others wait for it in vain
            time.sleep(0.02)
    finally:
        _end(children, at_once=True)
    tail = log.read_text(errors="replace").strip().splitlines()
    return [int(child.returncode) for child in children], tail[-1] if tail else "it said nothing"


def _environments(processes: int) -> Iterator[dict[str, str]]:
    mine = {k: v for k, v in os.environ.items() if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    if processes == 1:
        yield mine
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(processes):
        yield mine | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }


def _end(children: list[subprocess.Popen[bytes]], *, at_once: bool = False) -> None:
    until = time.monotonic() + (0 if at_once else 30)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, until - time.monotonic()))
        if child.poll() is None:
            child.kill()
            child.wait()


def _for_test(config: Config, steps: int, half: int) -> Config:
    train = {"steps": steps, "checkpoint_every": half, "checkpoint_minutes": None, "keep": 2}
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def _newest(run: Run) -> checkpoint.Described:
    path = checkpoint.latest(run.checkpoints)
    if path is None:
        raise ModelError(f"{run.checkpoints}: the training left no checkpoint")
    return checkpoint.describe(path)


def _compare(a: Run, b: Run, *, exact: bool) -> dict[str, str]:
    """``same``, or what differs, per thing compared."""
    one, two = _newest(a), _newest(b)
    said = {"step": _told(one.step == two.step, f"{one.step} and {two.step}")}
    for part in PARTS:
        said[part] = _tensors(one, two, part, exact=exact)
    said["losses"] = _losses(a, b, exact=exact)
    for key in sorted(one.state.keys() | two.state.keys()):
        same = one.state.get(key) == two.state.get(key)
        said[f"state: {key}"] = _told(same, f"{_short(one.state.get(key))}, "
                                            f"{_short(two.state.get(key))}")  # fmt: skip
    return said


def _tensors(
    one: checkpoint.Described, two: checkpoint.Described, part: str, *, exact: bool
) -> str:
    a, b = open_part(one, part), open_part(two, part)
    if a.entries != b.entries:
        return f"differs: other tensors ({len(a.entries)} and {len(b.entries)})"
    other, worst, where = 0, 0.0, ""
    for name in a.entries:
        x, y = a.read(name), b.read(name)
        if torch.equal(_raw(x), _raw(y)):
            continue
        other += 1
        far = float((x.double() - y.double()).abs().max())
        if not far <= worst:  # also where it is not a number
            worst, where = far, name
    if not other:
        return f"same: {len(a.entries)} tensors, {sum(e.numel for e in a.entries.values())} numbers"
    text = f"{other} of {len(a.entries)} tensors, by at most {worst:.3g} ({where})"
    return f"differs: {text}" if exact else f"to rounding: {text}"


def _losses(a: Run, b: Run, *, exact: bool) -> str:
    one, two = ({x["step"]: x["loss"] for x in metrics.read(r.metrics)} for r in (a, b))
    if one.keys() != two.keys() or None in {*one.values(), *two.values()}:
        return f"differs: steps {sorted(one)} and {sorted(two)}, or one is not finite"
    worst = max(abs(one[s] - two[s]) for s in one)
    if worst == 0.0:
        return f"same: {len(one)} steps"
    close = all(abs(one[s] - two[s]) <= CLOSE * max(1.0, abs(one[s])) for s in one)
    return f"{'differs' if exact or not close else 'to rounding'}: by at most {worst:.3g}"


def _ahead(lab: _Lab, a: Run, b: Run) -> str:
    """Whether both would go on with the same samples, slot by slot."""
    one, two = (_next(lab, _newest(run)) for run in (a, b))
    same = one == two
    return f"same: {sum(map(len, one))} samples" if same else f"differs: {one[0]}, {two[0]}"


def _next(lab: _Lab, at: checkpoint.Described) -> list[list[str]]:
    """Sample ids of the next steps' slots, from a checkpoint's plan."""
    index = ShardIndex.open(lab.shards)
    excluded = Exclusions.read(lab.config.data.exclusions, index.table).reasons
    pool = pool_of(index.table, lab.config.data, excluded=excluded)
    widths = checkpoint.widths_of(at.about)
    plan = StepPlan.of(lab.config, pool, widths, image_tokens_of(lab.config))
    plan.restore(at.state["plan"])
    return [[d.sample_id for d in slot.draws] for step in plan.peek(AHEAD) for slot in step.slots]


def _why(lab: _Lab, straight: Run, processes: int) -> str:
    """A difference may be the machine's: does it repeat itself at all?"""
    again = lab.train("again", processes, like=straight)
    if _bad(_compare(straight, again, exact=True)):
        return (
            "two trainings that were not stopped differ as well: kernels here are not "
            "deterministic, so resuming cannot be judged to the last bit"
        )
    return "two trainings that were not stopped are the same: stopping made the difference"


def _bad(checks: Mapping[str, str]) -> bool:
    return any(text.startswith("differs") for text in checks.values())


def _told(same: bool, text: str) -> str:
    return "same" if same else f"differs: {text}"


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else text[:200] + "..."


def _raw(tensor: Tensor) -> Tensor:
    """Its bytes: -0 is not 0, and NaN is NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def _scratch(parent: str | Path | None) -> Iterator[Path]:
    """A folder that goes, also when this process is asked to end."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    main = threading.current_thread() is threading.main_thread()  # others cannot listen
    before = signal.signal(signal.SIGTERM, leave) if main else None
    try:
        with tempfile.TemporaryDirectory(prefix="s2v-verify-", dir=parent) as folder:
            yield Path(folder)
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
