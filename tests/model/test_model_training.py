"""Training is exact: killed anywhere it goes on, and ends with the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.write.tar import write_index
from s2v.model import checkpoint, flow, metrics, optim
from s2v.model.checkpoint import Checkpoint
from s2v.model.config import Config, OptimConfig
from s2v.model.errors import Interrupted, ModelError
from s2v.model.heldout import heldout, paired
from s2v.model.progress import quiet
from s2v.model.run import Run
from s2v.model.train import TrainResult, train


@pytest.fixture(scope="module")
def finished(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult]:
    """An uninterrupted run of twelve steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, train(tiny(), drawn_shards, out, quiet)


def _losses(run: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in metrics.read(run / "metrics.jsonl")]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    path = checkpoint.latest(run / "checkpoints")
    assert path is not None
    one = "rank-00000.safetensors"
    return load_file(path / "ema" / one) | {
        f"model.{k}": v for k, v in load_file(path / "model" / one).items()
    }


def test_a_run_leaves_what_it_says(finished: tuple[Path, TrainResult]) -> None:
    out, result = finished
    assert [step for step, _ in _losses(out)] == list(range(1, 13))
    assert sorted(p.name for p in (out / "checkpoints").glob("step-*")) == [
        "step-00000010",  # keep = 2
        "step-00000012",
    ]
    assert result.samples == {"cross": 4, "in": 8}
    assert sum(result.samples.values()) + sum(result.dropped.values()) + result.quarantined == 18
    assert json.loads((out / "result.json").read_text())["steps"] == 12
    report = json.loads((out / "autoencoder.json").read_text())
    assert (report["train_samples"], report["heldout_samples"]) == (12, 4)
    assert report["heldout_psnr_db"] > 20
    line = metrics.read(out / "metrics.jsonl")[-1]
    assert set(line["loss_by_pair"]) <= {"in", "cross"}
    assert set(line["loss_by_references"]) <= {"1", "2"}
    assert line["hidden"]["vae"] == result.rates["vae"]  # of all steps so far
    # 12 steps of 4 at 0.7 / 0.3: 33.6 and 14.4.
    assert result.rates["source in"] * 48 == pytest.approx(33.6, abs=1)


def test_a_second_start_does_nothing_again(
    finished: tuple[Path, TrainResult], drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    out, first = finished
    before = (out / "metrics.jsonl").read_bytes()
    again = train(tiny(), drawn_shards, out, quiet)
    assert (out / "metrics.jsonl").read_bytes() == before
    assert (again.steps, again.last_loss) == (first.steps, first.last_loss)


_CHILD = """
import sys
from s2v.model import config
from s2v.model.cli import main
sys.exit(main(["train", "--quiet", "--shards", sys.argv[1], "--out", sys.argv[2],
               "--recipe", sys.argv[3]]))
"""


def _child(shards: Path, out: Path, recipe: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(shards), str(out), str(recipe)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.is_file() else 0


def _wait_for_step(
    out: Path, step: int, child: subprocess.Popen[bytes], inode: int | None = None
) -> None:
    """Wait until ``child`` has logged ``step``; a resumed run first rewrites the file."""
    path, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while _inode(path) == inode or len(metrics.read(path)) < step:
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_kill_9_and_sigterm_lose_nothing(
    finished: tuple[Path, TrainResult],
    drawn_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
) -> None:
    """A real process is killed after step 6 (checkpoint at 5), stopped later, then let finish."""
    whole, _ = finished
    recipe = tmp_path / "recipe.toml"
    # Waiting for the disk at step 5: written behind, it might not be there yet at step 6.
    recipe.write_text(tiny("train.checkpoint_async=false").to_toml())
    out = tmp_path / "run"
    killed = _child(drawn_shards, out, recipe)
    _wait_for_step(out, 6, killed)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    newest = checkpoint.latest(out / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).step >= 5
    # What a kill may leave: half a line, half a checkpoint under its temporary name.
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    (out / "checkpoints" / ".step-00000010.99.tmp").mkdir()
    inode = _inode(out / "metrics.jsonl")
    stopped = _child(drawn_shards, out, recipe)
    _wait_for_step(out, checkpoint.load(newest).step + 1, stopped, inode)
    stopped.terminate()
    _, told = stopped.communicate()
    if stopped.returncode != 0:  # 0: it had finished before the signal came
        assert stopped.returncode == 128 + signal.SIGTERM
        assert b"a checkpoint is saved" in told
        assert told.count(b"\n") == 1
    last = _child(drawn_shards, out, recipe)
    _, told = last.communicate(timeout=120)
    assert last.returncode == 0, told
    assert _losses(out) == _losses(whole)  # to the last bit
    ours, theirs = _weights(out), _weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not [p for p in (out / "checkpoints").iterdir() if p.name.startswith(".step")]


def test_a_signal_in_this_process_saves_and_says_so(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    @contextmanager
    def interrupting(title: str, total: int) -> Iterator[Callable[..., None]]:
        def step(n: int = 1, note: str = "") -> None:
            if title == "train":
                os.kill(os.getpid(), signal.SIGINT)

        yield step

    with pytest.raises(Interrupted, match="after step 1"):
        train(tiny(), drawn_shards, tmp_path, interrupting)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000001"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_configuration_or_other_shards_are_not_mixed_into_a_run(
    finished: tuple[Path, TrainResult],
    drawn_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    with pytest.raises(ModelError, match=r"optim\.lr: 0\.002 -> 0\.01"):
        train(tiny("optim.lr=0.01"), drawn_shards, out, quiet)
    longer = train(tiny("train.steps=13"), drawn_shards, out, quiet)  # more steps may be asked for
    assert longer.steps == 13
    only_in = tmp_path / "shards"
    shutil.copytree(drawn_shards, only_in)
    rows = [s.row for s in ShardIndex.open(only_in) if s.row["pair_type"] == "in"]
    write_index(only_in, rows)
    with pytest.raises(ModelError, match="changed since the checkpoint"):
        train(tiny("train.steps=14"), only_in, out, quiet, cache=tmp_path / "other")


def test_a_damaged_checkpoint_is_named_and_an_older_one_serves(
    finished: tuple[Path, TrainResult],
    drawn_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    newest = out / "checkpoints" / "step-00000012"
    with (newest / "optim" / "rank-00000.safetensors").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\x01" * 8)
    with pytest.raises(
        ModelError, match=r"optim/rank-00000\.safetensors: .*remove .*step-00000012"
    ):
        train(tiny(), drawn_shards, out, quiet)
    shutil.rmtree(newest)
    train(tiny(), drawn_shards, out, quiet)
    assert _losses(out) == _losses(finished[0])


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    one = Checkpoint(1, {"w": torch.ones(3)}, {"w": torch.ones(3)}, {}, {}, {})
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, one, keep=1)
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from s2v.model import checkpoint\n"
        "from s2v.model.errors import ModelError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "big = {'w': torch.zeros(100_000)}\n"
        "two = checkpoint.Checkpoint(2, big, big, {}, {}, {})\n"
        "try:\n"
        "    checkpoint.save(Path(sys.argv[1]), two, keep=1)\n"
        "except ModelError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert "step-00000002: cannot write the checkpoint" in done.stdout
    assert "free some space" in done.stdout
    assert [p.name for p in folder.iterdir()] == ["step-00000001"]
    assert checkpoint.load(folder / "step-00000001").step == 1


def test_a_run_that_blows_up_stops_and_names_the_knob(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("optim.lr=1e30", "optim.warmup=0", "train.patience=2")
    with pytest.raises(ModelError, match=r"3 steps in a row are not finite .* lower optim\.lr"):
        train(config, drawn_shards, tmp_path, quiet)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert [(line["grad_norm"], line["loss"]) for line in lines][-2:] == [(None, None)] * 2


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = OptimConfig(lr=1.0, warmup=10, final_lr=0.1)
    rates = [optim.learning_rate(config, s, 100) for s in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.1)


def test_heldout_compares_right_with_another_identity_under_the_same_noise(
    finished: tuple[Path, TrainResult], drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    out, _ = finished
    first = heldout(out, drawn_shards, quiet)
    assert (first.samples, first.clips, first.skipped, first.faults) == (4, 4, 0, 0)
    assert first.swapped_minus_right.low <= first.swapped_minus_right.mean
    assert first.swapped_minus_right.mean == pytest.approx(first.swapped - first.right, abs=1e-9)
    assert heldout(out, drawn_shards, quiet) == first  # same noise, same partners, same batches
    # The batch size is not part of the measure.
    config = Run(out).config()
    alone = config.model_copy(update={"heldout": config.heldout.model_copy(update={"batch": 1})})
    other = heldout(out, drawn_shards, quiet, config=alone)
    assert other.right == pytest.approx(first.right, rel=1e-4)
    assert other.swapped == pytest.approx(first.swapped, rel=1e-4)


def test_heldout_levels_are_training_s_unless_even_ones_are_asked_for(
    finished: tuple[Path, TrainResult], drawn_shards: Path
) -> None:
    run = Run(finished[0])
    trained = heldout(finished[0], drawn_shards, quiet)
    even = heldout(finished[0], drawn_shards, quiet, config=run.config(["heldout.spread=uniform"]))
    assert (trained.spread, even.spread) == ("training", "uniform")
    assert list(even.by_level) == ["0.2500", "0.7500"]
    told = flow.quantiles(run.config().flow, 2)
    assert list(trained.by_level) == [f"{level:.4f}" for level in told]
    for found in (trained, even):
        assert np.mean([values[0] for values in found.by_level.values()]) == pytest.approx(
            found.right
        )


def test_samples_of_one_clip_count_as_one_in_the_interval() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0])
    apart = paired(values, ["a", "b", "c", "d"], 0)
    doubled = paired(np.repeat(values, 5), [c for c in "abcd" for _ in range(5)], 0)
    assert (doubled.mean, doubled.low, doubled.high) == (apart.mean, apart.low, apart.high)
    assert (apart.mean, apart.share_positive) == (1.5, 0.75)
    assert 0 < apart.low < 1.5 < apart.high < 3
    alone = paired(np.repeat(values, 5), [str(i) for i in range(20)], 0)
    assert alone.high - alone.low < 0.6 * (apart.high - apart.low)


def test_it_learns_from_real_shards_to_use_the_reference(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Two colours, one caption: on clips it never saw, the wrong reference costs loss."""
    config = tiny(
        "train.steps=150",
        "train.batch=8",
        "train.checkpoint_every=150",
        "optim.lr=4e-3",
        "optim.ema=0.95",
        "network.width=48",
        "dropout.vae=0.3",
        "autoencoder.normalise=global",
        "heldout.levels=4",
    )
    result = train(config, drawn_shards, tmp_path, quiet)
    assert result.last_loss < 0.5 * result.first_loss
    measured = heldout(tmp_path, drawn_shards, quiet)
    assert measured.swapped_minus_right.low > 0
    assert measured.swapped > 1.05 * measured.right
