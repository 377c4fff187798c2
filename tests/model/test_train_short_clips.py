"""Clips that end before their index says: each costs itself, is told once, and no run ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from s2v.model import metrics
from s2v.model.cli import main

BAD = ["in-00-003", "in-01-003"]
RUN = ("train.steps=4", "train.checkpoint_every=4", "train.batch=2")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Called:
    """The command line, as a user types it."""

    def __init__(self, base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self._base, self._capsys = base, capsys

    def __call__(self, *words: str | Path, sets: tuple[str, ...] = ()) -> tuple[Any, list[str]]:
        """What it prints, as JSON, and its lines on standard error; it must succeed."""
        asked = [word for one in (*self._base, *RUN, *sets) for word in ("--set", one)]
        argv = [*map(str, words), "--json", "--quiet", *asked]
        assert main(argv) == 0, self._capsys.readouterr().err
        told = self._capsys.readouterr()
        return json.loads(told.out), told.err.splitlines()


@pytest.fixture
def called(base: list[str], capsys: pytest.CaptureFixture[str]) -> Called:
    return Called(base, capsys)


def _losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl")]


def test_found_before_the_first_step_they_are_left_out_and_said_in_one_line(
    short_shards: Path, called: Called, tmp_path: Path
) -> None:
    result, told = called("train", "--shards", short_shards, "--out", tmp_path / "run")
    assert (result["steps"], result["quarantined"], result["stand_ins"]) == (4, 2, 0)
    assert result["samples"] == {"in": 8}
    assert sum(result["dropped"].values()) + 8 + 2 == 12  # every row of the index
    assert len(told) == 1
    assert "2 of 10 samples cannot be read and are left out" in told[0]
    assert "in-000000.tar: sample in-00-003, member mp4: " in told[0]
    assert "the clip is shorter than said" in told[0]
    assert f"{tmp_path}/run/quarantine.jsonl" in told[0]
    lines = _lines(tmp_path / "run" / "quarantine.jsonl")
    assert [(line["sample_id"], line["step"]) for line in lines] == [(name, None) for name in BAD]


@pytest.mark.parametrize("workers", [0, 1])
def test_met_in_a_step_others_take_their_places_and_each_is_said_once(
    short_shards: Path, called: Called, tmp_path: Path, workers: int
) -> None:
    sets = ("data.prepare=false", "train.steps=8", f"data.workers={workers}")
    result, told = called("train", "--shards", short_shards, "--out", tmp_path / "run", sets=sets)
    assert (result["steps"], result["quarantined"]) == (8, 0)
    assert result["stand_ins"] >= 2
    for name in BAD:
        (line,) = [x for x in told if name in x]
        assert "the clip is shorter than said; other samples take the place of this one" in line
    lines = _lines(tmp_path / "run" / "quarantine.jsonl")
    assert sorted(line["sample_id"] for line in lines) == BAD
    assert all(1 <= line["step"] <= 8 for line in lines)


def test_encoded_or_raw_the_training_without_them_is_the_same(
    short_shards: Path, called: Called, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(short_shards, tmp_path / "shards"))
    called("train", "--shards", shards, "--out", tmp_path / "raw", sets=("latents.use=off",))
    encoded, told = called("encode", "--shards", shards, "--run", tmp_path / "raw")
    assert (encoded["encoded"], encoded["quarantined"], encoded["open"]) == (10, 2, 0)
    assert told == []
    lines = _lines(Path(encoded["folder"]) / "quarantine.jsonl")
    assert [line["sample_id"] for line in lines] == BAD
    assert all("the clip is shorter than said" in line["message"] for line in lines)
    (tmp_path / "run").mkdir()
    for path in (tmp_path / "raw").glob("autoencoder.*"):
        shutil.copy(path, tmp_path / "run")
    sets = ("latents.use=require",)
    result, told = called("train", "--shards", shards, "--out", tmp_path / "run", sets=sets)
    assert (result["steps"], result["quarantined"]) == (4, 2)
    assert len(told) == 1
    assert "in-000000.tar: could not be encoded: " in told[0]
    assert "s2v-model encode --retry-quarantine" in told[0]
    assert _losses(tmp_path / "run") == _losses(tmp_path / "raw")
    late = ("latents.use=require", "data.prepare=false", "train.steps=8")
    (tmp_path / "late").mkdir()
    for path in (tmp_path / "raw").glob("autoencoder.*"):
        shutil.copy(path, tmp_path / "late")
    result, told = called("train", "--shards", shards, "--out", tmp_path / "late", sets=late)
    assert (result["steps"], result["quarantined"]) == (8, 0)
    assert [sum(name in line for line in told) for name in BAD] == [1, 1]
