"""Verdicts on a million candidates are the ones a dictionary would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2v.datapipe.base import records
from s2v.datapipe.base.shards import Verdicts as Written
from s2v.datapipe.pair.verdicts import Verdicts
from s2v.datapipe.write.verdicts import said_of, verdicts_on

SAID = ("yes", "no", "unsure", None)


def table(rows: list[tuple[str, str, str | None, str | None]]) -> pa.Table:
    names = ("target_detection_id", "reference_detection_id", "same_identity", "different_context")
    return records.table("verdicts", [dict(zip(names, row, strict=True)) for row in rows])


@pytest.mark.parametrize("seed", range(5))
def test_every_candidate_gets_the_verdict_of_its_own_two_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [f"d{n:03d}" for n in range(60)]
    pairs = {tuple(rng.choice(70, 2, replace=False).tolist()) for _ in range(400)}
    rows: dict[frozenset[str], tuple[str, str, str | None, str | None]] = {}
    for a, b in sorted(pairs):  # of which some boxes are of no subject any more
        same, elsewhere = (SAID[n] for n in rng.integers(0, 4, 2))
        if same is None or elsewhere is None:
            same = elsewhere = None  # quarantined
        rows[frozenset((a, b))] = (f"d{a:03d}", f"d{b:03d}", same, elsewhere)
    known = {frozenset(row[:2]): row[2:] for row in rows.values()}
    target, reference = rng.integers(0, 60, (2, 3000)).astype(np.int32)
    passing = rng.random(3000) < 0.7
    order = rng.permutation(len(rows))
    shuffled = table(list(rows.values())).take(pa.array(order))
    found = Verdicts(shuffled, pa.chunked_array([boxes]), target, reference)
    failed = found.failed(passing)
    columns = {name: column.to_pylist() for name, column in found.columns().items()}
    for n in range(3000):
        said = known.get(frozenset((boxes[target[n]], boxes[reference[n]])))
        same, elsewhere = said or (None, None)
        assert (columns["same_identity"][n], columns["different_context"][n]) == (same, elsewhere)
        rules = {rule for rule, flags in failed.items() if flags[n]}
        expected = set()
        if said is None:
            expected = {"not_verified"} if passing[n] else set()
        elif same is None:
            expected = {"verdict_quarantined"} if passing[n] else set()
        else:
            expected |= {"verifier_same_identity"} if same != "yes" else set()
            expected |= {"verifier_different_context"} if elsewhere != "yes" else set()
        assert rules == expected


@pytest.mark.parametrize("count", [0, 3])
def test_no_verdicts_and_no_candidates_are_no_error(count: int) -> None:
    places = np.zeros(count, np.int64)
    boxes = pa.chunked_array([["a", None]], pa.string())
    found = Verdicts(table([]), boxes, places, places)
    failed = found.failed(np.ones(count, np.bool_))
    assert failed["not_verified"].tolist() == [True] * count
    assert not failed["verifier_same_identity"].any()
    assert [column.to_pylist() for column in found.columns().values()] == [[None] * count] * 2


def test_a_shard_says_whose_verdicts_they_are() -> None:
    row: dict[str, Any] = {
        "target_detection_id": "a",
        "reference_detection_id": "b",
        "same_identity": "yes",
        "different_context": "yes",
        "verifier": "vllm:m@1",
        "prompt_sha256": "0" * 64,
    }
    yes = {"same_identity": "yes", "different_context": "yes"}
    by_model = Written(**yes, verifier="vllm:m@1", prompt_sha256="0" * 64)
    for one, other in (("a", "b"), ("b", "a")):
        assert verdicts_on(said_of([row]), one, other) == by_model
    assert verdicts_on(said_of([row]), "a", "c") == Written(**yes, verifier="rules-1")
    assert Written() == Written(same_identity="not asked", different_context="not asked")
