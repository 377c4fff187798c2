"""What was taken down of shards does not stay beside them as encoded samples."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.write.folder import commit
from s2v.datapipe.write.latents import forget_latents


def _index(folder: Path, **shards: list[str]) -> None:
    rows = [(name, f"{shard}.tar") for shard, names in shards.items() for name in names]
    path = folder / INDEX_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    ids, tars = ([row[n] for row in rows] for n in (0, 1))
    pq.write_table(
        pa.table({"sample_id": pa.array(ids, pa.string()), "shard": pa.array(tars, pa.string())}),
        path,
    )


def _encoded(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in (*(f"{n}.9x48x80.safetensors" for n in names), "__index__", "__end__"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    return path


def test_nothing_that_shows_what_was_taken_down_stays(tmp_path: Path) -> None:
    _index(tmp_path, one=["a", "b"], two=["c"])
    latents = tmp_path / "latents"
    stays = [_encoded(latents / "f1" / "two.tar", "c"), _encoded(latents / "f2" / "one.tar", "a")]
    goes = [
        _encoded(latents / "f1" / "one.tar", "a", "b", "gone"),
        _encoded(latents / "f2" / "three.tar", "x"),  # its shard is no more
        _encoded(latents / "f2" / "two.tar", "a"),  # of another shard's sample
        latents / "f3" / "one.tar",
    ]
    goes[-1].parent.mkdir()
    goes[-1].write_bytes(b"nobody can say what is in it")
    assert forget_latents(tmp_path) == sorted(str(p.relative_to(tmp_path)) for p in goes)
    assert sorted(latents.rglob("*.tar")) == sorted(stays)
    assert forget_latents(tmp_path) == []


def test_shards_without_latents_lose_nothing(tmp_path: Path) -> None:
    _index(tmp_path, one=["a"])
    assert forget_latents(tmp_path) == []


def test_latents_on_another_disk_are_still_found_after_a_write(tmp_path: Path) -> None:
    """A link that was lost would leave them where no takedown looks."""
    far, shards, coming = tmp_path / "far", tmp_path / "shards", tmp_path / ".shards.next"
    _encoded(far / "f1" / "one.tar", "a", "gone")
    _index(shards, one=["a", "gone"])
    (shards / "latents").symlink_to("../far")
    _index(coming, one=["a"])
    commit(coming, shards)
    assert (shards / "latents").resolve() == far
    assert forget_latents(shards) == ["latents/f1/one.tar"]
    assert not list(far.rglob("*.tar"))
