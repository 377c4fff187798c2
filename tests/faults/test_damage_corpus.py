"""Damaged and odd videos through the real command line: nothing vanishes unexplained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # test helpers are no package

from damage_corpus import BY_NAME, MEMBERS, make_corpus
from damage_run import run_ours
from damage_verdict import Clip, Outcome, decode, judge

pytestmark = [pytest.mark.ray, pytest.mark.assets]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    make_corpus(folder)
    return folder / "inputs"


@pytest.fixture(scope="module")
def outcomes(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return run_ours(corpus, tmp_path_factory.mktemp("run"), models=False)


def test_an_input_vanishes_without_a_row(outcomes: dict[str, Outcome]) -> None:
    assert sorted(outcomes) == sorted(BY_NAME)
    lost = [name for name in BY_NAME if not judge(BY_NAME[name], outcomes[name]).accounted]
    assert not lost


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_damaged_file_passes_for_whole_or_a_good_one_is_refused(
    outcomes: dict[str, Outcome], name: str
) -> None:
    found = judge(BY_NAME[name], outcomes[name])
    assert found.right, found.words
    assert found.sound, [clip for clip in found.clips if not clip.sound]


def test_the_corpus_is_not_what_its_names_say(corpus: Path) -> None:
    """The rules themselves: plain PyAV finds all frames of whole members, and few of the others."""
    for member in MEMBERS:
        found = decode(Clip(corpus / member.name))
        if member.verdict == "whole":
            assert found.sound, (member.name, found)
            assert found.frames == member.frames, member.name
            assert found.aspect == pytest.approx(member.aspect, rel=0.01), member.name
    assert decode(Clip(corpus / "half.mp4")).wrong
    assert decode(Clip(corpus / "noise.mp4")).wrong


def test_the_judge_lets_a_silent_loss_pass(corpus: Path) -> None:
    """What four known tools do with a half download: clips, exit 0, not a word."""
    control = Clip(corpus / "control.mp4")
    assert not judge(BY_NAME["half.mp4"], Outcome([control])).right
    assert not judge(BY_NAME["half.mp4"], Outcome()).accounted
    assert not judge(BY_NAME["noise.mp4"], Outcome(refusal="no", kind="truncated")).right
    assert not judge(BY_NAME["control.mp4"], Outcome(refusal="no", kind="corrupt")).right
    assert not judge(BY_NAME["control.mp4"], Outcome([Clip(corpus / "one.mp4")])).right
    assert not judge(BY_NAME["turned.mp4"], Outcome([control])).right
    assert not judge(BY_NAME["lost_gop.mkv"], Outcome([control])).right
    empty = judge(BY_NAME["control.mp4"], Outcome([control, Clip(corpus / "empty.mp4")]))
    assert not empty.sound
    assert judge(BY_NAME["control.mp4"], Outcome([control])).right
