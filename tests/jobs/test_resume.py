"""Stopped anywhere, a run goes on where it was and ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from finished_run import called, environment

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.cli import main

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.assets]

#: Each is waited for, then the driver is stopped: in the middle of every part of a run. Its Ray is
#: its own and ends with it, or stays, with the actors that a lost driver leaves to it.
STOPS = (
    ("measure/probe-*/*.json", 2, signal.SIGKILL, "own"),
    ("measure/shots-*/*.json", 1, signal.SIGINT, "own"),
    ("measure/caption-*/*.json", 1, signal.SIGKILL, "shared"),
    ("clips/*/*.mp4", 1, signal.SIGKILL, "shared"),
)
NAMES = ("man-clip", "man-photo", "obama-1", "bikes")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fetch(NAMES)
    folder = tmp_path_factory.mktemp("small")
    rows = [{"video_id": name, "path": str(asset(name)), "licence": "test"} for name in NAMES]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "small.toml"
    path.write_text(
        f'sources = [{{ manifest = "{folder / "manifest.jsonl"}" }}]\n'
        "[engine]\nunit_clips = 2\n[select.sample]\nimage_samples = false\n"
    )
    return path


def start(config: Path, folder: Path, *more: str, ray: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "jobs/curate.py", "--config", str(config), "--quiet",
         "--set", f"folder={folder}", *more],
        cwd=ROOT, env=environment(ray), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(config: Path, folder: Path, *more: str, ray: str = "") -> str:
    run = start(config, folder, *more, ray=ray)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err[-3000:]
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "shards").rglob("*"))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def wait_for(run: subprocess.Popen[str], folder: Path, pattern: str, count: int) -> None:
    deadline = time.monotonic() + 400
    while len(list(folder.glob(pattern))) < count:
        assert run.poll() is None, f"finished before {pattern} could be seen"
        assert time.monotonic() < deadline, f"no {pattern} within 400 s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(config: Path, shared_ray: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, by one actor at a time; the stopped ones have two."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(config, folder, "--set", "engine.actors=1", ray=shared_ray)
    return folder


def test_a_run_stopped_at_four_points_ends_with_identical_shards(
    config: Path, whole: Path, shared_ray: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for pattern, count, how, whose in STOPS:
        run = start(config, folder, ray=shared_ray if whose == "shared" else "")
        wait_for(run, folder, pattern, count)
        run.send_signal(how)
        _, err = run.communicate(timeout=120)
        if how == signal.SIGINT:
            assert run.returncode == 130
            assert "run the same command again" in err
            assert "Traceback" not in err
    finish(config, folder, ray=shared_ray)
    assert digests(folder) == digests(whole)


def test_a_second_run_measures_nothing_and_keeps_every_byte(
    config: Path, whole: Path, capfd: pytest.CaptureFixture[str], ray_here: None
) -> None:
    before = digests(whole)
    where = ("--config", str(config), "--set", f"folder={whole}")
    again = called(capfd, main, "run", *where, "--quiet")
    assert again.returncode == 0, again.stderr
    assert "measured now: {}" in again.stdout
    assert digests(whole) == before


def reselect(
    capfd: pytest.CaptureFixture[str], config: Path, folder: Path, *options: str
) -> dict[str, Any]:
    done = called(
        capfd, main, "select", "--config", str(config), "--quiet", "--json", "--no-write",
        "--set", f"folder={folder}", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_selecting_from_views_alone_says_what_all_commits_say(
    config: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    views, commits = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("a", "b"))
    shards = digests(views)
    first = reselect(capfd, config, views)
    assert first["measured now"] == {}  # a copy's views are not trusted: made anew
    assert reselect(capfd, config, views)["tables written"] == []
    for path in views.glob("measure/*/*.parquet"):
        path.unlink()  # what is not opened is not missed
    changed = ("--set", "select.sample.max_references=1", "--set", "select.detection.min_side=200")
    said = reselect(capfd, config, views, *changed)
    assert "samples" in said["tables written"]
    assert not {"clips", "masks", "embeddings", "faces"} & set(said["tables written"])
    assert reselect(capfd, config, commits, *changed)["samples"] == said["samples"]
    one, other = (
        {p.name: p.read_bytes() for p in run.glob("tables/*")} for run in (views, commits)
    )
    assert one == other
    assert digests(views) == shards


def test_a_second_process_on_the_same_run_is_refused(config: Path, tmp_path: Path) -> None:
    from s2v.datapipe.engine.lock import run_lock

    with run_lock(tmp_path / "run"):
        second = start(config, tmp_path / "run")
        _, err = second.communicate(timeout=120)
    assert second.returncode == 1
    assert "another process is working on this run" in err


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_a_driver_killed_at_many_random_moments_ends_with_identical_shards(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    moments = random.Random(0)
    for _ in range(int(os.environ.get("S2V_PROVE_KILLS", "20"))):
        run = start(config, folder)
        try:
            run.communicate(timeout=moments.uniform(3, 40))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
    finish(config, folder)
    assert digests(folder) == digests(whole)
