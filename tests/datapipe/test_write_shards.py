"""Shards of a known world: stock readers open them, the same input gives the same bytes."""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from synthetic_tables import World, film_world
from synthetic_vectors import rng
from written_run import SETTINGS, WRITE, WritableRun, hashes

from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.base.media.images import decode_png_mask
from s2v.datapipe.base.shards import (
    INDEX,
    INDEX_FILE,
    Sample,
    SampleMeta,
    ShardError,
    ShardIndex,
)
from s2v.datapipe.explaining import explanation
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.write import describe
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.previous import record, write_records
from s2v.datapipe.write.tar import index_row, write_tar
from s2v.datapipe.write.verify import verify_shards
from s2v.datapipe.write.write import Written, write_shards


def test_stock_webdataset_reads_every_sample_whole(film_shards: Written) -> None:
    import webdataset

    tars = [str(film_shards.folder / name) for name in film_shards.shards]
    read = {s["__key__"]: s for s in webdataset.WebDataset(tars, shardshuffle=False)}
    index = ShardIndex.open(film_shards.folder)
    assert read.keys() == {sample.id for sample in index}
    assert len(read) == film_shards.samples > 15
    for sample in index:
        found = {k: v for k, v in read[sample.id].items() if not k.startswith("__")}
        assert found == {suffix: sample.read(suffix, verify=True) for suffix in sample.suffixes}


def test_stock_wids_reads_every_sample_by_number(film_shards: Written) -> None:
    import wids

    data = wids.ShardListDataset(
        str(film_shards.folder / "wids.json"),
        keep=True,
        transformations=[],
        cache_dir=str(film_shards.folder.parent / "wids-cache"),
    )
    assert len(data) == film_shards.samples
    keys = [sample.id for sample in ShardIndex.open(film_shards.folder)]
    assert [data[n]["__key__"] for n in range(len(data))] == keys
    assert SampleMeta.from_json(data[3][".json"].read()).schema_ == "s2v-sample-1"


def test_stock_datasets_reads_the_folder_with_differing_reference_counts(
    film_copy: Path, tmp_path: Path
) -> None:
    import datasets

    index = {sample.id: sample for sample in ShardIndex.open(film_copy)}
    assert {sample.row["references"] for sample in index.values()} == {1, 2}
    splits = datasets.load_dataset(str(film_copy), cache_dir=str(tmp_path / "cache"))
    assert set(splits) == {sample.row["part"] for sample in index.values()} > {"train"}
    data = datasets.concatenate_datasets(list(splits.values()))
    data = data.cast_column("mp4", datasets.Video(decode=False))
    assert len(data) == len(index)
    for row in data:
        sample = index[row["__key__"]]
        assert row["txt"] == sample.row["caption"]
        assert row["mp4"]["bytes"] == sample.read("mp4")
        assert row["json"] == json.loads(sample.read("json"))
        assert (row["ref1.jpg"] is None) == (sample.row["references"] == 1)
        assert row["ref0.mask.png"].size == row["ref0.jpg"].size
    cross = datasets.load_dataset(
        str(film_copy), "cross", split="train", cache_dir=str(tmp_path / "cache"), streaming=True
    )
    assert (
        next(iter(cross.cast_column("mp4", datasets.Video(decode=False))))["json"]["pair_type"]
        == "cross"
    )


HOME = Exclusion(key_type="video_id", key="home", reason="asked", by="test", when="2026-01-01")


@pytest.mark.parametrize("shuffle", [None, 7])
def test_the_same_selection_gives_the_same_bytes(
    film_run: WritableRun, film_shards: Written, tmp_path: Path, shuffle: int | None
) -> None:
    again = film_run.write(tmp_path / "again", shuffle)
    assert hashes(again.folder) == hashes(film_shards.folder)
    assert again.shards == film_shards.shards


def test_a_takedown_rewrites_only_the_shards_of_its_source(
    film_run: WritableRun, film_copy: Path
) -> None:
    before = hashes(film_copy)
    after = film_run.write(film_copy, exclusions=[HOME])
    changed = {
        n for n, h in hashes(film_copy).items() if n.endswith(".tar") and before.get(n) != h
    } | set(after.removed)
    gone = {row["shard"] for row in _samples(film_run) if row["video_id"] in ("home", "shop")}
    assert changed
    assert changed <= gone
    assert not any(sample.row["video_id"] == "home" for sample in ShardIndex.open(film_copy))
    verify_shards(film_copy)


def test_a_folder_keeps_the_number_of_shards_it_was_first_written_with(
    film_run: WritableRun, film_copy: Path
) -> None:
    before = hashes(film_copy)
    film_run.write(film_copy, settings={"shards": ShardCounts(in_=9, cross=9)})
    assert hashes(film_copy) == before
    (film_copy / "index" / "layout.json").write_text('{"schema": "other"}')
    with pytest.raises(WriteError, match=r"layout.json: unreadable.*empty folder"):
        film_run.write(film_copy)


def test_a_write_that_was_killed_is_healed_by_the_next(
    film_run: WritableRun, film_copy: Path
) -> None:
    before = hashes(film_copy)
    (film_copy / ".staging").mkdir()
    (film_copy / ".staging" / "in-000000.tar").write_bytes(b"half")
    (film_copy / "index" / "samples.parquet").unlink()
    victim = next(film_copy.glob("in-*.tar"))
    victim.write_bytes(victim.read_bytes()[:1000])
    (film_copy / "in-000099.tar").write_bytes(b"of an earlier write")
    with pytest.raises(ShardError, match="no index"):
        ShardIndex.open(film_copy)
    assert film_run.write(film_copy).removed == ("in-000099.tar",)
    assert hashes(film_copy) == before


def _samples(film_run: WritableRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = select(film_run.world.tables(), SETTINGS).samples.to_pylist()
    return rows


def test_index_says_what_was_selected(film_run: WritableRun, film_shards: Written) -> None:
    selected = {row["sample_id"]: row for row in _samples(film_run)}
    index = ShardIndex.open(film_shards.folder)
    assert Counter(s.row["pair_type"] for s in index).keys() == {"in", "cross", "image"}
    for sample in index:
        row, meta = selected.pop(sample.id), sample.meta()
        assert sample.row["shard"] == row["shard"]
        assert (meta.split, meta.heldout, meta.scenario) == (
            row["split"],
            row["heldout"],
            row["scenario"],
        )
        for ref, chosen in zip(meta.refs, row["references"], strict=True):
            assert ref.subject_id == chosen["subject_id"]
            assert chosen["reference_subject_id"].startswith(ref.from_.clip_id)
            assert meta.caption[slice(*ref.span)] == ref.phrase
            assert (ref.from_.clip_id == meta.source.clip_id) == (meta.pair_type == "in")
            assert ref.verdicts.same_identity == ("not asked" if meta.pair_type == "in" else "yes")
    assert selected == {}


def test_reference_crop_mask_and_box_show_the_subject(
    film_run: WritableRun, film_shards: Written
) -> None:
    colours = {
        name: rng("colour", name).integers(0, 256, 3).astype(int)
        for name in ("rabbit", "squirrel", "jin", "ann", "bob", "red cup", "blue cup")
    }
    for sample in ShardIndex.open(film_shards.folder):
        for n, ref in enumerate(sample.meta().refs):
            crop = np.asarray(Image.open(io.BytesIO(sample.read(f"ref{n}.jpg"))))
            mask = decode_png_mask(sample.read(f"ref{n}.mask.png"))
            assert crop.shape[:2] == mask.shape
            x0, y0, x1, y1 = ref.box
            assert (round(x1 - x0), round(y1 - y0)) == (90, 150)
            assert (mask.shape[1] - 90, mask.shape[0] - 150) >= (10, 20)  # a margin is there
            rows, columns = np.nonzero(mask)
            assert x0 <= columns.min()
            assert columns.max() <= x1
            assert y0 <= rows.min()
            assert rows.max() <= y1
            inside = crop[mask].astype(int).mean(axis=0)
            name = ref.phrase.removeprefix("the ").rsplit(" number", 1)[0]
            assert np.abs(inside - colours[name]).max() < 6
            jpeg = Image.open(io.BytesIO(sample.read(f"ref{n}.jpg")))
            assert jpeg.layer[0][1:3] == jpeg.layer[1][1:3]  # 4:4:4


def test_boxes_of_larger_sources_are_scaled_to_the_stored_frames(
    tmp_path: Path, clip_file: Path
) -> None:
    """Frames may be stored smaller than their source; boxes and masks follow."""
    world = film_world()
    for row in world.rows["clips"] + world.rows["probe"]:
        row["width"], row["height"] = 640, 384
    for row in world.rows["detections"]:
        row["box"] = [2 * v for v in row["box"]]
    world.store_frames(tmp_path)
    run = WritableRun(tmp_path, world, {row["clip_id"]: clip_file for row in world.rows["clips"]})
    run.world.rows["faces"].clear()
    sample = ShardIndex.open(run.write(tmp_path / "shards").folder)[0]
    x0, y0, x1, y1 = sample.meta().refs[0].box
    assert (round(x1 - x0), round(y1 - y0)) == (90, 150)


def test_clips_that_could_not_be_cut_are_left_out_and_said(
    film_run: WritableRun, tmp_path: Path
) -> None:
    lost = "film-00001000-00007000"
    tables = film_run.world.tables()
    selection = select(tables, SETTINGS)
    files = {clip: path for clip, path in film_run.files.items() if clip != lost}
    with pytest.raises(WriteError, match=rf"{lost} was neither cut nor quarantined"):
        write_shards(film_run.folder, tables, selection, WRITE, files, tmp_path / "out")
    row = {"id": lost, "stage": "cut", "unit": lost, "error": "corrupt", "message": "a hole"}
    tables["quarantine"] = records.table("quarantine", [{**row, "retry": "mend it"}])
    done = write_shards(film_run.folder, tables, selection, WRITE, files, tmp_path / "out")
    assert set(done.skipped.values()) == {f"{lost}: a hole"}
    assert done.samples + len(done.skipped) == selection.samples.num_rows


def frame_outside(world: World, folder: Path) -> None:
    for row in world.rows["frames"]:
        row["tar"] = "../elsewhere.tar"


def frames_missing(world: World, folder: Path) -> None:
    (folder / "frames" / "all.tar").unlink()


def frames_cut_short(world: World, folder: Path) -> None:
    path = folder / "frames" / "all.tar"
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (frame_outside, "is outside"),
        (frames_missing, "frames are missing; delete"),
        (frames_cut_short, "cut short at frame"),
    ],
)
def test_missing_frames_stop_the_write_with_a_way_out(
    tmp_path: Path, clip_file: Path, damage: Any, message: str
) -> None:
    world = film_world()
    world.store_frames(tmp_path)
    damage(world, tmp_path)
    run = WritableRun(tmp_path, world, {row["clip_id"]: clip_file for row in world.rows["clips"]})
    with pytest.raises(WriteError, match=message):
        run.write(tmp_path / "out")
    with pytest.raises(ShardError, match="no index"):
        ShardIndex.open(tmp_path / "out")


def test_an_empty_selection_writes_an_empty_folder_that_verifies(tmp_path: Path) -> None:
    tables = World().tables()
    selection: Selection = select(tables, SETTINGS)
    done = write_shards(tmp_path, tables, selection, WRITE, {}, tmp_path / "out")
    assert (done.samples, done.shards) == (0, {})
    assert verify_shards(tmp_path / "out")["samples"] == 0


@pytest.fixture(scope="module")
def head(film_shards: Written) -> dict[str, Any]:
    text = (film_shards.folder / "README.md").read_text()
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_card_declares_every_member_and_a_config_per_pair_type(head: dict[str, Any]) -> None:
    assert [c["config_name"] for c in head["configs"]] == ["default", "in", "cross", "image"]
    names = {f["name"] for f in head["dataset_info"][0]["features"]}
    assert names >= {"mp4", "txt", "json", "ref0.jpg", "ref5.mask.png", "__key__"}
    assert head["license"] == "cc-by-4.0"


def test_card_credits_every_source_and_lets_no_manifest_write_markup(
    tmp_path: Path, clip_file: Path
) -> None:
    world = film_world()
    world.rows["sources"][0] |= {"credit": "A|B <script>\n[x](y)", "licence": "CC BY 3.0"}
    world.store_frames(tmp_path)
    run = WritableRun(tmp_path, world, {row["clip_id"]: clip_file for row in world.rows["clips"]})
    text = (run.write(tmp_path / "out").folder / "README.md").read_text()
    assert "A\\|B &lt;script> \\[x](y)" in text
    assert '\nlicense: "other"\n' in text
    assert "| outdoors | image |" in text
    assert "| crowd |" not in text  # nothing of it is in the samples


def test_croissant_names_every_file_with_its_hash(film_shards: Written) -> None:
    data = json.loads((film_shards.folder / "croissant.json").read_text())
    found = {f["contentUrl"]: f["sha256"] for f in data["distribution"]}
    files = hashes(film_shards.folder)
    assert found == {name: files[name] for name in [*film_shards.shards, "index/samples.parquet"]}


def _write_where_files_end_at(limit: int, run: WritableRun, out: Path, answer: Any) -> None:
    """In a process of its own, whose files cannot pass a size: writing fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run.write(out, exclusions=[HOME])
        answer.put("written")
    except OSError as error:
        answer.put(explanation(error))


@pytest.mark.parametrize("limit", [2_000, 9_000, 30_000])
def test_a_disk_that_takes_no_more_leaves_the_old_folder_and_no_rest(
    film_run: WritableRun, film_copy: Path, limit: int
) -> None:
    before = hashes(film_copy)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(
        target=_write_where_files_end_at, args=(limit, film_run, film_copy, answer)
    )
    process.start()
    told = answer.get()
    process.join()
    assert told != "written"
    assert told
    assert hashes(film_copy) == before
    assert [path.name for path in film_copy.parent.iterdir()] == ["copy"]
    film_run.write(film_copy, exclusions=[HOME])
    verify_shards(film_copy)


def _as_before_splits_had_shards(run: WritableRun, folder: Path) -> None:
    """Make of a folder what the version before wrote: all splits in the shards of a pair type."""
    index = ShardIndex.open(folder)
    rows = []
    tars: dict[str, list[Sample]] = {}
    for sample in index:
        tars.setdefault(f"{sample.row['pair_type']}-000000.tar", []).append(sample)
    made = {}
    for name, samples in tars.items():
        members = {s.id: {suffix: s.read(suffix) for suffix in s.suffixes} for s in samples}
        made[name] = write_tar(folder / f"{name}.old", sorted(members.items()))
        metas = {s.id: s.meta() for s in samples}
        rows += [index_row(name, one, metas[one["sample_id"]]) for one in made[name]]
    for path in (*folder.glob("*.tar"), *folder.glob("*.idx"), *folder.glob("wids-*.json")):
        path.unlink()
    shutil.rmtree(folder / ".nv-meta")
    for name in made:
        (folder / f"{name}.old").rename(folder / name)
    table = pa.Table.from_pylist(rows, schema=INDEX)
    records_ = [record(folder / name, len(some), "") for name, some in made.items()]
    write_records(folder, records_)
    pq.write_table(table.drop_columns(["part"]), folder / INDEX_FILE)
    describe.write_descriptions(
        describe.Dataset(folder, "A test", table, records_, run.world.tables()["sources"],
                         frozenset())
    )  # fmt: skip
    for path in folder.glob("wids-*.json"):
        path.unlink()
    layout = {"schema": "s2v-shards-1", "shards": ShardCounts(in_=1, cross=1).model_dump()}
    (folder / "index" / "layout.json").write_text(json.dumps(layout))


def test_a_folder_of_the_version_before_is_read_verified_and_dealt_anew_once(
    film_run: WritableRun, film_shards: Written, film_copy: Path
) -> None:
    _as_before_splits_had_shards(film_run, film_copy)
    old = {s.id: (s.row["part"], s.read("json")) for s in ShardIndex.open(film_copy)}
    assert old == {
        s.id: (s.row["part"], s.read("json")) for s in ShardIndex.open(film_shards.folder)
    }
    assert {part for part, _ in old.values()} > {"train"}
    verify_shards(film_copy, deep=True)
    again = film_run.write(film_copy)
    assert "in-val-000000.tar" in again.shards
    assert {s.id for s in ShardIndex.open(film_copy)} == old.keys()
    verify_shards(film_copy)
    assert film_run.write(film_copy).changed == ()
