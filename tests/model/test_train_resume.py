"""Whole trainings, killed and resumed: by the command that users run, and at random moments."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s2v.model import checkpoint, metrics, verify_child
from s2v.model import verify_resume as verify_resume_module
from s2v.model.checkpointing.parts import open_part
from s2v.model.cli import main
from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import train
from s2v.model.verify_resume import _bad, _compare, verify_resume

SLOTS = ("train.slots=2", "train.batch=2", "data.phases=[{from_step=3, mix={cross=1.0}}]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels and features of all trainings here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def straight(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Twelve steps without a stop."""
    out = tmp_path_factory.mktemp("straight")
    train(tiny(), drawn_shards, out, quiet, cache=cache)
    return Run(out)


def test_the_command_proves_a_kill_and_leaves_nothing(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL after step 3 of 4, the checkpoint at 2, then two loader workers instead of none."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(tiny(*SLOTS).to_toml())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = ["verify-resume", "--json", "--config", str(recipe), "--shards", str(drawn_shards)]
    command += ["--steps", "4", "--cache", str(cache), "--scratch", str(scratch)]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"]
    assert (said["stopped"], said["resumed_from"]) == ("SIGKILL after step 3", 2)
    assert said["workers"] == [0, 2]
    assert all(text.startswith("same") for text in said["checks"].values())
    assert {"model", "ema", "optim", "losses", "state: plan"} <= said["checks"].keys()
    assert said["checks"]["samples of the next 5 steps"] == "same: 20 samples"
    assert not list(scratch.iterdir())


@pytest.mark.prove
@pytest.mark.parametrize(
    ("processes", "after", "how"), [(1, 1, "term"), (2, 2, "kill"), (2, 1, "kill"), (1, 2, "kill")]
)
def test_the_command_proves_more_processes_and_other_numbers_of_them(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    cache: Path,
    tmp_path: Path,
    processes: int,
    after: int,
    how: Any,
) -> None:
    found = verify_resume(
        tiny(*SLOTS),
        drawn_shards,
        steps=6,
        how=how,
        processes=processes,
        resume_processes=after,
        cache=cache,
        scratch=tmp_path,
    )
    assert found.ok, found
    assert found.resumed_from == 3
    exact = processes == after
    assert found.checks["state: plan"] == "same"
    assert found.checks["losses"].startswith("same" if exact else ("same", "to rounding"))
    for part in ("model", "ema", "optim"):
        assert found.checks[part].startswith("same" if exact else ("same", "to rounding"))
    assert not list(tmp_path.iterdir())


def _forked(job: Path, processes: int, ready: Path | None) -> tuple[list[int], str]:
    """As the command starts its trainings, without a new Python for each."""
    assert (processes, ready) == (1, None)
    child = os.fork()
    if child == 0:
        os._exit(verify_child.main([str(job)]))
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])], ""


def test_the_verdict_is_no_where_stopping_made_a_difference(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A resumed half that draws other samples than the first one: exit status 1, and the reason."""
    recipe, lists = tmp_path / "mine.toml", tmp_path / "no.jsonl"
    recipe.write_text(tiny(*SLOTS).to_toml())
    row = {"key_type": "identity_id", "key": "identity-1", "reason": "", "by": "", "when": ""}
    lists.write_text(json.dumps(row) + "\n")
    lab, starts, excluded = verify_resume_module._Lab, list[tuple[str, Any]](), False
    begin = lab.train

    def other(self: Any, name: str, processes: int, **more: Any) -> Run:
        """A resumed half reads here, and honours a list that the first did not know."""
        starts.append((name, more.get("how")))
        if excluded and starts[-1] == ("stopped", None):
            data = self.config.data.model_copy(update={"exclusions": (str(lists),)})
            self = replace(self, config=self.config.model_copy(update={"data": data}))
        return begin(self, name, processes, **(more | {"workers": None}))

    monkeypatch.setattr(verify_resume_module, "_launch", _forked)
    monkeypatch.setattr(lab, "train", other)
    command = ["verify-resume", "--json", "--term", "--steps", "4", "--config", str(recipe)]
    command += ["--shards", str(drawn_shards), "--cache", str(cache), "--scratch", str(tmp_path)]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert starts == [("straight", None), ("stopped", "term"), ("stopped", None)]
    excluded = True
    assert main(command) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is False
    assert said["checks"]["losses"].startswith("differs")
    assert said["checks"]["model"].startswith("differs")
    assert said["note"].endswith("stopping made the difference")
    assert starts[3:] == [*starts[:3], ("again", None)]


def test_a_difference_of_one_bit_is_found(straight: Run, tmp_path: Path) -> None:
    """What the command compares is what it says it compares."""
    assert not any(
        t.startswith("differs") for t in _compare(straight, straight, exact=True).values()
    )
    copy = tmp_path / "bit"
    shutil.copytree(straight.folder, copy)
    newest = checkpoint.latest(copy / "checkpoints")
    assert newest is not None
    with (newest / "optim" / "rank-00000.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    said = _compare(straight, Run(copy), exact=True)
    assert said["optim"].startswith("differs: 1 of ")
    assert [k for k, text in said.items() if text.startswith("differs")] == ["optim"]
    assert _bad(said)
    assert not _bad(_compare(straight, straight, exact=True))
    # To rounding it may differ where the number of processes does.
    assert _compare(straight, Run(copy), exact=False)["optim"].startswith("to rounding: 1 of ")

    other = tmp_path / "loss"
    shutil.copytree(straight.folder, other)
    lines = metrics.read(other / "metrics.jsonl")
    lines[3]["loss"] *= 1 + 1e-5
    (other / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for exact in (True, False):
        assert _compare(straight, Run(other), exact=exact)["losses"].startswith("differs: by at")


@pytest.mark.parametrize(
    ("steps", "how", "told"), [(1, "term", "at least 2"), (2, "kill", "at least 3")]
)
def test_too_few_steps_are_refused(
    drawn_shards: Path, tiny: Callable[..., Config], steps: int, how: Any, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        verify_resume(tiny(), drawn_shards, steps=steps, how=how)


_CHILD = """
import json, sys
from s2v.model import config
from s2v.model.train import train
from s2v.model.progress import quiet
train(config.load(sys.argv[1]), sys.argv[2], sys.argv[3], quiet, cache=sys.argv[4])
"""


@pytest.mark.prove
def test_a_training_killed_at_random_moments_ends_as_if_it_had_not_been(
    straight: Run,
    drawn_shards: Path,
    tiny: Callable[..., Config],
    cache: Path,
    tmp_path: Path,
) -> None:
    """A checkpoint after every step, a kill a moment after a step, until the end is reached."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(tiny("train.checkpoint_every=1").to_toml())
    out = tmp_path / "run"
    chance, kills = random.Random(0), 0
    for _ in range(40):
        command = [sys.executable, "-c", _CHILD]
        command += [str(p) for p in (recipe, drawn_shards, out, cache)]
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            if kills < 8:
                _wait_for_progress(Run(out), child)
                time.sleep(chance.uniform(0, 0.15))
                child.kill()
                kills += 1
            code = child.wait(120)
        finally:
            child.kill()
        newest = checkpoint.latest(Run(out).checkpoints)
        if newest is not None:
            checkpoint.load(newest)  # every digest
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kills >= 3
    losses = [(x["step"], x["loss"]) for x in metrics.read(Run(out).metrics)]
    assert losses == [(x["step"], x["loss"]) for x in metrics.read(straight.metrics)]
    for part in ("model", "ema", "optim"):
        one, two = (_part(run, part) for run in (straight, Run(out)))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)


def _part(run: Run, part: str) -> dict[str, torch.Tensor]:
    path = checkpoint.latest(run.checkpoints)
    assert path is not None
    opened = open_part(checkpoint.describe(path), part)
    return {name: opened.read(name) for name in opened.entries}


def _wait_for_progress(run: Run, child: subprocess.Popen[bytes]) -> None:
    """Until a step was logged that was not there before, or the training ended."""
    before = run.metrics.stat().st_ino if run.metrics.is_file() else 0
    until = time.monotonic() + 120
    kept = -1
    while child.poll() is None and time.monotonic() < until:
        if run.metrics.is_file() and run.metrics.stat().st_ino != before:
            lines = len(metrics.read(run.metrics))
            kept = lines if kept < 0 else kept
            if lines > kept:
                return
        time.sleep(0.002)
