"""A sample's place is a function of the sample and the record: shards stay bounded, few move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base import ids
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.layout import TAR_END, Item, Layout
from s2v.datapipe.write.plan import LAYOUT_FILE, as_record, recorded_layout

BOUND = 1_000_000
COUNTS = ShardCounts(in_=3, cross=2, image=1)
EMPTY = Layout(counts=COUNTS)

#: A corpus: by source, the sizes of its clips' samples. Some sources are far over a shard.
corpora = st.lists(
    st.lists(st.integers(2_000, 600_000), min_size=1, max_size=25), min_size=1, max_size=12
)


def items(corpus: list[list[int]], prefix: str = "film") -> list[Item]:
    return [
        Item(
            ids.sample_id(kind, f"{prefix}{n}-{c}", []), kind, f"{prefix}{n}", f"{prefix}{n}-{c}", s
        )
        for n, clips in enumerate(corpus)
        for c, s in enumerate(clips)
        for kind in ("in", "cross")[: 1 + c % 2]
    ]


def where(layout: Layout, corpus: list[Item]) -> dict[str, tuple[str, int]]:
    return {one.sample_id: key for key, inside in layout.place(corpus).items() for one in inside}


@settings(max_examples=60, deadline=None)
@given(corpora)
def test_no_shard_of_several_clips_passes_its_bound(corpus: list[list[int]]) -> None:
    found = items(corpus)
    placed = EMPTY.grown(found, BOUND).place(found)
    assert sum(map(len, placed.values())) == len(found)
    for inside in placed.values():
        assert len(inside) == 1 or sum(one.bytes for one in inside) + TAR_END <= BOUND
        assert inside == sorted(inside, key=lambda one: one.sample_id)


@settings(max_examples=60, deadline=None)
@given(corpora, st.randoms(use_true_random=False))
def test_a_place_depends_on_neither_order_nor_on_what_is_taken_away(
    corpus: list[list[int]], random: object
) -> None:
    found = items(corpus)
    layout = EMPTY.grown(found, BOUND)
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert EMPTY.grown(shuffled, BOUND) == layout
    rest = [one for one in shuffled if one.video_id != "film0"]
    assert layout.grown(rest, BOUND) == layout
    before = where(layout, found)
    assert where(layout, rest) == {one.sample_id: before[one.sample_id] for one in rest}


@settings(max_examples=60, deadline=None)
@given(corpora, corpora)
def test_adding_sources_only_divides_the_shards_that_got_full(
    corpus: list[list[int]], more: list[list[int]]
) -> None:
    old, every = items(corpus), items(corpus) + items(more, "new")
    first = EMPTY.grown(old, BOUND)
    grown = first.grown(every, BOUND)
    for kind, made in first.divisions.items():
        assert grown.divisions[kind][: len(made)] == made
    before, after = where(first, old), where(grown, old)
    was = first.place(every)
    for one in old:
        key = before[one.sample_id]
        if after[one.sample_id] != key:
            assert sum(other.bytes for other in was[key]) + TAR_END > BOUND
            assert after[one.sample_id][1] >= COUNTS.of(one.kind)


def test_a_source_is_parted_only_where_it_fills_a_shard_alone() -> None:
    """So a takedown touches one shard of a small source, and a large one does not spread others."""
    film = items([[300_000] * 12], "film")
    others = items([[40_000] * 3] * 40, "other")
    layout = Layout(counts=ShardCounts(in_=1, cross=1)).grown([*film, *others], BOUND)
    placed = where(layout, [*film, *others])
    shards = {n: {placed[o.sample_id] for o in others if o.video_id == f"other{n}"}
              for n in range(40)}  # fmt: skip
    assert all(len({key for key in keys if key[0] == "in"}) == 1 for keys in shards.values())
    assert len({placed[one.sample_id] for one in film if one.kind == "in"}) >= 4
    clip_parted = [d for d in layout.divisions["in"] if d.by == "clip"]
    assert clip_parted
    assert {d.source for d in clip_parted} == {ids.stable_hash(["source", "film0"], 16)}


def test_the_record_is_read_back_and_a_folder_of_the_first_version_too(tmp_path: Path) -> None:
    found = items([[300_000] * 9, [50_000] * 30])
    layout = EMPTY.grown(found, BOUND)
    path = tmp_path / LAYOUT_FILE
    path.parent.mkdir()
    assert recorded_layout(tmp_path) is None
    path.write_text(json.dumps(as_record(layout)))
    assert recorded_layout(tmp_path) == layout
    path.write_text(json.dumps({"schema": "s2v-shards-1", "shards": COUNTS.model_dump()}))
    assert recorded_layout(tmp_path) == EMPTY
    damaged = as_record(layout)
    damaged["divisions"]["in"].reverse()
    path.write_text(json.dumps(damaged))
    with pytest.raises(WriteError, match=r"(?s)layout.json: unreadable.*empty folder"):
        recorded_layout(tmp_path)
