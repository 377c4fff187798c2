"""Shards that were damaged on their way are found, and the message says what to fetch again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from s2v.datapipe.base.shards import ShardError, ShardIndex
from s2v.datapipe.write.verify import verify_shards
from s2v.datapipe.write.write import Written


def test_a_whole_folder_verifies(film_shards: Written) -> None:
    found = verify_shards(film_shards.folder)
    assert found["samples"] == film_shards.samples
    assert found["shards"] == len(film_shards.shards)
    assert 0 < found["bytes"] < film_shards.bytes


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


def wids_of_another_write(folder: Path) -> str:
    path = folder / "wids.json"
    data = json.loads(path.read_text())
    data["shardlist"].pop()
    path.write_text(json.dumps(data))
    return r"wids.json: its shards are not those of the index"


@pytest.mark.parametrize(
    "damage", [flip, cut, lose, stray, restamp, smuggle, wids_of_another_write]
)
def test_damage_is_found_and_names_the_file_and_the_way_out(film_copy: Path, damage: Any) -> None:
    message = damage(film_copy)
    with pytest.raises(ShardError, match=message):
        verify_shards(film_copy)
