"""A checkpoint survives `kill -9` anywhere: real processes, killed at every file operation."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.model import checkpoint
from s2v.model.checkpoint import Checkpoint, Saver
from s2v.model.checkpointing import names
from s2v.model.errors import ModelError

#: What CPython says of a process's dealings with files (``sys.addaudithook``).
_FILES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}


def state(step: int, size: int = 40) -> Checkpoint:
    """A small training's state, different at every step."""
    g = torch.Generator().manual_seed(step)
    weights = {"w": torch.randn(size, 5, generator=g), "b": torch.randn(5, generator=g)}
    moments = {f"{n}/exp_avg": torch.randn(t.shape, generator=g) for n, t in weights.items()}
    counters = {f"{n}/step": torch.tensor(float(step)) for n in weights}
    return Checkpoint(
        step,
        weights,
        {n: t.half() for n, t in weights.items()},
        moments | counters,
        {"plan": {"drawn": {"in": 3 * step}}},
        {"network": {}, "features": "f"},
    )


def assert_is(path: Path, expected: Checkpoint) -> None:
    """Whole, digests right, and bit for bit what was saved."""
    found = checkpoint.load(path)
    assert (found.step, found.state) == (expected.step, expected.state)
    for part, tensors in expected.parts().items():
        read = found.parts()[part]
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[n], t) and read[n].dtype == t.dtype for n, t in tensors.items())


def in_child(do: Callable[[], None]) -> int:
    """Run ``do`` in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            do()
        except BaseException:  # noqa: BLE001 - the parent's tests must not run on in here
            os._exit(7)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def until_failed(saver: Saver) -> None:
    """Until the saver knows that its save in the background failed."""
    end = time.monotonic() + 60
    while not saver.failed:
        assert time.monotonic() < end
        time.sleep(0.01)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def dying_at(n: int, folder: Path) -> None:
    """From now on, this process is killed at its n-th operation on files below ``folder``."""
    left = [n]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            die()

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILES and arguments and str(arguments[0]).startswith(str(folder)):
            count()

    sync = os.fsync

    def fsync(handle: int) -> None:  # CPython does not announce it
        count()
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(heard)


@pytest.mark.parametrize(("keep", "asynchronous"), [(1, True), (1, False), (2, True)])
def test_killed_at_any_file_operation_a_whole_newest_checkpoint_is_left(
    tmp_path: Path, keep: int, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of a save, its rename and the clean-up behind it, one kill each."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kill takes no memory of the kernel's
    before = tmp_path / "before"
    for step in (1, 2):
        checkpoint.save(before, state(step), keep)
    newest = []
    for n in range(1000):
        folder = tmp_path / f"killed-{n}"
        shutil.copytree(before, folder)

        def one_save(folder: Path = folder, n: int = n) -> None:
            dying_at(n, folder)
            with Saver(folder, keep, asynchronous=asynchronous) as saver:
                saver.save(state(3))

        status = in_child(one_save)
        left = checkpoint.latest(folder)
        assert left is not None
        newest.append(int(left.name.removeprefix("step-")))
        assert_is(left, state(newest[-1]))
        assert checkpoint.resume_point(folder) == left  # a start sweeps
        assert not [p for p in folder.iterdir() if p.name.startswith(".step")]
        with Saver(folder, keep) as saver:  # and goes on
            saver.save(state(3))
            saver.save(state(4))
        assert [p.name for p in names.steps(folder)] == [p.name for p in names.steps(folder)][
            -keep:
        ]
        assert_is(folder / "step-00000004", state(4))
        shutil.rmtree(folder)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert status == 0  # the last one was not killed: every operation had its turn
    assert n > 30
    # There is one moment at which the new one becomes the newest, and it stays so.
    assert newest == sorted(newest)
    assert set(newest) == {2, 3}


@pytest.mark.parametrize("at", [0, 50, 700, 20_000, 60_000])
def test_killed_in_the_middle_of_a_write_the_one_before_is_left(tmp_path: Path, at: int) -> None:
    """The kernel ends the process when a file passes ``at`` bytes (SIGXFSZ)."""
    checkpoint.save(tmp_path, state(1), 2)

    def one_save() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it otherwise
        with Saver(tmp_path, 2) as saver:
            saver.save(state(2, size=4000))

    assert os.WTERMSIG(in_child(one_save)) == signal.SIGXFSZ
    assert [p.name for p in names.steps(tmp_path)] == ["step-00000001"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [".step-00000002.tmp"]
    assert_is(tmp_path / "step-00000001", state(1))
    checkpoint.save(tmp_path, state(2), 2)  # over the half one
    assert_is(tmp_path / "step-00000002", state(2))


def test_a_failed_save_in_the_background_is_told_and_tried_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), 2)

    def training() -> None:
        told: list[str] = []
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        saver = Saver(tmp_path, 2, tell=told.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        saver.save(state(2, size=4000))  # comes back: nothing has failed yet
        until_failed(saver)
        assert not told
        why = r"step-00000003: cannot write .*[GM]B are free; .*it goes on from the one before"
        with pytest.raises(ModelError, match=why):
            saver.retry(state(3, size=4000))
        assert len(told) == 1
        assert "step-00000002" in told[0]
        assert "trying once more at step 3" in told[0]
        saver.save(state(4, size=4000))
        until_failed(saver)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # somebody freed some space
        assert saver.retry(state(5)).name == "step-00000005"
        saver.close()

    assert in_child(training) == 0
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000001", "step-00000005"]
    assert_is(tmp_path / "step-00000005", state(5))


def test_a_failure_that_only_the_next_save_hears_of_is_tried_again_too(tmp_path: Path) -> None:
    """A slow disk: the next checkpoint is due before any step could see that one failed."""
    told: list[str] = []

    def training() -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        saver = Saver(tmp_path, 2, tell=told.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        saver.save(state(1, size=4000))
        until_failed(saver)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)  # somebody freed some space
        saver.save(state(2, size=4000))
        assert (tmp_path / "step-00000002").is_dir()  # waited for: it was the second try
        assert len(told) == 1
        assert "step-00000001: cannot write the checkpoint" in told[0]
        assert "trying once more at step 2" in told[0]
        saver.close()

    assert in_child(training) == 0
    assert_is(tmp_path / "step-00000002", state(2, size=4000))


def test_a_failed_last_save_is_not_lost_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    with (
        pytest.raises(ModelError, match="cannot write the checkpoint"),
        Saver(tmp_path / "file", 2) as saver,
    ):
        saver.save(state(1))
    told: list[str] = []

    def training() -> None:
        with Saver(tmp_path / "file", 2, tell=told.append) as saver:
            saver.save(state(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # its own error is the one that is raised
        training()
    assert len(told) == 1


def test_a_second_training_in_the_same_folder_is_kept_out(tmp_path: Path) -> None:
    """As when a scheduler starts a job again that still runs; a killed one is no hindrance."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        checkpoint.resume_point(tmp_path)
        (tmp_path / ".step-00000001.tmp").mkdir()  # a save under way
        os.write(go, b"1")
        signal.pause()
    os.read(ready, 1)
    with pytest.raises(ModelError, match=rf"process {child} on .* is training here; .*--out"):
        checkpoint.resume_point(tmp_path)
    assert (tmp_path / ".step-00000001.tmp").is_dir()  # not swept away under it
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert checkpoint.resume_point(tmp_path) is None
    assert not (tmp_path / ".step-00000001.tmp").exists()
    Saver(tmp_path, 1).close()  # lets others in
    assert in_child(lambda: None if checkpoint.resume_point(tmp_path) is None else die()) == 0


def test_looking_at_a_run_does_not_disturb_a_save_under_way(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1), 2)
    half = names.hidden(tmp_path, 2)
    (half / "model").mkdir(parents=True)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000001"
    assert checkpoint.load_weights(tmp_path / "step-00000001", "ema")
    assert half.is_dir()
    assert checkpoint.sweep(tmp_path) == [".step-00000002.tmp"]
    assert not half.exists()


class Killed(BaseException):
    """Ends an operation where a kill would; nothing in the product catches it."""


def small(folder: Path, step: int) -> None:
    """A hidden checkpoint, whole but for its name."""
    hidden = names.hidden(folder, step)
    shutil.rmtree(hidden, ignore_errors=True)
    (hidden / "model").mkdir(parents=True)
    (hidden / "model" / "rank-00000.safetensors").write_text(str(step))
    (hidden / names.STATE).write_text(str(step))


def whole(path: Path) -> bool:
    return all(
        (path / name).read_text() == str(names.step_of(path))
        for name in (names.STATE, "model/rank-00000.safetensors")
    )


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("save"), st.integers(1, 4), st.integers(0, 40)),
            st.tuples(st.just("start"), st.just(0), st.integers(0, 40)),
        ),
        max_size=12,
    )
)
def test_whatever_happens_the_newest_is_whole_and_old_ones_go(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, int, int]]
) -> None:
    """Saves and starts in any order, each killed after some operations or let finish."""
    folder = tmp_path_factory.mktemp("checkpoints")
    step = published = 0
    for what, keep, operations in story:
        left = [operations]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "unlink", "rmdir", "mkdir", "fsync"):
                real = getattr(os, name)

                def slow(*a: Any, _real: Any = real, left: list[int] = left, **k: Any) -> Any:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return _real(*a, **k)

                patch.setattr(os, name, slow)
            try:
                if what == "save":
                    step = max(step, published) + 1
                    small(folder, step)
                    names.publish(folder, step)
                    names.retire(folder, keep)
                else:
                    names.sweep(folder)
                finished = True
            except Killed:
                finished = False
        newest = names.latest(folder)
        of = names.step_of(newest) if newest is not None else 0
        assert of is not None
        assert of >= published  # what was once the newest is only ever followed by a newer one
        if what == "save" and finished:
            assert of == step
            assert len(names.steps(folder)) <= keep
        if what == "start" and finished:
            assert not [p for p in folder.iterdir() if p.name.startswith(".step")]
        published = of
        assert all(whole(path) for path in names.steps(folder))
