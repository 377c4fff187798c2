"""What the search finds at scale is what it would find with everything at hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from s2v.datapipe.base.stored import StoredTable, write_table
from s2v.datapipe.pair import identity, retrieve
from s2v.datapipe.pair.ann import Search, in_memory, open_search
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import RetrievalSettings
from s2v.datapipe.pair.steps import Steps
from s2v.datapipe.searching import Banks

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, accepted, changed, rows
from synthetic_tables import World, film_world

OUTCOMES = ("subjects", "pairs", "samples")


def same(one: Selection, other: Selection) -> bool:
    return all(getattr(one, name).equals(getattr(other, name)) for name in OUTCOMES)


def people_world(films: int, clips: int) -> World:
    """Films of one long cast each: everybody's nearest faces are of his own film."""
    world = World()
    for f in range(films):
        video = f"film{f}"
        world.source(video, seconds=20 * clips)
        for n in range(clips):
            clip = world.clip(video, 20 * n + 1, 20 * n + 7)
            who = f"actor {n % 3}"
            world.subject(clip, who, "person", face=0.84, closeness=0.7, look=f"{video} {n}")
    world.source("snap", kind="image")
    world.subject(world.clip("snap", 0, 0), "actor 1", "person", face=0.84, closeness=0.7)
    return world


class Counting:
    """Opens banks in memory and remembers their sizes."""

    def __init__(self) -> None:
        self.opened: list[int] = []

    @contextmanager
    def __call__(
        self, count: int, vectors: Callable[[Any], Any], settings: RetrievalSettings
    ) -> Iterator[Search]:
        self.opened.append(count)
        with in_memory(count, vectors, settings) as search:
            yield search


def test_films_of_many_faces_share_one_index_and_find_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = people_world(films=4, clips=7).tables()
    chosen = changed(retrieval={"overfetch": 9, "candidates": 9, "floor_margin": None})
    shared = Counting()
    found = select(tables, chosen, steps=Steps(opener=shared))
    faces = 4 * 7 + 1
    # All faces once for pairs and once for identities; films are searched by themselves beside.
    assert shared.opened.count(faces) == 2
    monkeypatch.setattr(retrieve, "_SHARED", 0)  # every film asks a bank without itself
    alone = Counting()
    assert same(select(tables, chosen, steps=Steps(opener=alone)), found)
    assert alone.opened.count(faces) == 1
    across = [r for r in rows(found, "pairs") if r["search"] == "faces"]
    assert len(across) == faces * 9  # nobody's list is filled by his own film


def test_faces_of_identities_are_searched_by_the_index_of_the_settings() -> None:
    tables = people_world(films=3, clips=5).tables()
    calls: list[str] = []

    @contextmanager
    def noted(count: int, vectors: Callable[[Any], Any], settings: RetrievalSettings) -> Any:
        bank = vectors(np.arange(count))
        calls.append(settings.index)
        yield open_search(bank, settings)

    ivf = changed(retrieval={"index": "ivf", "nprobe": 1000, "exact_below": 1})
    assert same(select(tables, ivf, steps=Steps(opener=noted)), select(tables, DEFAULT))
    assert calls
    assert set(calls) == {"ivf"}  # those of identity.find_faces too


def test_queries_asked_in_slices_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = film_world().tables()
    whole = select(tables, DEFAULT)
    monkeypatch.setattr(retrieve, "_ASKED", 2)
    monkeypatch.setattr(identity, "_ASKED", 2)
    assert same(select(tables, DEFAULT), whole)


def test_vectors_spooled_from_disk_find_the_same(tmp_path: Path) -> None:
    tables = film_world().tables()
    on_disk: dict[str, Any] = dict(tables)
    for name in ("embeddings", "faces"):
        write_table(tables[name], tmp_path / f"{name}.parquet")
        on_disk[name] = StoredTable(tmp_path / f"{name}.parquet")
    assert same(select(on_disk, DEFAULT), select(tables, DEFAULT))


def test_a_bank_in_shards_on_disk_finds_what_one_in_memory_does(tmp_path: Path) -> None:
    tables = film_world().tables()
    chosen = changed(retrieval={"sharded_from": 4, "shard_rows": 3})
    here = Steps(opener=Banks(tmp_path / "banks", ray=False))
    assert same(select(tables, chosen, steps=here), select(tables, DEFAULT))
    assert not list((tmp_path / "banks").iterdir())  # given back


def test_a_bank_that_a_killed_search_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "banks" / "bank-1" / "bank"
    left.mkdir(parents=True)
    Banks(tmp_path / "banks").sweep()
    assert not (tmp_path / "banks").exists()


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_selection_that_searches_on_ray_is_the_one_made_here(tmp_path: Path) -> None:
    import ray

    tables = film_world().tables()
    chosen = changed(retrieval={"sharded_from": 10, "shard_rows": 4})
    try:
        there = select(tables, chosen, steps=Steps(opener=Banks(tmp_path / "banks", cpus=2)))
        assert ray.is_initialized()  # it was asked
    finally:
        ray.shutdown()
    assert same(there, select(tables, DEFAULT))


def hub_world() -> World:
    """Creatures of one film of whom all list the first one, below the bound; a twin lies above."""
    world = World()
    world.source("film", seconds=4000)
    for n in range(100):
        clip = world.clip("film", 30 * n + 1, 30 * n + 7)
        world.subject(clip, "wolf", noun="wolf", closeness=0.85, look=f"wolf {n}")
    for n in (100, 101):
        clip = world.clip("film", 30 * n + 1, 30 * n + 7)
        world.subject(clip, "wolf", noun="wolf", closeness=0.94, look=f"close {n}")
    return world


def test_a_gate_on_what_is_listed_makes_and_unmakes_no_hub() -> None:
    tables = hub_world().tables()
    found = []
    for margin in (None, 0.5, 0.05):
        chosen = changed(
            pair={"creature": DEFAULT.pair.creature.model_dump() | {"lower": 0.85, "upper": 0.99}},
            retrieval={"floor_margin": margin, "hub_above": 1.05, "hub_floor": 60},
        )
        found.append(accepted(select(tables, chosen)))
    assert found[0]
    assert found[1:] == [found[0]] * 2


def timed_world(**stated: dict[str, Any]) -> World:
    """Two files of one long video with a shot of one creature each, 20 s apart on its clock."""
    world = World()
    for n, video in enumerate(("one", "two")):
        world.source(video, "long", seconds=40)
        world.rows["sources"][-1] |= stated.get(video, {})
        clip = world.clip(video, 1, 7)
        world.subject(clip, "wolf", noun="wolf", closeness=0.94, look=f"wolf {n}")
    return world


@pytest.mark.parametrize(
    ("stated", "gap_us"),
    [
        ({}, None),  # a film and its trailer: two clocks
        ({"one": {"offset_us": 0}}, None),  # of the other nothing is known
        ({"one": {"offset_us": 0}, "two": {"offset_us": 8_000_000}}, 2_000_000),
        ({"one": {"offset_us": 0}, "two": {"offset_us": 90_000_000}}, 84_000_000),
        ({"one": {"path": "film.mp4"}, "two": {"path": "film.mp4"}}, 0),  # parts of one file
    ],
)
def test_time_between_files_counts_where_they_share_a_clock(
    stated: dict[str, Any], gap_us: int | None
) -> None:
    """Imported clips are files of their own: seconds apart in one film they are one shot."""
    found = rows(select(timed_world(**stated).tables(), DEFAULT), "pairs")
    assert [row["gap_us"] for row in found] == [gap_us] * 2
    near = gap_us is not None and gap_us < 10_000_000
    assert [("min_gap" in row["rules"]) for row in found] == [near] * 2
    assert [("same_source_frame" in row["rules"]) for row in found] == [gap_us == 0] * 2


def test_vectors_of_several_chunks_and_lengths_are_taken_as_they_lie() -> None:
    from s2v.datapipe.pair.columns import VectorColumn

    made = [[float(n), float(-n), 1.0] for n in range(9)]
    kind = pa.list_(pa.float32())
    chunks = [pa.array(made[:4], kind), pa.array([None, *made[4:]], kind)[1:], pa.array([], kind)]
    column = VectorColumn(pa.chunked_array([*chunks, pa.array([[1.0]], kind)]))
    order = np.array([8, 0, 5, 3, 5])
    np.testing.assert_array_equal(column.take(order), [made[n] for n in order])
    with pytest.raises(ValueError, match="different embedders"):
        column.take(np.array([0, 9]))
