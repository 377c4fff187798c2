"""Disks that are full, cut or not ours: one line with the file and the way out, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.shards import ShardError, ShardIndex
from s2v.model import lora, metrics
from s2v.model.autoencoder import LinearAutoencoder
from s2v.model.checkpointing import lock
from s2v.model.cli import main
from s2v.model.config import Config
from s2v.model.data import cached
from s2v.model.data.complete import check_shards
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.pool import pool_of
from s2v.model.data.quarantine import Fault, add_to_list
from s2v.model.errors import ModelError
from s2v.model.explaining import disk_told, of_disk
from s2v.model.progress import quiet
from s2v.model.sinks import Log
from s2v.model.train import train


def test_a_run_folder_that_cannot_be_is_one_line(
    drawn_shards: Path, base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    sets = [word for one in base for word in ("--set", one)]
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        argv = ["train", "--shards", str(drawn_shards), "--out", str(out), "--quiet", *sets]
        assert main(argv) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"{tmp_path}/file" in told
        assert "--out" in told


def test_a_cache_that_cannot_be_written_costs_time_and_not_the_run(
    drawn_shards: Path,
    tiny: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cache").write_text("")
    first = train(tiny("train.steps=2"), drawn_shards, tmp_path / "a", quiet)
    second = train(
        tiny("train.steps=2"), drawn_shards, tmp_path / "b", quiet, cache=tmp_path / "cache"
    )
    assert second.last_loss == first.last_loss
    assert second.quarantined == 0
    told = [x for x in capsys.readouterr().err.splitlines() if "give another --cache" in x]
    assert len(told) == 2  # pixels and features, each once
    assert all(str(tmp_path / "cache") in line for line in told)


def test_a_full_disk_keeps_no_half_entry(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        there = cached.keep(tmp_path / "cache" / "x.safetensors", {"x": torch.zeros(1 << 20)})
        os._exit(1 if there else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("freed", [True, False])
def test_metrics_wait_for_room_on_a_full_disk_and_are_named_where_none_comes(
    tmp_path: Path, freed: bool
) -> None:
    """A checkpoint that does not fit fills the disk for a while: no reason to end the training."""
    said, told = tmp_path / "said", tmp_path / "told"
    child = os.fork()
    if child == 0:
        with told.open("w") as err:
            os.dup2(err.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with (
                disk_told(),
                Log(tmp_path / "metrics.jsonl", folder=tmp_path, config={}, after=0) as log,
            ):
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
                for step in range(100):
                    log.add({"step": step, "loss": 1.0})
                if freed:
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        except ModelError as error:
            said.write_bytes(str(error).encode()[:900])
        os._exit(0)
    os.waitpid(child, 0)
    path = tmp_path / "metrics.jsonl"
    assert told.read_text().count("\n") == 1
    assert f"{path}: File too large; lines wait in memory; free some space" in told.read_text()
    steps = [line["step"] for line in metrics.read(path)]
    assert steps == list(range(len(steps)))
    if freed:
        assert len(steps) == 100
        assert not said.exists()
    else:
        assert 20 < len(steps) < 50  # what had room, to the last whole line
        assert said.read_text() == f"{path}: File too large; free some space, and start again"


def test_what_is_written_aside_says_its_name_on_a_full_disk(tmp_path: Path) -> None:
    """The system names no file when a write fails; a user must know which disk it was."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        works: list[Callable[[], object]] = [
            lambda: write_json(tmp_path / "result.json", ["x" * 2000]),
            lambda: add_to_list(tmp_path / "quarantine.jsonl", [Fault("a", "x" * 2000)], 1),
            lambda: lora.write(
                tmp_path / "lora.safetensors",
                {"q.lora_A.weight": torch.ones(9, 99), "q.lora_B.weight": torch.ones(99, 9)},
                1.0,
                peft=False,
            ),
        ]
        for n, work in enumerate(works):
            try:
                with disk_told():
                    work()
            except ModelError as error:
                (tmp_path / f"said-{n}").write_text(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    for n, name in enumerate(("result.json", "quarantine.jsonl", "lora.safetensors")):
        told = (tmp_path / f"said-{n}").read_text()
        assert told == f"{tmp_path}/{name}: File too large; free some space, and start again"


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EACCES, "this user may read and write"),
        (errno.EROFS, "this user may read and write"),
        (errno.ENOTDIR, "give another path"),
        (errno.EIO, "its disk is there"),
    ],
)
def test_what_a_disk_says_has_the_file_and_a_way_out(number: int, way: str) -> None:
    said = of_disk(OSError(number, os.strerror(number), "/runs/a"))
    assert said is not None
    assert said.startswith(f"/runs/a: {os.strerror(number)}; ")
    assert way in said


def test_what_is_no_disk_keeps_its_traceback() -> None:
    assert of_disk(ConnectionResetError(errno.ECONNRESET, "reset")) is None
    with pytest.raises(ConnectionResetError), disk_told():
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_damaged_line_of_metrics_costs_itself_and_not_those_after_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": n, "loss": 1.0}).encode() for n in range(1, 5)]
    bad = [b"\x00\x00\xff", b'{"step": 2, "lo', b"7", b'{"loss": 1}']
    path.write_bytes(b"\n".join([bad[0], good[0], bad[1], good[1], bad[2], *good[2:], bad[3]]))
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3, 4]
    metrics.MetricsLog(path, 3).close()  # as a start that goes on from step 3
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3]


def test_damaged_lengths_of_shards_are_not_taken_for_none(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(drawn_shards, shards)
    (shards / "index" / "shards.parquet").write_bytes(b"PAR1 cut")
    index = ShardIndex.open(shards)
    with pytest.raises(ModelError, match=r"shards\.parquet: is damaged \(.*fetch it again"):
        check_shards(index, pool_of(index.table, tiny().data))


def test_a_list_that_is_a_folder_is_named(drawn_shards: Path, tmp_path: Path) -> None:
    table = ShardIndex.open(drawn_shards).table
    with pytest.raises(ModelError, match=rf"{tmp_path}: Is a directory; name a JSONL file"):
        Exclusions.read([tmp_path], table)


def _without_rights(work: Callable[[], object]) -> str:
    """What ``work`` says where the superuser obeys permissions like everybody else."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:  # as somebody whom nothing belongs to
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            work()
            os.write(writer, b"nothing")
        except (ModelError, ShardError) as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        return said.read()


def test_what_may_not_be_read_or_written_is_said_before_the_first_step(
    drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    """Else the first checkpoint, hours later, is where a wrong folder shows."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        shards = Path(shutil.copytree(drawn_shards, folder / "shards"))
        shards.chmod(0o755)
        index = ShardIndex.open(shards)
        pool = pool_of(index.table, tiny().data)
        checkpoints = folder / "checkpoints"
        lock.hold(checkpoints)
        lock.release(checkpoints)
        (checkpoints / ".lock").chmod(0o666)
        checkpoints.chmod(0o555)
        told = _without_rights(lambda: lock.hold(checkpoints))
        assert told.startswith(f"{checkpoints}: cannot be written (Permission denied); give")
        tar = shards / "in-000000.tar"
        tar.chmod(0)
        told = _without_rights(lambda: check_shards(index, pool))
        assert told.startswith(f"{tar}: the shard may not be read; change its permissions")
        (shards / "index" / "samples.parquet").chmod(0)
        told = _without_rights(lambda: ShardIndex.open(shards))
        assert "samples.parquet: cannot be read" in told
        own = folder / "autoencoder.safetensors"
        own.write_bytes(b"x")
        own.chmod(0)
        told = _without_rights(lambda: LinearAutoencoder.load(own))
        assert told == f"{own}: cannot be read; change its permissions"
