"""Which samples a run draws from, in which sizes, and why the others are left out."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from s2v.datapipe.base.shards import SampleMeta, ShardIndex
from s2v.datapipe.write.previous import record, write_records
from s2v.datapipe.write.tar import write_index
from s2v.model.config import Config, DataConfig, load
from s2v.model.data.buckets import Bucket, Shapes, fit, strides
from s2v.model.data.complete import check_shards
from s2v.model.data.exclusions import Exclusions
from s2v.model.data.index import select, stride
from s2v.model.data.plan import Plan
from s2v.model.data.pool import Pool, pool_of
from s2v.model.errors import ModelError
from s2v.model.progress import quiet
from s2v.model.train import train

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts, no package

from drawn_durations import drawn, wan

SIZES = [(81, 480, 832), (33, 480, 832), (81, 272, 480), (81, 832, 480), (17, 720, 1280)]


def _fit(frames: int, height: int, width: int, **options: float | None) -> tuple[int, ...] | None:
    clip = Shapes(*(np.array([x]) for x in (frames, 24.0, height, width)))
    one = fit(clip, SIZES, rate=16.0, **options)
    return None if one.size[0] < 0 else one.sizes[one.size[0]]


def test_a_clip_gets_the_nearest_aspect_then_the_longest_then_the_largest_it_covers() -> None:
    assert _fit(240, 720, 1280) == (81, 480, 832)  # long enough for 81: not the larger, shorter
    assert _fit(240, 1280, 720) == (81, 832, 480)
    assert _fit(240, 288, 512) == (81, 272, 480)  # 480 would have to be grown for
    assert _fit(60, 720, 1280) == (33, 480, 832)
    assert _fit(30, 720, 1280) == (17, 720, 1280)
    assert _fit(60, 1280, 720) == (33, 480, 832)  # the only upright size is too long for it
    assert _fit(10, 720, 1280) is None
    assert _fit(240, 144, 256) == (81, 272, 480)  # grows least
    assert _fit(240, 144, 256, max_enlarge=1.5) is None
    assert _fit(1, 500, 900) == (1, 480, 832)  # a photograph: one frame of the same shapes


def test_vectors_and_single_clips_get_the_same_stride() -> None:
    random = np.random.default_rng(0)
    frames, fps = random.integers(1, 400, 500), random.choice([8, 23.976, 24, 25, 30, 59.94], 500)
    for window in (1, 5, 17, 81):
        config = DataConfig(frames=window, fps=8.0)
        single = [stride(int(f), float(r), config) or 0 for f, r in zip(frames, fps, strict=True)]
        assert strides(frames, fps, window, 8.0).tolist() == single


def test_one_size_takes_the_samples_that_it_always_took(
    drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    index, config = ShardIndex.open(drawn_shards), tiny()
    before, pool = select(index, config.data, "train"), pool_of(index.table, config.data)
    assert [index[row].id for row in pool.drawn_rows()] == [s.id for s in before.samples]
    assert dict(pool.dropped) == before.dropped
    assert pool.buckets == (Bucket(9, 48, 80, 4),)
    assert pool.size + sum(pool.dropped.values()) == len(index)
    with pytest.raises(ModelError, match="no sample for train among 18: 13 clip shorter"):
        pool_of(index.table, tiny("data.frames=101").data)


def test_every_row_has_a_bucket_or_a_reason_in_every_phase() -> None:
    table = drawn(3000)
    config = wan(
        "data.mix={ in = 0.5, image = 0.5 }",
        "data.phases=[{ from_step = 9, mix = { cross = 1.0 }, sizes = [[121, 480, 832]] }]",
    )
    pool = pool_of(table, config.data)
    assert pool.size + sum(pool.dropped.values()) == 3000
    assert set(pool.dropped) == {"clip shorter than the window"}
    kind = table["pair_type"].to_numpy()
    assert set(kind[pool.places[0] >= 0]) == {"in", "image"}
    assert set(kind[pool.places[1] >= 0]) == {"cross"}
    for bucket in pool.buckets:
        assert (bucket.frames == 1) == (bucket.size in {(1, 480, 832), (1, 832, 480)})
    images = pool.places[0][kind == "image"]
    assert {pool.buckets[p].frames for p in images} == {1}
    grouped = pool_of(table, wan("data.group_references=true", "data.max_references=3").data)
    shown = np.minimum(table["references"].to_numpy(), 3)
    at = grouped.places[0] >= 0
    assert [grouped.buckets[p].references for p in grouped.places[0][at]] == shown[at].tolist()


def test_a_phase_that_has_no_samples_says_so() -> None:
    config = wan("data.phases=[{ from_step = 5, mix = { t2v = 1.0 } }]")
    pool = pool_of(drawn(100), config.data)
    with pytest.raises(ModelError, match=r"asks for \['t2v'\] in phase 1, the shards have"):
        Plan(pool, [{"in": 1.0}, {"t2v": 1.0}], 0)


def test_wrong_phases_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"phases begin at steps \[9, 9\]"):
        wan("data.phases=[{ from_step = 9 }, { from_step = 9 }]")
    with pytest.raises(ValueError, match=r"frames 80 must be 4n\+1"):
        load("phantom_wan_1_3b_480p", ["data.sizes=[[80, 480, 832]]"])
    with pytest.raises(ValueError, match=r"data\.phases\[0\]\.sizes .*height 100 does not divide"):
        wan("data.phases=[{ from_step = 9, sizes = [[81, 100, 832]] }]")
    config = wan("data.phases=[{ from_step = 9, mix = { cross = 1.0 } }]")
    assert "phases = [{" in config.to_toml()


def test_a_run_writes_its_phases_as_it_reads_them(tmp_path: Path) -> None:
    config = wan("data.phases=[{ from_step = 9, mix = { cross = 1.0 } }, { from_step = 20 }]")
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert load(path) == config


def _list(path: Path, *lines: tuple[str, str]) -> Path:
    rows = [
        {"key_type": kind, "key": key, "reason": "asked for", "by": "them", "when": "2026-11-01"}
        for kind, key in lines
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_excluded_sample_is_never_drawn_and_the_others_keep_their_places() -> None:
    pool = Pool.of_ids({"in": [f"i{n}" for n in range(10)], "cross": [f"c{n}" for n in range(5)]})
    mix = [{"in": 0.7, "cross": 0.3}]
    whole, less = Plan(pool, mix, 3), Plan(pool.without({7: "excluded"}), mix, 3)
    name = pool.id(7)
    for _ in range(11):
        whole.next()
    less.restore(whole.state())  # the list grew while the run was stopped
    uninterrupted = [whole.next() for _ in range(300)]
    later = [less.next() for _ in range(150)]
    assert name not in {d.sample_id for d in later}
    for source in ("in", "cross"):
        mine = [(d.turn, d.sample_id) for d in later if d.source == source]
        theirs = [(d.turn, d.sample_id) for d in uninterrupted if d.source == source]
        kept = [(turn, sample) for turn, sample in theirs if sample != name]
        assert mine == kept[: len(mine)]
    counts = Counter(d.source for d in later)
    assert counts["in"] > 100  # the mixture is still that of data.mix


def test_lists_are_honoured_by_index_and_by_reference(drawn_shards: Path, tmp_path: Path) -> None:
    index = ShardIndex.open(drawn_shards)
    path = _list(
        tmp_path / "no.jsonl",
        ("clip_id", "v0-1"),
        ("sample_id", "in-01-002"),
        ("identity_id", "identity-1"),
        ("subject_id", "v0-3-s0"),
        ("sha256", "ab" * 32),
    )
    lists = Exclusions.read([path], index.table)
    assert lists.reasons is not None
    told = {index[int(row)].id: lists.reasons[row] for row in np.flatnonzero(lists.reasons != None)}  # noqa: E711
    assert told["in-00-001"] == told["cross-00-001"] == "excluded by clip_id"
    assert told["in-01-002"] == "excluded by sample_id"
    assert told["in-01-003"] == "excluded by identity_id"
    assert lists.unmatched == 1
    assert "sha256" in lists.told
    subject = next(s for s in index if s.id == "in-00-003")
    assert lists.reason(subject.meta()) == "excluded by subject_id"
    # A reference cut from the clip of an excluded source, in a sample of another one.
    meta = subject.meta()
    moved = meta.refs[0].from_.model_copy(update={"source": "elsewhere"})
    refs = (meta.refs[0].model_copy(update={"from_": moved, "subject_id": "x"}),)
    other: SampleMeta = meta.model_copy(update={"refs": refs})
    by_video = Exclusions.read([_list(path, ("video_id", "elsewhere"))], index.table)
    assert by_video.reason(other) == "excluded by video_id of a reference"
    assert by_video.reason(meta) is None
    # Of a film that is named, all its videos are meant; no reference names the film.
    at = index.table.schema.get_field_index("long_video_id")
    films = pa.array(["film"] * len(index))
    table = index.table.set_column(at, "long_video_id", films)
    by_film = Exclusions.read([_list(path, ("long_video_id", "film"))], table)
    moved = meta.refs[0].from_.model_copy(update={"source": "v1"})
    refs = (meta.refs[0].model_copy(update={"from_": moved}),)
    of_film: SampleMeta = meta.model_copy(update={"refs": refs})
    assert by_film.reason(of_film) == "excluded by video_id of a reference"
    assert by_film.reason(other) is None
    path.write_text('{"key_type": "video_id"}\n')
    with pytest.raises(ModelError, match=r"data\.exclusions: .*no\.jsonl:1: key"):
        Exclusions.read([path], index.table)
    with pytest.raises(ModelError, match="no such exclusion list"):
        Exclusions.read([tmp_path / "none.jsonl"], index.table)


def test_the_trainer_honours_lists_and_goes_on_when_one_grows(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    first = _list(tmp_path / "a.jsonl", ("sample_id", "in-01-002"))
    config = tiny("train.steps=4", f'data.exclusions=["{first}"]')
    result = train(config, drawn_shards, tmp_path / "run", quiet)
    assert result.dropped["excluded by sample_id"] == 1
    assert result.samples["in"] == 7
    more = _list(tmp_path / "b.jsonl", ("subject_id", "v0-3-s0"), ("clip_id", "v1-0"))
    longer = tiny("train.steps=10", f'data.exclusions=["{first}", "{more}"]')
    again = train(longer, drawn_shards, tmp_path / "run", quiet)
    assert again.steps == 10
    assert again.dropped["excluded by subject_id"] == 1
    # Nothing else looks at them either: the latent space is fitted to what is left.
    fitted = {s.id for s in select(ShardIndex.open(drawn_shards), longer.data, "train").samples}
    assert fitted.isdisjoint({"in-01-002", "in-00-003", "in-01-000"})
    assert len(fitted) == sum(again.samples.values())
    rows = sum(again.samples.values()) + sum(again.dropped.values()) + again.quarantined
    assert rows == len(ShardIndex.open(drawn_shards))


def test_a_copy_that_lacks_a_shard_is_refused_before_the_first_step(
    drawn_shards: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    part = tmp_path / "shards"
    shutil.copytree(drawn_shards, part)
    (part / "cross-000000.tar").unlink()
    with pytest.raises(ModelError, match=r"cross-000000\.tar: the shard is missing; fetch"):
        train(tiny(), part, tmp_path / "run", quiet)
    only_in = tiny("data.mix={ in = 1.0 }")
    index = ShardIndex.open(part)
    check_shards(index, pool_of(index.table, only_in.data))  # nobody asks for the missing one
    names = ["in-000000.tar"]
    records = [record(part / name, 1, "") for name in names]
    write_records(part, records)
    with (part / names[0]).open("r+b") as file:
        file.truncate(records[0].bytes - 512)
    with pytest.raises(ModelError, match=r"in-000000\.tar: has \d+ bytes of \d+; it is cut short"):
        check_shards(index, pool_of(index.table, only_in.data))


def test_a_sample_that_an_index_names_twice_is_refused(
    drawn_shards: Path, tiny: Callable[..., Config]
) -> None:
    """Folders put together by hand: features of one sample would be taken for the other's."""
    table = ShardIndex.open(drawn_shards).table
    twice = pa.concat_tables([table, table.slice(2, 1)])
    name = table["sample_id"][2].as_py()
    with pytest.raises(ModelError, match=rf"here: 1 sample ids stand in .* first is {name}"):
        pool_of(twice, tiny().data, where="here")


def test_a_large_index_is_read_row_by_row_and_says_the_same(
    drawn_shards: Path, tmp_path: Path
) -> None:
    small = ShardIndex.open(drawn_shards)
    large = ShardIndex.open(drawn_shards, large=3)
    assert {"members", "caption"}.isdisjoint(large.table.schema.names)
    assert large.table.equals(small.table.select(large.table.schema.names))
    assert [s.row for s in large] == [s.row for s in small]
    assert [large[i].row for i in (5, 0, 17)] == [small[i].row for i in (5, 0, 17)]
    # As a worker gets it: its file, not its columns.
    other = pickle.loads(pickle.dumps(large))  # noqa: S301 - our own bytes
    assert other.table.num_rows == 0
    assert len(other) == len(small)
    assert other[3].row == small[3].row
    with pytest.raises(IndexError):
        large[18]
    rows = [s.row for s in small]
    rows[4] = rows[4] | {"members": [rows[4]["members"][0] | {"sha256": None}]}
    (tmp_path / "index").mkdir()
    write_index(tmp_path, rows)
    broken = ShardIndex.open(tmp_path, large=3)
    with pytest.raises(RuntimeError, match=f"sample {small[4].id} has no shard or members"):
        broken[4]


def test_a_million_rows_are_columns_not_objects() -> None:
    """A pool of 200,000 rows costs tens of bytes a row, and a step reads none of the others."""
    n = 200_000
    random = np.random.default_rng(0)
    table = pa.table(
        {
            "sample_id": [f"{i:020x}" for i in random.permutation(n)],
            "pair_type": np.where(random.random(n) < 0.5, "in", "cross"),
            "split": pa.repeat("train", n),
            "heldout": np.zeros(n, np.bool_),
            "frames": random.integers(10, 200, n),
            "fps": np.full(n, 24.0),
            "height": np.full(n, 480),
            "width": np.full(n, 832),
            "references": random.integers(0, 4, n),
        }
    )
    pool = pool_of(table, wan("data.mix={ in = 0.5, cross = 0.5 }").data)
    size = sum(rows.nbytes for rows in pool.rows.values()) + sum(p.nbytes for p in pool.places)
    assert size + pool.shown.nbytes + pool.ids.nbytes < 50 * n
