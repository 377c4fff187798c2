"""What stands beside the shards must be of these shards: records, wids, Energon, Croissant."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.write import nvmeta
from s2v.datapipe.write.previous import RECORDS_FILE, ShardRecord, read_records, record


def beside(folder: Path, rows: Sequence[dict[str, Any]], *, parted: bool = True) -> Iterator[str]:
    """What is wrong with the files that describe the shards.

    Args:
        folder: a shard folder .
        rows: of its index. Files that older versions did not write may be absent.
        parted: its shards hold samples of one part each; those of older versions did not, and
            Energon's splits were then told otherwise.
    """
    counts = Counter(str(row["shard"]) for row in rows)  # in index order
    tars = [record(folder / name, n, "") for name, n in counts.items() if (folder / name).is_file()]
    part_of = {str(row["shard"]): str(row["part"]) for row in rows}
    yield from _wids(folder / "wids.json", counts)
    for path in sorted(folder.glob("wids-*.json")):
        part = path.stem.removeprefix("wids-")
        yield from _wids(path, Counter({s: n for s, n in counts.items() if part_of[s] == part}))
    if len(tars) < len(counts):
        return  # a missing tar is said once, elsewhere
    if (folder / RECORDS_FILE).exists():
        yield from _records(folder, tars)
    yield from _croissant(folder, tars)
    if (folder / nvmeta.FOLDER).exists():
        yield from _energon(folder, rows, tars, parted=parted)


def _records(folder: Path, tars: list[ShardRecord]) -> Iterator[str]:
    path = folder / RECORDS_FILE
    try:
        found = {one.shard: one for one in read_records(folder)}
    except (OSError, pa.ArrowException, TypeError) as error:
        yield f"{path}: cannot be read ({error})"
        return
    if found.keys() != {one.shard for one in tars}:
        yield f"{path}: its shards are not those of the index"
    for tar in tars:
        said = found.get(tar.shard)
        if said and (said.samples, said.bytes, said.sha256, said.md5) != (
            *(tar.samples, tar.bytes, tar.sha256, tar.md5),
        ):
            yield f"{folder / tar.shard}: is not the file that {RECORDS_FILE} describes"


def _wids(path: Path, counts: Counter[str]) -> Iterator[str]:
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["shardlist"]
        found = {(entry["url"], entry["nsamples"]) for entry in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: cannot be read ({error})"
        return
    if found != set(counts.items()):
        yield f"{path}: its shards are not those of the index"


def _croissant(folder: Path, tars: list[ShardRecord]) -> Iterator[str]:
    path = folder / "croissant.json"
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["distribution"]
        found = {one["contentUrl"]: one["sha256"] for one in listed if "sha256" in one}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path}: cannot be read ({error})"
        return
    index = hashlib.sha256((folder / INDEX_FILE).read_bytes()).hexdigest()
    wanted = {INDEX_FILE: index} | {tar.shard: tar.sha256 for tar in tars}
    wrong = sorted(name for name in found | wanted if found.get(name) != wanted.get(name))
    if wrong:
        yield f"{path}: is not of these files: {', '.join(wrong[:5])}"


def _energon(
    folder: Path, rows: Sequence[dict[str, Any]], tars: list[ShardRecord], *, parted: bool
) -> Iterator[str]:
    """Made anew from the index and held against what is there.

    Where ``energon prepare`` was run over ours, the identity and the splits are the user's.
    """
    meta = folder / nvmeta.FOLDER
    try:
        prepared = json.loads((meta / ".info.json").read_text())["energon_version"] is not None
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{meta / '.info.json'}: cannot be read ({error})"
        return
    with tempfile.TemporaryDirectory() as scratch:
        nvmeta.write_nv_meta(Path(scratch), rows, tars)
        due = Path(scratch)
        for path in sorted(path for path in due.rglob("*") if path.is_file()):
            there = folder / path.relative_to(due)
            if path.name == nvmeta.SPLIT and not parted:
                continue
            if not there.is_file():
                yield f"{there}: is missing"
            elif path.name == "index.sqlite":
                if _dump(there) != _dump(path):
                    yield f"{there}: its rows are not those of the index"
            elif (
                path.suffix == ".idx" or not prepared
            ) and there.read_bytes() != path.read_bytes():
                yield f"{there}: is not of these shards"


def _dump(path: Path) -> list[list[tuple[Any, ...]]] | None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return [
                sorted(db.execute("SELECT * FROM samples")),
                sorted(db.execute("SELECT * FROM sample_parts")),
            ]
    except sqlite3.DatabaseError:
        return None
