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
from s2v.model.which import p_value, similarity, which


def counted(groups: list[tuple[int, ...]]) -> float:
    """The same by trying every shuffling of every group."""
    right = sum(n == k for group in groups for k, n in enumerate(group))
    ways = [list(permutations(range(len(group)))) for group in groups]
    found = [
        sum(
            group[k] == given[k] for group, given in zip(groups, way, strict=True) for k in range(4)
        )
        for way in product(*ways)
    ]
    return float(np.mean(np.array(found) >= right))


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=2))
def test_the_chance_of_a_result_is_that_of_all_shufflings(groups: list[tuple[int, ...]]) -> None:
    assert p_value(groups) == pytest.approx(counted(groups))


def test_equal_videos_are_no_evidence_and_right_ones_soon_are() -> None:
    assert p_value([(2, 2, 2, 2)] * 8) == 1.0
    assert p_value([(0, 1, 2, 3)] * 2) == pytest.approx(1 / 24**2)


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
    assert (said["samples"], len(said["groups"])) == (12, 3)
    for group in said["groups"]:
        assert len(set(group["nearest"])) == 1
        assert len(set(group["references"])) == 4
    assert (said["share"], said["p"]) == (0.25, 1.0)
    assert (tmp_path / "run" / "which.png").is_file()
    assert cli.main([*told, "--quiet", "--groups", "1"]) == 0
    assert "which.png" in capsys.readouterr().out


def test_too_few_identities_are_told(
    drawn_shards: Path, tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    train(tiny("train.steps=1"), drawn_shards, tmp_path, quiet)
    with pytest.raises(ModelError, match="no four of different identities"):
        which(tmp_path, drawn_shards, quiet)
