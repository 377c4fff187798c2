"""Stock readers open our shards as they are, where samples of one shard have one to six references.

Two folders: one written by a run of ours, one by an import. What a reader gives is compared with
the bytes that the index names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from foreign_files import film, phantom_pairs, reference, target
from synthetic_tables import HEIGHT, WIDTH, World
from written_run import SETTINGS, WRITE

from s2v.datapipe.base.media import masks
from s2v.datapipe.base.shards import SampleMeta, ShardIndex
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.phantom_data import PhantomData
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.interop.writing import ShardWriter
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.write.verify import verify_shards
from s2v.datapipe.write.write import write_shards

NOUNS = ("rabbit", "squirrel", "dog", "cat", "fox", "owl")
COUNTS = [1, 2, 3, 4, 5, 6]


def crowded_world() -> World:
    """One film that has clips of one to six animals three times, each in a place of its own."""
    world = World()
    world.source("zoo", seconds=600)
    for n, count in enumerate(COUNTS * 3):
        clip = world.clip("zoo", 30 * n, 30 * n + 5)
        for noun in NOUNS[:count]:
            world.subject(clip, noun, look=f"{noun} {n}")
    masks_of = {row["detection_id"]: row for row in world.rows["masks"]}
    for row in world.rows["detections"]:
        n = int(row["detection_id"].rsplit("-", 1)[1])
        x0, y0 = 10 + 100 * (n % 3), 4 + 96 * (n // 3)
        row["box"] = [float(v) for v in (x0, y0, x0 + 90, y0 + 88)]
        row["area_share"] = round(90 * 88 / (WIDTH * HEIGHT), 6)
        drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.ellipse(drawn, (x0 + 45, y0 + 44), (40, 40), 0, 0, 360, 1, -1)
        mask = drawn.astype(np.bool_)
        masks_of[row["detection_id"]] |= {
            "rle": masks.encode(mask)["counts"],
            "area_share": round(float(mask.mean()), 6),
            "box_fill": round(float(mask.sum()) / (90 * 88), 6),
        }
    return world


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, clip_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("crowded")
    world = crowded_world()
    world.store_frames(folder)
    settings = SETTINGS.model_copy(update={"shards": ShardCounts(in_=1, cross=1)})
    tables = world.tables()
    selection = select(tables, settings)
    files = {row["clip_id"]: clip_file for row in world.rows["clips"]}
    return write_shards(folder, tables, selection, WRITE, files, folder / "shards").folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    rows = []
    for count in COUNTS:
        vid, other = f"zoo_{count}.0_{count}.5", f"zoo_{count + 50}.0_{count + 50}.5"
        for name in (vid, other):
            film(folder / "videos" / f"{name}.mp4", frames=6, size=(96, 64), fps=12)
        pairs = {}
        for n, noun in enumerate(NOUNS[:count]):
            box = (4 + 30 * (n % 3), 2 + 30 * (n // 3), 30 + 30 * (n % 3), 30 + 30 * (n // 3))
            pairs[f"the {noun}"] = {
                "obj_from_tgt_video": [target(vid, 0.1, box)],
                "refer_result": [[reference(other, 0.5, box)]],
            }
        caption = "There are " + " and ".join(f"the {noun}" for noun in NOUNS[:count]) + "."
        rows.append({"vid": vid, "caption": caption, "pairs": pairs})
    settings = ImportSettings(write={"preset": "ultrafast"})
    ledger = Ledger()
    dataset = PhantomData(phantom_pairs(folder / "p.parquet", rows), None, settings)
    writer = ShardWriter(folder, Videos(folder / "videos"), settings, ledger, quiet=True)
    writer.write(dataset.samples(ledger))
    assert ledger.left_out() == {}
    return folder / "shards"


@pytest.fixture(params=["written", "imported"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def expected(folder: Path) -> dict[str, dict[str, bytes]]:
    """Bytes of every member, read through the index and held against its hashes."""
    return {
        sample.id: {suffix: sample.read(suffix, verify=True) for suffix in sample.suffixes}
        for sample in ShardIndex.open(folder)
    }


def test_each_shard_mixes_one_to_six_references(folder: Path) -> None:
    index = ShardIndex.open(folder)
    by_shard: dict[str, list[int]] = {}
    for sample in index:
        by_shard.setdefault(sample.row["shard"], []).append(sample.row["references"])
    assert any(set(counts) == set(COUNTS) for counts in by_shard.values())
    verify_shards(folder)


def test_webdataset_gives_every_member_as_indexed(folder: Path) -> None:
    import webdataset

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    read = {
        sample["__key__"]: {k: v for k, v in sample.items() if not k.startswith("__")}
        for sample in webdataset.WebDataset(tars, shardshuffle=False)
    }
    assert read == expected(folder)


def test_wids_gives_every_member_as_indexed_by_number(folder: Path, tmp_path: Path) -> None:
    import wids

    data = wids.ShardListDataset(
        str(folder / "wids.json"), keep=True, transformations=[], cache_dir=str(tmp_path / "cache")
    )
    keys = [sample.id for sample in ShardIndex.open(folder)]
    wanted = expected(folder)
    assert len(data) == len(wanted)
    for number in reversed(range(len(data))):
        sample = data[number]
        found = {k[1:]: v.read() for k, v in sample.items() if k.startswith(".")}
        assert sample["__key__"] == keys[number]
        assert found == wanted[keys[number]]


def test_webdataset_and_wids_read_one_split_by_its_shards(folder: Path, tmp_path: Path) -> None:
    webdataset, wids = pytest.importorskip("webdataset"), pytest.importorskip("wids")
    of_part: dict[str, set[str]] = {}
    for sample in ShardIndex.open(folder):
        of_part.setdefault(sample.row["part"], set()).add(sample.id)
    assert "train" in of_part
    for part, wanted in of_part.items():
        named = "" if part == "train" else f"{part}-"
        tars = [str(path) for kind in ("in", "cross")
                for path in sorted(folder.glob(f"{kind}-{named}[0-9]*.tar"))]  # fmt: skip
        found = {s["__key__"] for s in webdataset.WebDataset(tars, shardshuffle=False)}
        assert found == wanted
        listed = wids.ShardListDataset(
            str(folder / f"wids-{part}.json"),
            keep=True,
            transformations=[],
            cache_dir=str(tmp_path),
        )
        assert {listed[n]["__key__"] for n in range(len(listed))} == wanted


def test_datasets_gives_every_member_as_indexed_with_nulls_for_missing_references(
    folder: Path, tmp_path: Path
) -> None:
    import datasets

    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for part, found in splits.items():
        parts = {s.id for s in ShardIndex.open(folder) if s.row["part"] == part}
        assert set(found["__key__"]) == parts
    data = datasets.concatenate_datasets(list(splits.values()))
    data = data.cast_column("mp4", datasets.Video(decode=False))
    for n in range(6):
        for kind in ("jpg", "mask.png"):
            data = data.cast_column(f"ref{n}.{kind}", datasets.Image(decode=False))
    wanted = expected(folder)
    assert len(data) == len(wanted)
    for row in data:
        members = wanted[row["__key__"]]
        assert row["txt"] == members["txt"].decode()
        assert row["json"] == json.loads(members["json"])
        assert row["mp4"]["bytes"] == members["mp4"]
        for n in range(6):
            for kind in ("jpg", "mask.png"):
                cell, name = row[f"ref{n}.{kind}"], f"ref{n}.{kind}"
                assert (None if cell is None else cell["bytes"]) == members.get(name)


def test_energon_gives_every_member_as_indexed(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the folder's own ``.nv-meta`` where it has one, else with what Energon prepares."""
    pytest.importorskip("megatron.energon")
    if not (folder / ".nv-meta").exists():
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in folder.glob("*.tar"):
            os.link(path, copy / path.name)
        _prepare(copy)
        opened = copy
    else:
        opened = folder
    found: dict[str, dict[str, bytes]] = {}
    for part in _parts(opened):
        for sample in _energon(opened, part):
            assert sample["__key__"] not in found
            found[sample["__key__"]] = {k: v for k, v in sample.items() if not k.startswith("__")}
    assert found == expected(folder)


def _prepare(folder: Path) -> None:
    """What ``energon prepare`` does without questions, and a dataset.yaml for any sample."""
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    WebdatasetPreparator.prepare_dataset(
        EPath(folder),
        sorted(path.name for path in folder.glob("*.tar")),
        split_parts_ratio=[("train", 1.0)],
        workers=1,
    )
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    )


def _parts(folder: Path) -> list[str]:
    said = yaml.safe_load((folder / ".nv-meta" / "split.yaml").read_text())["split_parts"]
    return [part for part, shards in said.items() if shards]


def _energon(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_loader,
        get_val_dataset,
        stateless,
    )

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    class Bytes(DefaultTaskEncoder[Any, Any, Any, Any]):  # type: ignore[misc]
        """Hands samples through as they lie in the tar."""

        decoder = None
        cookers = (Cooker(cook=cook),)

        def encode_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

        def batch(self, samples: list[Any]) -> list[Any]:
            return samples

        def encode_batch(self, batch: list[Any]) -> list[Any]:
            return batch

    data = get_val_dataset(
        str(folder),
        split_part=part,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=1,
        task_encoder=Bytes(raw_batch_type=dict),
    )
    for batch in get_loader(data):
        yield from batch


def test_the_json_of_any_count_has_every_key(folder: Path) -> None:
    shapes: dict[int, Callable[..., Any]] = {}
    for sample in ShardIndex.open(folder):
        meta = SampleMeta.from_json(sample.read("json"))
        assert len(meta.refs) == sample.row["references"]
        assert meta.to_json() == sample.read("json")
        shapes[len(meta.refs)] = meta.to_json
    assert sorted(shapes) == COUNTS
