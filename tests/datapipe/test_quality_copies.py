"""Near copies: none is missed by comparing fewer pairs: mirrored, re-encoded or replayed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_tables import World, film_world
from synthetic_vectors import hash_of

from s2v.datapipe.pair import near
from s2v.datapipe.pair.copies import FrameHashes, duplicates
from s2v.datapipe.pair.near import Hashes, near_pairs
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import PairRules, SelectSettings

words = st.lists(st.integers(0, 2**64 - 1), max_size=40)
flips = st.lists(st.lists(st.integers(0, 63), max_size=14), max_size=12)


def family(seeds: list[int], changes: list[list[int]]) -> Hashes:
    """The seeds, and for each change of bits every seed with it."""
    made = list(seeds)
    for change in changes:
        mask = 0
        for bit in change:
            mask |= 1 << bit
        made += [seed ^ mask for seed in seeds]
    return np.array(made, np.uint64)


def by_force(first: Hashes, second: Hashes | None, bits: int) -> set[tuple[int, int]]:
    other = first if second is None else second
    close = np.bitwise_count(first[:, None] ^ other[None]) <= bits
    pairs = {(int(i), int(j)) for i, j in np.argwhere(close)}
    return {(i, j) for i, j in pairs if i < j} if second is None else pairs


@pytest.fixture
def banded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few hashes too are looked up by bands."""
    monkeypatch.setattr(near, "_probes", lambda _: 0)


@pytest.mark.usefixtures("banded")
@settings(max_examples=120, deadline=None)
@given(words, flips, st.integers(0, 14))
def test_no_near_copy_among_all_frames_is_missed_or_made_up(
    seeds: list[int], changes: list[list[int]], bits: int
) -> None:
    hashes = family(seeds[:8], changes)
    i, j = near_pairs(hashes, None, bits)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == sorted(by_force(hashes, None, bits))


@pytest.mark.usefixtures("banded")
@settings(max_examples=80, deadline=None)
@given(words, words, flips, st.integers(0, 12))
def test_no_mirrored_copy_between_two_sets_is_missed_or_made_up(
    one: list[int], other: list[int], changes: list[list[int]], bits: int
) -> None:
    first, second = family(one[:6], changes), family([*one[:3], *other[:6]], changes[::-1])
    i, j = near_pairs(first, second, bits)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == sorted(by_force(first, second, bits))


def test_every_way_to_spread_the_bits_over_the_bands_is_found() -> None:
    """All ten bits in one band, or spread to the very limit of each: the pigeonhole's corners."""
    seed = 0x0123456789ABCDEF
    spreads = [(10, 0, 0, 0), (0, 0, 0, 10), (3, 3, 2, 2), (3, 3, 3, 1), (2, 2, 2, 4), (0, 5, 5, 0)]
    hashes = [seed]
    for spread in spreads:
        mask = 0
        for band, count in enumerate(spread):
            mask |= ((1 << count) - 1) << (16 * band)
        hashes.append(seed ^ mask)
    rng = np.random.default_rng(0)
    crowd = rng.integers(0, 2**63, 5000, dtype=np.uint64)  # so many that bands are used
    i, j = near_pairs(np.concatenate([np.array(hashes, np.uint64), crowd]), None, 10)
    found = set(zip(i.tolist(), j.tolist(), strict=True))
    assert {(0, n) for n in range(1, len(hashes))} <= found


def test_a_mirrored_copy_in_another_file_is_a_duplicate() -> None:
    world = film_world()
    shot = "film-00101000-00107000"
    copy = world.clip("trailer", 20, 26)
    for row in world.rows["frames"]:
        if row["clip_id"] == shot:
            row["phash_mirror"] = hash_of("mirrored", row["position"])
        if row["clip_id"] == copy:
            row["phash"] = hash_of("mirrored", row["position"], flip=2)
    found = duplicates_of(world)
    assert found[copy] == shot
    assert len(found) == 2, "the trailer's straight copy is still found"


@pytest.mark.parametrize(
    ("start", "flip", "moving", "found"),
    [
        (190, 3, True, True),
        (170, 3, True, False),  # three seconds after the shot ends: the same scene goes on
        (190, 8, True, False),  # near, but not the same frames
        (190, 3, False, False),  # a camera that stands still
    ],
)
def test_a_replay_in_the_same_file_is_a_duplicate_and_a_camera_that_returns_is_not(
    start: int, flip: int, moving: bool, found: bool
) -> None:
    world = film_world()
    shot = "film-00161000-00167000"
    again = world.clip("film", start, start + 6, shot=shot, flip=flip)
    if not moving:
        for row in world.rows["frames"]:
            if row["clip_id"] in (shot, again):
                row["phash"] = hash_of(shot, 0.5, flip=3 if row["clip_id"] == again else 0)
    assert (duplicates_of(world).get(again) == shot) is found


def duplicates_of(world: World) -> dict[str, str]:
    hashes = FrameHashes(world.tables(), PairRules())
    clips = {row["clip_id"]: row for row in world.rows["clips"]}
    return duplicates(hashes, hashes.alike(10), clips, PairRules())


def test_a_replay_is_dropped_with_its_reason_and_names_the_clip_that_stays() -> None:
    world = film_world()
    again = world.clip("film", 190, 196, shot="film-00161000-00167000")
    rows = {
        row["clip_id"]: row for row in select(world.tables(), SelectSettings()).clips.to_pylist()
    }
    assert rows[again]["reason"] == "clip: duplicate"
    assert rows[again]["duplicate_of"] == "film-00161000-00167000"
