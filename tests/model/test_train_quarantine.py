"""What training could not read is on the disk when training ends, however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import checkpoint
from s2v.model.checkpointing import lock
from s2v.model.config import Config
from s2v.model.data.quarantine import Fault, add_to_list, begin_list
from s2v.model.errors import ModelError
from s2v.model.progress import Step, quiet
from s2v.model.train import train

Tiny = Callable[..., Config]
LATE = ("data.prepare=false", "train.steps=8", "train.checkpoint_every=2", "train.keep=9")


class GoneError(RuntimeError):
    """As a process that is killed: nothing after it runs but what python cleans up."""


def _stopping(after: int) -> Callable[[str, int], Any]:
    @contextmanager
    def track(title: str, total: int) -> Iterator[Step]:
        done = 0

        def step(n: int = 1, note: str = "") -> None:
            nonlocal done
            done += n
            if title == "train" and done == after:
                raise GoneError

        yield step

    return track


def _rotten(shards: Path, to: Path, wanted: Callable[[Any], bool]) -> tuple[Path, set[str]]:
    """A copy of the shards in which the clips of some samples are damaged."""
    shutil.copytree(shards, to)
    bad = set()
    for sample in ShardIndex.open(to):
        if wanted(sample):
            bad.add(sample.id)
            member = next(m for m in sample.row["members"] if m["suffix"] == "mp4")
            with (to / str(sample.row["shard"])).open("r+b") as file:
                file.seek(member["offset"] + 30)
                file.write(b"\xff" * 9)
    return to, bad


@pytest.fixture(scope="module")
def rotten(drawn_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    to = tmp_path_factory.mktemp("rotten") / "shards"
    return _rotten(drawn_shards, to, lambda sample: sample.id.endswith(("1", "2")))


@pytest.fixture(scope="module")
def fitted(
    drawn_shards: Path, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Path]:
    """Puts the latent space, fitted to whole shards, into a run folder."""
    out = tmp_path_factory.mktemp("fitted") / "run"
    train(tiny("train.steps=1"), drawn_shards, out, quiet)

    def into(run: Path) -> Path:
        run.mkdir()
        for path in out.glob("autoencoder.*"):
            shutil.copy(path, run)
        return run

    return into


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]


def test_a_killed_training_has_told_what_it_could_not_read_and_a_resumed_one_once(
    rotten: tuple[Path, set[str]], fitted: Callable[[Path], Path], tiny: Tiny, tmp_path: Path
) -> None:
    shards, bad = rotten
    straight, killed = fitted(tmp_path / "straight"), fitted(tmp_path / "killed")
    train(tiny(*LATE), shards, straight, quiet, cache=tmp_path / "cache")
    whole = _lines(straight)
    assert {line["sample_id"] for line in whole} <= bad
    met = sorted(line["step"] for line in whole)
    assert met
    assert met[0] > 0
    with pytest.raises(GoneError):
        train(tiny(*LATE), shards, killed, _stopping(3), cache=tmp_path / "cache")
    assert _lines(killed) == [line for line in whole if line["step"] <= 3]
    assert _lines(killed)  # else this has shown nothing
    train(tiny(*LATE), shards, killed, quiet, cache=tmp_path / "cache")
    assert _lines(killed) == whole


def test_a_run_that_the_fuse_ends_leaves_the_list_that_says_why(
    drawn_shards: Path, fitted: Callable[[Path], Path], tiny: Tiny, tmp_path: Path
) -> None:
    shards, bad = _rotten(drawn_shards, tmp_path / "shards", lambda sample: True)
    run = fitted(tmp_path / "late")
    with pytest.raises(ModelError, match="3 samples in a row are unreadable"):
        train(tiny(*LATE, "data.fuse=3"), shards, run, quiet)
    assert len(_lines(run)) == 3
    run = fitted(tmp_path / "none")
    with pytest.raises(ModelError, match=r"none of \d+ samples that were tried can be read"):
        train(tiny(*LATE, "data.fuse=99"), shards, run, quiet)
    assert {line["sample_id"] for line in _lines(run)} <= bad
    assert len(_lines(run)) > 3
    before = fitted(tmp_path / "before")
    with pytest.raises(ModelError, match="in a row are unreadable"):
        train(tiny("data.fuse=4"), shards, before, quiet)
    assert len(_lines(before)) == 4
    assert {line["sample_id"] for line in _lines(before)} <= bad
    assert {line["step"] for line in _lines(before)} == {None}


def test_a_second_start_of_a_running_training_changes_nothing_of_it(
    drawn_shards: Path, fitted: Callable[[Path], Path], tiny: Tiny, tmp_path: Path
) -> None:
    run = fitted(tmp_path / "run")
    train(tiny("train.steps=1"), drawn_shards, run, quiet)
    (run / "quarantine.jsonl").write_text('{"sample_id": "of the first"}\n')
    kept = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        lock.hold(run / "checkpoints")
        os.write(go, b"1")
        signal.pause()
    os.read(ready, 1)
    try:
        with pytest.raises(ModelError, match="is training here"):
            train(tiny("train.steps=9"), drawn_shards, run, quiet)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == kept


def test_a_start_that_fails_lets_the_next_one_in(
    drawn_shards: Path, fitted: Callable[[Path], Path], tiny: Tiny, tmp_path: Path
) -> None:
    run = fitted(tmp_path / "run")
    train(tiny("train.steps=1"), drawn_shards, run, quiet)
    with pytest.raises(ModelError, match="another configuration"):
        train(tiny("train.steps=1", "optim.lr=0.5"), drawn_shards, run, quiet)
    child = os.fork()  # the lock is between processes
    if child == 0:
        try:
            checkpoint.resume_point(run / "checkpoints")
        except ModelError:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_list_keeps_what_was_met_before_its_checkpoint_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    begin_list(path, [Fault("b", "cut"), Fault("a", "cut")], 0)
    add_to_list(path, [Fault("d", "rot"), Fault("c", "rot"), Fault("a", "rot")], 4)
    add_to_list(path, [Fault("c", "rot"), Fault("e", "rot")], 7)
    told = [(x["sample_id"], x["step"]) for x in _lines(tmp_path)]
    assert told == [("a", None), ("b", None), ("c", 4), ("d", 4), ("e", 7)]
    with path.open("a") as file:
        file.write('{"sample_id": "f", "st')  # killed in the middle of a line
    begin_list(path, [Fault("b", "cut"), Fault("d", "cut")], 5)  # e comes again, a was mended
    told = [(x["sample_id"], x["step"]) for x in _lines(tmp_path)]
    assert told == [("b", None), ("c", 4), ("d", 4)]
