"""Exact search: the same neighbours whatever the engine and the batch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.pair.copies import FrameHashes, duplicates
from s2v.datapipe.pair.index import exact_top
from s2v.datapipe.pair.settings import PairRules

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_tables import film_world
from synthetic_vectors import hash_of, rng


def unit_rows(seed: int, n: int, d: int, repeats: int = 0) -> np.ndarray:
    rows = rng("vectors", seed).standard_normal((n, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if repeats:
        rows[n - repeats :] = rows[0]
    return rows


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 120),
    k=st.integers(1, 40),
    repeats=st.integers(0, 60),
)
def test_engines_agree_and_are_exact_among_ties(seed: int, n: int, k: int, repeats: int) -> None:
    bank = unit_rows(seed, n, 24, min(repeats, n - 1))
    queries = np.concatenate([bank[:3], unit_rows(seed + 1, 4, 24)])
    found, similarity = exact_top(queries, bank, k, "numpy")
    other, other_similarity = exact_top(queries, bank, k, "faiss")
    np.testing.assert_array_equal(found, other)
    np.testing.assert_array_equal(similarity, other_similarity)
    truth = np.round(queries.astype(np.float64) @ bank.astype(np.float64).T, 6)
    for row, query in enumerate(truth):
        best = sorted(range(n), key=lambda i: (-query[i], i))[: min(k, n)]
        assert found[row].tolist() == best


def test_one_query_finds_what_the_batch_finds() -> None:
    bank = unit_rows(5, 300, 48)
    together, _ = exact_top(bank, bank, 10)
    for n in (0, 77, 299):
        alone, _ = exact_top(bank[n : n + 1], bank, 10)
        np.testing.assert_array_equal(alone[0], together[n])


def test_vectors_of_another_embedder_are_refused() -> None:
    with pytest.raises(ValueError, match="different embedders"):
        exact_top(unit_rows(0, 2, 8), unit_rows(0, 2, 9), 1)


def test_frame_distances_are_the_smallest_between_any_two_frames() -> None:
    world = film_world()
    world.rows["frames"][0]["blur"] = 0.0  # a flat frame says nothing
    hashes = FrameHashes(world.tables(), PairRules())
    values = {
        clip: [
            int(f["phash"], 16)
            for f in world.rows["frames"]
            if f["clip_id"] == clip and f["blur"] >= 5
        ]
        for clip in hashes.clips
    }
    pairs = [(a, b) for a in range(len(hashes.clips)) for b in range(a)]
    found = hashes.distance([a for a, _ in pairs], [b for _, b in pairs])
    for (a, b), distance in zip(pairs, found, strict=True):
        one, other = values[hashes.clips[a]], values[hashes.clips[b]]
        assert distance == min((x ^ y).bit_count() for x in one for y in other)


def test_duplicates_keep_the_smallest_id_and_near_copies_stay() -> None:
    world = film_world()
    hashes = FrameHashes(world.tables(), PairRules())
    clips = {row["clip_id"]: row for row in world.rows["clips"]}
    alike = hashes.alike(10)
    assert duplicates(hashes, alike, clips, PairRules()) == {
        "trailer-00002000-00008000": "film-00041000-00047000"
    }
    assert len(alike) == 2  # the duplicate, and the near copy by one frame


def test_a_standing_camera_is_no_duplicate_of_itself() -> None:
    world = film_world()
    again = world.clip("film", 190, 196)
    there = "film-00161000-00167000"
    for row in world.rows["frames"]:
        if row["clip_id"] in (again, there):  # all six frames show one and the same
            row["phash"] = hash_of(there, 0.5)
    hashes = FrameHashes(world.tables(), PairRules())
    clips = {row["clip_id"]: row for row in world.rows["clips"]}
    assert "film-00190000-00196000" not in duplicates(hashes, hashes.alike(10), clips, PairRules())


def test_halves_of_a_shot_that_a_copy_joins_are_not_copies_of_each_other() -> None:
    world = film_world()
    first, second = "film-00001000-00007000", "film-00021000-00027000"
    joined = world.clip("trailer", 20, 26, shot=first)
    world.rows["frames"][-1]["phash"] = hash_of(second, 0.95)
    world.rows["frames"][-2]["phash"] = hash_of(second, 0.5)
    for n, position in enumerate((0.05, 0.5)):
        world.rows["frames"].append(
            {
                **world.rows["frames"][-1],
                "frame_id": f"{joined}-x{n}",
                "phash": hash_of(first, position),
            }
        )
    hashes = FrameHashes(world.tables(), PairRules())
    clips = {row["clip_id"]: row for row in world.rows["clips"]}
    found = duplicates(hashes, hashes.alike(10), clips, PairRules())
    assert found[joined] == first
    assert second not in found
