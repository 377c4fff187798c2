"""Encoding on Ray is encoding: the same bytes from a pool of actors as from one process."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import encode
import pytest
from finished_run import ROOT, called, job

from s2v.model import cli

pytestmark = pytest.mark.ray
RECIPE = """
[encoders]
text = "hashed"
image = "pixels"
[data]
height = 48
width = 80
frames = 9
variants = 2
[train]
device = "cpu"
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn shards, as the model's tests have them."""
    spec = spec_from_file_location("drawn", ROOT / "tests" / "model" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    drawn = module_from_spec(spec)
    sys.modules["drawn"] = drawn  # its dataclasses ask for it
    spec.loader.exec_module(drawn)
    samples = [drawn.Drawn(i, n) for i in range(2) for n in range(3)]
    samples += [drawn.Drawn(i, n, pair="cross") for i in range(2) for n in range(2)]
    folder: Path = drawn.write_shards(tmp_path_factory.mktemp("shards"), samples)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_two_actors_write_what_one_process_writes(
    shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], shared_ray: str
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    common = ["--shards", str(shards), "--recipe", str(recipe), "--run", str(tmp_path / "run")]
    common += ["--quiet", "--json"]
    ray = tmp_path / "ray"
    done = job("encode", *common, "--out", str(ray), "--cpus", "2", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert (said["samples"], said["encoded"], said["open"], said["made"]) == (10, 10, 0, 10)
    alone = called(capfd, cli.main, "encode", *common, "--out", str(tmp_path / "one"))
    assert alone.returncode == 0
    one = json.loads(alone.stdout)
    assert one["fingerprint"] == said["fingerprint"]
    folder = ray / said["fingerprint"]
    assert _files(folder) == _files(Path(one["folder"]))
    # A shard that nobody can read: the others are there, one line names it.
    (folder / "in-000000.tar").unlink()
    (shards / "in-000000.tar").rename(shards / "in-000000.gone")
    again = job("encode", *common, "--out", str(ray), ray=shared_ray, timeout=300)
    (shards / "in-000000.gone").rename(shards / "in-000000.tar")
    assert again.returncode == 1
    assert "4 samples are encoded, but 1 shards could not be (in-000000.tar)" in again.stderr
    assert again.stderr.count("\n") == 1


def test_folders_that_mean_nothing_elsewhere_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    done = called(capfd, encode.main, "--shards", "shards", "--recipe", "demo_tiny")
    assert done.returncode == 1
    assert "--shards shards: give an absolute folder" in done.stderr
    assert done.stderr.count("\n") == 1
