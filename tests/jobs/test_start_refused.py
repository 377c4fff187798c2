"""What cannot work ends a run in its first seconds, with one line that names the way out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
from finished_run import job

from s2v.datapipe.base.assets import asset, fetch
from s2v.datapipe.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.assets]
SECONDS = 90  # on a machine that others use as well; five when it is idle

Refuse = Callable[[str], str]


@pytest.fixture
def refused(ray_here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Gives the one line with which a run of one short clip ends, as its program ends.

    ``jobs/curate.py`` is a call of this function and nothing else; the first test below starts it.
    """

    def run(text: str) -> str:
        config = written(tmp_path, text)
        capfd.readouterr()
        began = time.monotonic()
        code = main(["run", "--config", str(config), "--quiet"])
        assert time.monotonic() - began < SECONDS
        return only_line(tmp_path, code, capfd.readouterr().err)

    return run


def written(tmp_path: Path, text: str) -> Path:
    fetch("demo")
    config = tmp_path / "my.toml"
    source = f'[[sources]]\npath = "{asset("man-clip")}"\n'
    config.write_text(f'folder = "{tmp_path / "run"}"\n{source}[engine]\ncpus = 2\n{text}')
    return config


def only_line(tmp_path: Path, code: int, said: str) -> str:
    assert code == 1, said[-3000:]
    assert not list((tmp_path / "run").glob("measure/*/*.json")), "nothing was measured before"
    lines = said.splitlines()
    assert len(lines) == 1, said[-3000:]
    return lines[0]


def test_weights_that_are_cut_short_are_named_with_their_role(tmp_path: Path) -> None:
    weights = tiny_models.write_sam(tmp_path / "sam.pth")
    weights.write_bytes(weights.read_bytes()[:5000])
    config = written(
        tmp_path, f'[roles.segmenter]\nbackend = "segment_anything"\nweights = "{weights}"\n'
    )
    began = time.monotonic()
    done = job("curate", "--config", str(config), "--quiet")
    assert time.monotonic() - began < SECONDS
    line = only_line(tmp_path, done.returncode, done.stderr)
    assert line.startswith("s2v-data: ")
    assert "roles.segmenter" in line
    assert str(weights) in line
    assert "run again" in line


def test_a_server_that_is_down_is_named_with_its_role(refused: Refuse) -> None:
    line = refused(
        '[roles.captioner]\nbackend = "vlm"\nurls = ["http://127.0.0.1:9"]\nmodel = "big"\n'
        "tries = 2\nfirst_wait_s = 0.1\n",
    )
    assert "roles.captioner" in line
    assert "http://127.0.0.1:9" in line
    assert "asked 2 times" in line


def test_a_server_of_the_runs_own_that_cannot_start_is_refused_before_anything_is_measured(
    refused: Refuse,
) -> None:
    line = refused(
        '[roles.captioner]\nbackend = "vlm"\n[serve]\nmodel = "/no/such/model"\ngpus = 0\n',
    )
    assert "/no/such/model: no such folder" in line


def test_actors_for_gpus_that_are_not_there_are_refused_with_the_numbers(refused: Refuse) -> None:
    line = refused("[roles.detector]\ngpus = 4\n")
    assert "stage detect" in line
    assert "4 GPU" in line
    assert "2 CPUs, " in line


def test_a_run_with_nothing_usable_fails_with_the_first_reason(
    ray_here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.mp4").write_text("no film at all")
    config = tmp_path / "c.toml"
    config.write_text(
        f'folder = "{tmp_path / "run"}"\n[[sources]]\npath = "{tmp_path / "notes.mp4"}"\n'
        "[engine]\ncpus = 2\n"
    )
    capfd.readouterr()
    assert main(["run", "--config", str(config), "--quiet"]) == 1
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1, said
    assert "none of the 1 sources can be used" in said
    assert "not_media" in said
    assert not (tmp_path / "run" / "run.json").exists()
