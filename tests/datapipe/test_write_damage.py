"""Shards that were damaged on their way are found, and the message says what to fetch again."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from s2v.datapipe.base.media.images import decode_png_mask, encode_png_mask
from s2v.datapipe.base.shards import SampleMeta, ShardError, ShardIndex
from s2v.datapipe.write.previous import RECORDS_FILE
from s2v.datapipe.write.tar import index_row, write_index, write_tar
from s2v.datapipe.write.verify import verify_shards
from s2v.datapipe.write.write import Written


def test_a_whole_folder_verifies(film_shards: Written) -> None:
    found = verify_shards(film_shards.folder)
    assert found["samples"] == film_shards.samples
    assert found["shards"] == len(film_shards.shards)
    assert 0 < found["bytes"] < film_shards.bytes
    assert found["clips decoded"] == 0
    deep = verify_shards(film_shards.folder, deep=True)
    assert deep == {**found, "clips decoded": film_shards.samples}


def flip(folder: Path) -> str:
    sample = ShardIndex.open(folder)[2]
    path = folder / sample.row["shard"]
    data = bytearray(path.read_bytes())
    data[sample.row["members"][0]["offset"] + 40] ^= 1
    path.write_bytes(data)
    return rf"{path.name}: sample {sample.id}, member mp4: sha256 differs.*fetch the shard again"


def cut(folder: Path) -> str:
    path = sorted(folder.glob("in-*.tar"))[0]
    path.write_bytes(path.read_bytes()[:5000])
    return rf"{path.name}.*(cannot be read as a tar|cut short|not those of the index)"


def lose(folder: Path) -> str:
    path = sorted(folder.glob("cross-*.tar"))[0]
    path.unlink()
    return rf"{path.name}: the shard is missing; fetch it again"


def stray(folder: Path) -> str:
    shutil.copy(sorted(folder.glob("in-*.tar"))[0], folder / "in-000077.tar")
    return r"in-000077.tar: no sample of the index is in it; delete it"


def restamp(folder: Path) -> str:
    path = sorted(folder.glob("in-*.tar"))[0]
    with tarfile.open(path) as tar:
        members = [(i, tar.extractfile(i).read()) for i in tar.getmembers()]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            info.mtime = 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return r"headers carry times or owners"


def smuggle(folder: Path) -> str:
    path = sorted(folder.glob("in-*.tar"))[0]
    with tarfile.open(path, "a", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("0123456789abcdef0123.mp4")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"extra"))
    return rf"{path.name}: its members are not those of the index"


def rewritten(folder: Path, change: Any) -> None:
    """Change members of the first sample of ``in`` and write tar and index as if it were right."""
    index = ShardIndex.open(folder)
    name = index[0].row["shard"]
    of_shard = [sample for sample in index if sample.row["shard"] == name]
    members = {s.id: {suffix: s.read(suffix) for suffix in s.suffixes} for s in of_shard}
    change(members[index[0].id])
    written = write_tar(folder / name, members.items())
    metas = [SampleMeta.from_json(one["json"]) for one in members.values()]
    rows = [index_row(name, w, meta) for w, meta in zip(written, metas, strict=True)]
    rows += [sample.row for sample in index if sample.row["shard"] != name]
    write_index(folder, rows)


def swap_mask(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        members["ref0.mask.png"] = encode_png_mask(np.ones((9, 7), np.bool_))

    rewritten(folder, change)
    return r"reference 0: its mask is 7x9, its crop \d+x\d+"


def mask_elsewhere(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        mask = np.zeros_like(decode_png_mask(members["ref0.mask.png"]))
        mask[:4, :4] = True
        members["ref0.mask.png"] = encode_png_mask(mask)

    rewritten(folder, change)
    return r"reference 0: its mask spans \[0, 0, 4, 4\], not its box"


def mask_of_a_few_pixels(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        x0, y0, x1, y1 = SampleMeta.from_json(members["json"]).refs[0].box
        mask = np.zeros_like(decode_png_mask(members["ref0.mask.png"]))
        mask[int(y0 + y1) // 2, int(x0 + x1) // 2] = True
        members["ref0.mask.png"] = encode_png_mask(mask)

    rewritten(folder, change)
    return r"reference 0: its mask covers 0.\d+% of its box"


def empty_mask(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        mask = np.zeros_like(decode_png_mask(members["ref0.mask.png"]))
        members["ref0.mask.png"] = encode_png_mask(mask)

    rewritten(folder, change)
    return r"reference 0: its mask is empty"


def mask_of_ones(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        mask = decode_png_mask(members["ref0.mask.png"])
        data = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8)).save(data, "PNG")
        members["ref0.mask.png"] = data.getvalue()

    rewritten(folder, change)
    return r"reference 0: its mask is not one of 0 and 255"


def broken_crop(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        members["ref0.jpg"] = members["ref0.jpg"][:200]

    rewritten(folder, change)
    return r"reference 0: its crop does not decode"


def wrong_phrase(folder: Path) -> str:
    def change(members: dict[str, bytes]) -> None:
        meta = SampleMeta.from_json(members["json"])
        first = meta.refs[0].model_copy(update={"phrase": "somebody else"})
        members["json"] = meta.model_copy(update={"refs": (first, *meta.refs[1:])}).to_json()

    rewritten(folder, change)
    return r"the span of reference 0 is not its phrase"


def energon_of_another_write(folder: Path) -> str:
    path = next(folder.glob("in-*.tar.idx"))
    path.write_bytes(path.read_bytes()[8:])
    return rf"{path.name}: is not of these shards"


def energon_index_lost(folder: Path) -> str:
    with sqlite3.connect(folder / ".nv-meta" / "index.sqlite") as db:
        db.execute("DELETE FROM samples WHERE sample_index = 0")
    return r"index.sqlite: its rows are not those of the index"


def croissant_of_another_write(folder: Path) -> str:
    path = folder / "croissant.json"
    name = ShardIndex.open(folder)[0].row["shard"]
    data = json.loads(path.read_text())
    next(d for d in data["distribution"] if d["contentUrl"] == name)["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    return rf"croissant.json: is not of these files: {name}"


def records_of_another_write(folder: Path) -> str:
    table = pq.read_table(folder / RECORDS_FILE).slice(1)
    pq.write_table(table, folder / RECORDS_FILE)
    return r"shards.parquet: its shards are not those of the index"


def wids_of_another_write(folder: Path) -> str:
    path = folder / "wids.json"
    data = json.loads(path.read_text())
    data["shardlist"].pop()
    path.write_text(json.dumps(data))
    return r"wids.json: its shards are not those of the index"


def wids_of_a_split_of_another_write(folder: Path) -> str:
    path = folder / "wids-train.json"
    data = json.loads(path.read_text())
    data["shardlist"].pop()
    path.write_text(json.dumps(data))
    return r"wids-train.json: its shards are not those of the index"


def remembered(folder: Path, change: Any) -> None:
    """Change rows of the index by hand."""
    rows = [sample.row for sample in ShardIndex.open(folder)]
    change(rows)
    write_index(folder, rows)


def offset_before_the_file(folder: Path) -> str:
    remembered(folder, lambda rows: rows[0]["members"][1].update(offset=-4096))
    return r"in-\d+.tar: sample \w+, member txt: \d+ bytes at -4096 are not in the shard"


def size_of_the_moon(folder: Path) -> str:
    remembered(folder, lambda rows: rows[0]["members"][0].update(size=1 << 60))
    return r"1152921504606846976 bytes at \d+ are not in the shard"


def path_out_of_the_folder(folder: Path) -> str:
    (folder.parent / "secret.tar").write_bytes(b"x" * 4096)
    remembered(folder, lambda rows: rows[0].update(shard="../secret.tar"))
    return r"samples.parquet: '../secret.tar' is no name of a shard"


def members_of_another_sample(folder: Path) -> str:
    def swap(rows: list[dict[str, Any]]) -> None:
        one, two = (rows[n]["members"][0] for n in (0, 1))
        one["offset"], two["offset"] = two["offset"], one["offset"]

    remembered(folder, swap)
    return r"member mp4: something else stands there"


def a_row_without_members(folder: Path) -> str:
    remembered(folder, lambda rows: rows[0].update(members=None))
    return r"samples.parquet: has rows without members"


def a_member_without_sha(folder: Path) -> str:
    remembered(folder, lambda rows: rows[0]["members"][2].update(sha256=None))
    return r"samples.parquet: has rows without members"


def a_source_on_both_sides(folder: Path) -> str:
    first = ShardIndex.open(folder)[0]
    assert first.row["split"] == "train"

    def change(members: dict[str, bytes]) -> None:
        meta = SampleMeta.from_json(members["json"])
        members["json"] = meta.model_copy(update={"split": "test"}).to_json()

    rewritten(folder, change)
    return rf"source '{first.row['video_id']}' is on both sides of the split"


def samples_of_two_splits_in_a_shard(folder: Path) -> str:
    a_source_on_both_sides(folder)
    return r"in-\d+.tar: holds samples of test and train"


def a_crop_of_another_reference(folder: Path) -> str:
    """Two references of one sample exchange their crops, sizes and hashes made right."""
    index = ShardIndex.open(folder)
    two = next(s for s in index if s.row["references"] == 2)
    rows = [sample.row for sample in index]
    row = next(r for r in rows if r["sample_id"] == two.id)
    by = {m["suffix"]: m for m in row["members"]}
    for key in ("offset", "size", "sha256"):
        by["ref0.jpg"][key], by["ref1.jpg"][key] = by["ref1.jpg"][key], by["ref0.jpg"][key]
    write_index(folder, rows)
    return r"member ref[01].jpg: something else stands there"


@pytest.mark.parametrize(
    "damage",
    [
        *(flip, cut, lose, stray, restamp, smuggle),
        *(
            swap_mask,
            mask_elsewhere,
            mask_of_a_few_pixels,
            empty_mask,
            mask_of_ones,
            broken_crop,
            wrong_phrase,
        ),
        *(energon_of_another_write, energon_index_lost, croissant_of_another_write),
        *(records_of_another_write, wids_of_another_write, wids_of_a_split_of_another_write),
        *(offset_before_the_file, size_of_the_moon, path_out_of_the_folder, a_row_without_members),
        *(members_of_another_sample, a_member_without_sha, a_crop_of_another_reference),
        *(a_source_on_both_sides, samples_of_two_splits_in_a_shard),
    ],
)
def test_damage_is_found_and_names_the_file_and_the_way_out(film_copy: Path, damage: Any) -> None:
    message = damage(film_copy)
    with pytest.raises(ShardError, match=message):
        verify_shards(film_copy)


@pytest.mark.parametrize("older", [True, False])
def test_json_of_an_older_version_is_not_called_damaged_and_foreign_json_is(
    film_copy: Path, older: bool
) -> None:
    def change(members: dict[str, bytes]) -> None:
        data = json.loads(members["json"])
        for ref in data["refs"]:
            del ref["category"], ref["scores"]["distance_us"], ref["verdicts"]["verifier"]
        members["json"] = json.dumps(
            data, sort_keys=True, ensure_ascii=False, separators=(",", ":") if older else None
        ).encode()

    rewritten(film_copy, change)
    with pytest.raises(ShardError) as found:  # the records beside the tar are of before
        verify_shards(film_copy)
    assert ("canonical" in str(found.value)) is not older


@pytest.mark.parametrize("field", ["frames", "height", "fps"])
def test_a_clip_that_is_not_what_its_json_says_is_found_by_decoding(
    film_copy: Path, field: str
) -> None:
    def change(members: dict[str, bytes]) -> None:
        meta = SampleMeta.from_json(members["json"])
        video = meta.video.model_copy(update={field: getattr(meta.video, field) + 2})
        members["json"] = meta.model_copy(update={"video": video}).to_json()

    rewritten(film_copy, change)
    with pytest.raises(ShardError, match=r"its clip (decodes to \d+ frames|has [\d.]+ frames)"):
        verify_shards(film_copy, deep=True)


def test_an_index_that_is_older_than_its_shards_is_not_believed(film_copy: Path) -> None:
    """A reader that opened the folder before it was written anew gets an error, not other bytes."""
    old = ShardIndex.open(film_copy)
    name = old[0].row["shard"]
    inside = [sample for sample in old if sample.row["shard"] == name]
    assert len(inside) > 2
    data = {s.id: {suffix: s.read(suffix) for suffix in s.suffixes} for s in inside}
    write_tar(film_copy / name, list(data.items())[1:])
    for sample in inside:
        for suffix in sample.suffixes:
            with pytest.raises(ShardError, match=r"written anew|cut short"):
                sample.read(suffix)
