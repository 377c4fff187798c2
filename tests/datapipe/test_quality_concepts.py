"""Concept balance: the best of each kind stay, the rest are dropped and say so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_selection import changed
from synthetic_tables import World, film_world

from s2v.datapipe.pair import concepts as module
from s2v.datapipe.pair.concepts import Vectors, clip_vectors, concepts
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import SelectSettings


def crowded() -> World:
    """The film, and five more shots of the rabbit in one meadow, of rising sharpness."""
    world = film_world()
    world.source("meadow", "bunny", seconds=100)
    for n in range(5):
        clip = world.clip("meadow", 15 * n + 1, 15 * n + 7)
        world.subject(clip, "hare", look=f"hare {n}", closeness=0.98, background="meadow")
        world.rows["quality"][-1] |= {"blur": 100.0 + n, "niqe": 9.0 - 0.5 * n}
    return world


def capped(cap: int | None) -> SelectSettings:
    return changed(clip={"max_per_concept": cap})


def test_the_best_clips_of_a_full_concept_stay_and_the_rest_give_the_reason() -> None:
    tables = crowded().tables()
    selection = select(tables, capped(2))
    rows = {row["clip_id"]: row for row in selection.clips.to_pylist()}
    meadow = sorted(clip for clip in rows if clip.startswith("meadow"))
    assert {rows[clip]["concept"] for clip in meadow} == {meadow[0]}
    reasons = [rows[clip]["reason"] for clip in meadow]
    assert reasons == ["clip: concept full"] * 3 + [None] * 2, "the most natural two are left"
    subjects = {r["clip_id"]: r["reason"] for r in selection.subjects.to_pylist()}
    assert subjects[meadow[0]] == "clip: concept full"
    assert not {row["clip_id"] for row in selection.samples.to_pylist()} & set(meadow[:3])
    report = check(tables, selection, capped(2))
    clips = next(ledger for ledger in report.ledgers if ledger.table == "clips")
    assert clips.dropped["clip: concept full"] >= 3


def test_clips_without_a_fit_subject_take_no_place_from_those_with_one() -> None:
    world = crowded()
    meadow = sorted(
        {r["clip_id"] for r in world.rows["clips"] if r["clip_id"].startswith("meadow")}
    )
    for row in world.rows["detections"]:
        if row["clip_id"] in meadow[-2:]:  # the best two
            x0, y0 = row["box"][:2]
            row |= {"box": [x0, y0, x0 + 4.0, y0 + 4.0], "area_share": 1e-4}
    selection = select(world.tables(), capped(2))
    rows = {row["clip_id"]: row["reason"] for row in selection.clips.to_pylist()}
    assert [rows[clip] for clip in meadow] == ["clip: concept full"] + [None] * 4
    used = {row["clip_id"] for row in selection.samples.to_pylist()} & set(meadow)
    assert used == set(meadow[1:3])


def test_aesthetics_count_first_where_a_model_measured_them() -> None:
    world = crowded()
    for n, row in enumerate(q for q in world.rows["quality"] if q["clip_id"].startswith("meadow")):
        row["aesthetic"] = 6.0 - n
    rows = {row["clip_id"]: row for row in select(world.tables(), capped(2)).clips.to_pylist()}
    kept = [clip for clip in sorted(rows) if clip.startswith("meadow") and not rows[clip]["reason"]]
    assert kept == ["meadow-00001000-00007000", "meadow-00016000-00022000"]


def test_without_a_cap_nothing_is_grouped_or_dropped() -> None:
    rows = select(crowded().tables(), capped(None)).clips.to_pylist()
    assert {row["concept"] for row in rows} == {None}
    assert all("concept" not in (row["reason"] or "") for row in rows)


def test_photographs_are_references_and_never_too_many() -> None:
    world = crowded()
    for n in range(4):
        world.source(f"photo{n}", kind="image")
        clip = world.clip(f"photo{n}", 0, 0)
        world.subject(clip, "hare", closeness=0.98, background="meadow")
    rows = select(world.tables(), capped(1)).clips.to_pylist()
    photographs = [row for row in rows if row["clip_id"].startswith("photo")]
    assert len(photographs) == 4
    assert {(row["concept"], row["reason"]) for row in photographs} == {(None, None)}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_the_rows_changes_no_concept(seed: int) -> None:
    world = crowded()
    assert select(world.tables(), capped(2)).clips == select(world.tables(seed), capped(2)).clips


def named(count: int) -> list[str]:
    return [f"clip-{n:06d}" for n in range(count)]


def units(seed: int, count: int, width: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 600),
    st.floats(-0.5, 0.95),
    st.sampled_from([2048, 40, 1]),
)
def test_every_clip_is_near_its_founder_and_every_founder_is_in_its_own_concept(
    seed: int, count: int, cosine: float, scouts: int
) -> None:
    vectors = units(seed, count, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SCOUTS", scouts)
        found = concepts(named(count), vectors, cosine)
    founders = sorted(set(found))
    for n, founder in enumerate(found):
        assert found[founder] == founder
        assert n == founder or vectors[n] @ vectors[founder] >= cosine - 1e-5
    if count <= scouts:
        inner = vectors[founders] @ vectors[founders].T
        assert (inner[np.triu_indices(len(founders), 1)] < cosine + 1e-5).all(), (
            "none is there twice"
        )


@pytest.fixture
def few_scouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCOUTS", 64)


@pytest.mark.usefixtures("few_scouts")
def test_what_a_large_corpus_shows_often_stays_one_concept() -> None:
    rng = np.random.default_rng(5)
    often = units(1, 4, 32)[rng.integers(0, 4, 1000)] + rng.normal(size=(1000, 32)) * 0.05
    vectors = np.concatenate([often, units(2, 1000, 32)])[rng.permutation(2000)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    sizes = np.bincount(concepts(named(2000), vectors, 0.8))
    assert sorted(sizes)[-4:] == pytest.approx([250] * 4, abs=60)
    assert sizes.sum() == 2000
    assert sorted(sizes)[-5] <= 5, "the rest is alike by chance only"


@pytest.mark.usefixtures("few_scouts")
@pytest.mark.parametrize("alike", [True, False])
def test_the_work_does_not_grow_with_the_square_of_the_clips(
    monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    products = 0

    def counting(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
        nonlocal products
        products += len(a) * len(b)
        return np.round(a.astype(np.float64) @ b.astype(np.float64).T, 6)

    monkeypatch.setattr(module, "_cosines", counting)
    count = 8000
    vectors = units(3, count, 24)
    if alike:
        vectors[: count // 2] = vectors[0]
    found = concepts(named(count), vectors, 0.9)
    assert len(set(found)) > count / 4, "the rest has little in common"
    assert products < 4 * count * 64


def test_vectors_of_two_embedders_are_not_compared() -> None:
    world = film_world()
    world.rows["embeddings"][0]["embedder"] = "another"
    tables = world.tables()
    with pytest.raises(ValueError, match="mixes embedders"):
        clip_vectors(tables, {row["clip_id"] for row in world.rows["clips"]})
