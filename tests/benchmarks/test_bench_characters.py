"""The committed labels give the committed figures, and those keep what the project promises."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # scripts, no package

from bench_characters import GROUPS, HERE, drawn, group_of, main, read_pairs

from s2v.datapipe.calibrate.consistency import contradictions
from s2v.datapipe.calibrate.labels import read_labels


def test_the_figures_follow_from_the_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0
    assert "chosen bounds" in capsys.readouterr().out


def test_the_bounds_of_the_first_half_hold_on_the_second() -> None:
    made = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))
    found = made["second half"]["chosen bounds"]
    assert found["precision"]["estimate"] >= 0.9
    assert found["accepted"] >= 40
    assert made["second half"]["OpenS2V's rule"]["precision"]["estimate"] < 0.9
    for one in made["known copies"].values():
        assert one["refused"] == one["near copies"]
        assert one["accepted"] == []


def test_labels_are_of_pairs_drawn_blind_and_agree_with_one_another() -> None:
    embedder, groups = read_pairs(HERE / "pairs.csv")
    labels = read_labels(HERE / "labels.csv")
    labels.require({one.key for name in GROUPS for one in groups[name]})
    assert {one.key for one in drawn(groups, embedder)} == set(labels.of)
    assert contradictions(labels.of) == []
    assert len(labels.of) >= 200


def test_a_pair_belongs_to_the_half_of_both_its_clips() -> None:
    early, late = "bbb-film-00010000-00012000-s0", "bbb-film-00300000-00302000-s1"
    middle = "bbb-film-00243000-00246000-s0"
    assert group_of(early, early) == "first"
    assert group_of(late, late) == "second"
    assert group_of(early, late) == "across"
    assert group_of(middle, late) == "across"
    assert group_of("bbb-trailer-00010000-00012000-s0", early) == "copies"
    assert group_of("bbb-trailer-00010000-00012000-s0", "bbb-shot-00000000-00005000-s0") is None
