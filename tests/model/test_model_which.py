"""Which reference a sample shows: the statistic by itself, and on a run that learned nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.model import cli
from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.train import train
from s2v.model.which import nearest, p_value, similarity, which


def counted(clips: list[list[tuple[int, ...]]]) -> float:
    """The same by trying every shuffling of every clip, alike for all of its noises."""

    def hits(way: tuple[tuple[int, ...], ...]) -> int:
        return sum(
            noise[k] == given[k]
            for clip, given in zip(clips, way, strict=True)
            for noise in clip
            for k in range(4)
        )

    ways = [list(permutations(range(4))) for _ in clips]
    found = [hits(way) for way in product(*ways)]
    return float(np.mean(np.array(found) >= hits(((0, 1, 2, 3),) * len(clips))))


@given(
    st.integers(1, 3).flatmap(
        lambda noises: st.lists(
            st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=noises, max_size=noises),
            min_size=1,
            max_size=2,
        )
    )
)
def test_the_chance_of_a_result_is_that_of_all_shufflings(
    clips: list[list[tuple[int, ...]]],
) -> None:
    assert p_value(clips) == pytest.approx(counted(clips))


def test_equal_videos_are_no_evidence_and_right_ones_soon_are() -> None:
    assert p_value([[(2, 2, 2, 2)]] * 8) == 1.0
    assert p_value([[(0, 1, 2, 3)]] * 2) == pytest.approx(1 / 24**2)


def test_two_noises_of_one_clip_are_not_two_clips() -> None:
    right = (0, 1, 2, 3)
    assert p_value([[right, right]]) == pytest.approx(1 / 24)
    assert p_value([[right], [right]]) == pytest.approx(1 / 24**2)


def test_a_reference_that_resembles_everything_does_not_win_everything() -> None:
    follows = 0.1 * np.eye(4)
    hub = np.array([0.0, 0.0, 0.5, 0.0])
    assert nearest(follows + hub) == (0, 1, 2, 3)
    assert (follows + hub).argmax(axis=1).tolist() == [2, 2, 2, 2]
    assert len(set(nearest(np.tile(hub, (4, 1))))) == 1  # equal videos stay no evidence


def test_a_p_value_that_is_valid_is_not_small_too_often() -> None:
    """Videos that have nothing to do with their reference, but much with the clip's hubs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        clips = []
        for _ in range(6):
            hubs, sisters = rng.normal(size=4), rng.normal(size=(4, 4))
            noises = [hubs + sisters + 0.1 * rng.normal(size=(4, 4)) for _ in range(3)]
            clips.append([nearest(one) for one in noises])
        found.append(p_value(clips))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) < level + 3 * np.sqrt(level * (1 - level) / 300)


def test_videos_in_the_colour_of_their_reference_are_nearest_to_it() -> None:
    rng = np.random.default_rng(0)
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)], np.uint8)
    references = [np.broadcast_to(c, (8, 8, 3)).copy() for c in colours]
    noise = rng.integers(0, 20, (4, 5, 8, 8, 3), dtype=np.uint8)
    videos = [c + n for c, n in zip(colours, noise, strict=True)]
    found = similarity(videos, references, lambda image: image.mean(axis=(0, 1)).astype(float))
    assert found.shape == (4, 4)
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.fixture(scope="module")
def shards(drawing_shards: Callable[..., Path]) -> Path:
    """One clip to train on and five held out, each of an identity of its own."""
    return drawing_shards([(0, 0, False), *((i, 50, True) for i in range(5))])


def test_a_network_that_learned_nothing_is_not_said_to_follow(
    shards: Path,
    tmp_path: Path,
    tiny: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The head begins at zero and stays there: the reference changes nothing.
    config = tiny("train.steps=1", "optim.lr=1e-30", "heldout.levels=1")
    train(config, shards, tmp_path / "run", quiet)
    told = ["which", "--run", str(tmp_path / "run"), "--shards", str(shards)]
    assert cli.main([*told, "--json", "--quiet", "--groups", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["samples"], len(said["groups"])) == (24, 3)
    for group in said["groups"]:
        for noises in group["nearest"].values():
            assert [len(set(noise)) for noise in noises] == [1, 1]
        assert len(set(group["references"])) == 4
    for verdict in (said["palette"], said["classes"]):
        assert (verdict["right"], verdict["share"], verdict["p"]) == (6, 0.25, 1.0)
        assert verdict["plain"] == 6
    assert (tmp_path / "run" / "which.png").is_file()
    assert cli.main([*told, "--quiet", "--groups", "1", "--noises", "1"]) == 0
    told_ = capsys.readouterr().out
    assert "which.png" in told_
    assert "1 right (25.0%; chance 25 %), p = 1" in told_


def test_too_few_identities_are_told(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    train(tiny("train.steps=1"), drawn_shards, tmp_path, quiet)
    with pytest.raises(ModelError, match="no four of different identities"):
        which(tmp_path, drawn_shards, quiet)
