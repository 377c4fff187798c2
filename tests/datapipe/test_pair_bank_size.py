"""A bound that the size of a bank has outgrown is said, with the one that holds there."""

from __future__ import annotations

import pyarrow as pa
import pytest

from s2v.datapipe.pair.bank_size import advice, least_bound
from s2v.datapipe.pair.settings import FaceRules, SelectSettings


def subjects(count: int, bank: str, *, faces: str | None, embedder: str, lost: int = 0) -> pa.Table:
    return pa.table(
        {
            "bank": pa.array([bank] * count),
            "reason": pa.array(["box: too small"] * lost + [None] * (count - lost), pa.string()),
            "face_embedder": pa.array([faces] * count, pa.string()),
            "embedder": pa.array([embedder] * count),
        }
    )


@pytest.mark.parametrize(
    ("vectors", "bound"),
    [(10, 0.41), (1_000, 0.41), (100_000, 0.50), (200_000, 0.52), (1_000_000, 0.54), (10**8, 0.62)],
)
def test_the_bound_climbs_with_the_bank_as_it_was_measured(vectors: int, bound: float) -> None:
    assert least_bound("SFace (2021dec)", vectors) == bound
    assert least_bound("arcface", vectors) is None


def test_a_large_bank_of_faces_asks_for_a_higher_bound() -> None:
    table = subjects(150_000, "person", faces="sface-1", embedder="x")
    (said,) = advice(table, SelectSettings())
    assert "150,000 faces" in said
    assert "lower bound of 0.51" in said
    assert not list(advice(table, SelectSettings(face=FaceRules(lower=0.51))))
    lost = subjects(150_000, "person", faces="sface-1", embedder="x", lost=60_000)
    assert not list(advice(lost, SelectSettings()))  # 90,000 are searched
    assert not list(
        advice(subjects(150_000, "person", faces="arc", embedder="x"), SelectSettings())
    )


def test_things_searched_everywhere_by_the_embedded_net_are_named() -> None:
    few, many = (subjects(n, "thing", faces=None, embedder="MobileNetV2-1") for n in (900, 1_100))
    assert not list(advice(few, SelectSettings()))
    (said,) = advice(many, SelectSettings())
    assert "1,100 subjects of bank thing" in said
    creatures = subjects(5_000, "creature", faces=None, embedder="MobileNetV2-1")
    assert not list(advice(creatures, SelectSettings()))  # inside their long video only
