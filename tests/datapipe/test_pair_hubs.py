"""Subjects that are neighbours of everything are told apart from members of large identities."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from s2v.datapipe.pair.ann import nearest
from s2v.datapipe.pair.hubs import hubs, occurrences
from s2v.datapipe.pair.settings import RetrievalSettings

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_vectors import rng

K = 8


def world() -> np.ndarray:
    """600 identities of three, one of 60, and row 0: the mean of everything."""
    made = rng("hubs")
    centres = made.standard_normal((601, 64))
    rows = np.concatenate([np.repeat(centres[:600], 3, axis=0), np.repeat(centres[600:], 60, 0)])
    rows += 0.5 + 0.7 * made.standard_normal(rows.shape)
    rows[0] = rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def candidates(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, _ = nearest(rows, rows, K + 1, RetrievalSettings())
    targets = np.repeat(np.arange(len(rows)), K + 1)
    return targets, found.ravel()


def test_a_crop_that_looks_like_everything_is_a_hub_and_nothing_else_is() -> None:
    rows = world()
    targets, references = candidates(rows)
    flags = hubs(targets, references, len(rows), RetrievalSettings())
    assert np.flatnonzero(flags).tolist() == [0]


def test_hubs_do_not_depend_on_the_order_or_repetition_of_pairs() -> None:
    rows = world()
    targets, references = candidates(rows)
    order = rng("order").permutation(len(targets))
    again = np.concatenate([order, order[:1000]])
    np.testing.assert_array_equal(
        occurrences(targets, references, len(rows)),
        occurrences(targets[again], references[again], len(rows)),
    )


def test_members_of_one_large_identity_are_no_hubs() -> None:
    n = 60  # a film's hero: everybody lists everybody, many others list nobody
    targets, references = (axis.ravel() for axis in np.indices((n, n)))
    assert occurrences(targets, references, 5000)[:n].tolist() == [n - 1] * n
    assert not hubs(targets, references, 5000, RetrievalSettings()).any()


def test_the_rule_can_be_moved_and_switched_off() -> None:
    targets, references = np.arange(1, 41), np.zeros(40, np.int64)
    found = [
        hubs(targets, references, 50, RetrievalSettings.model_validate(options))[0]
        for options in (
            {},
            {"hub_floor": 10},
            {"hub_floor": 10, "hub_above": 60},
            {"hub_floor": 10, "hub_above": None},
        )
    ]
    assert found == [False, True, False, False]
    assert not hubs([], [], 3, RetrievalSettings()).any()


@pytest.mark.parametrize(
    ("targets", "references", "said"),
    [([1, 2], [1], "each pair has one of both"), ([1], [9], "not below 5"), ([-1], [1], "-1")],
)
def test_positions_of_another_bank_are_refused(
    targets: list[int], references: list[int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        hubs(targets, references, 5, RetrievalSettings())
