"""Prove a shard folder whole: every byte against the index, every name against the format."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from pydantic import ValidationError

from s2v.datapipe.base.shards import (
    INDEX_FILE,
    MAX_REFERENCES,
    SCHEMA_VERSION,
    Sample,
    SampleMeta,
    ShardError,
    ShardIndex,
    part_of,
)
from s2v.datapipe.write import verify_leaks, verify_sample
from s2v.datapipe.write.verify_beside import beside

_REWRITE: Final = "write the folder again (`s2v-data select --config FILE`; runs no model)"
_RESELECT: Final = "select anew (`s2v-data select --config FILE`), which parts whole sources"
_SHOWN: Final = 20


def verify_shards(folder: str | Path, *, deep: bool = False) -> dict[str, Any]:
    """Check a shard folder without the run that made it.

    Every member is hashed and held against the index; tar headers, names, order and duplicates
    are checked; captions, metadata and index must agree; crops, masks, boxes and phrases too;
    nothing may be in the test split and in training; what stands beside the shards must be of
    these shards.

    Args:
        folder: the shard folder.
        deep: also decode every clip and count its frames.

    Returns:
        ``{"folder", "shards", "samples", "members", "bytes", "clips decoded"}`` of what was
        checked.

    Raises:
        ShardError: naming each file that is wrong and the way out.
    """
    folder = Path(folder)
    index = ShardIndex.open(folder)
    samples = list(index)
    parted = "part" in pq.read_schema(folder / INDEX_FILE).names  # older shards hold all parts
    problems = [*_names(samples), *_tars(folder, samples), *(_parts(samples) if parted else ())]
    problems += (
        f"{what}; {_REWRITE}"
        for what in beside(folder, [sample.row for sample in samples], parted=parted)
    )
    leaks = verify_leaks.Leaks(folder)
    members = size = 0
    with tempfile.TemporaryDirectory() as scratch:
        for sample in samples:
            problems += _sample(sample, leaks, Path(scratch) if deep else None)
            members += len(sample.row["members"])
            size += sum(int(m["size"]) for m in sample.row["members"])
    problems += (f"{what}; {_RESELECT}" for what in leaks.found())
    if problems:
        more = len(problems) - _SHOWN
        lines = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ShardError("\n".join(lines))
    return {
        "folder": str(folder),
        "shards": len({sample.row["shard"] for sample in samples}),
        "samples": len(samples),
        "members": members,
        "bytes": size,
        "clips decoded": len(samples) if deep else 0,
    }


def _names(samples: list[Sample]) -> Iterator[str]:
    for key, count in Counter(sample.id for sample in samples).items():
        if count > 1:
            yield f"sample {key} is there {count} times; {_REWRITE}"
    for sample in samples:
        wanted = ["mp4", "txt", "json"]
        for n in range(int(sample.row["references"])):
            wanted += [f"ref{n}.jpg", f"ref{n}.mask.png"]
        if sample.suffixes != wanted or sample.row["references"] > MAX_REFERENCES:
            where = f"{sample.folder / sample.row['shard']}: sample {sample.id}"
            yield f"{where}: has members {sample.suffixes}, {wanted} are due; {_REWRITE}"


def _tars(folder: Path, samples: list[Sample]) -> Iterator[str]:
    """Each tar holds exactly the indexed members, in order, with plain headers."""
    expected: dict[str, list[tuple[str, int, int]]] = {}
    for sample in samples:
        for m in sample.row["members"]:
            expected.setdefault(sample.row["shard"], []).append(
                (f"{sample.id}.{m['suffix']}", int(m["offset"]), int(m["size"]))
            )
    for path in sorted(folder.glob("*.tar")):
        if path.name not in expected:
            yield f"{path}: no sample of the index is in it; delete it, or {_REWRITE}"
    for name, members in sorted(expected.items()):
        path = folder / name
        if not path.is_file():
            yield f"{path}: the shard is missing; fetch it again, or {_REWRITE}"
            continue
        try:
            with tarfile.open(path, "r:") as tar:
                infos = tar.getmembers()
        except (tarfile.TarError, OSError) as error:
            yield f"{path}: cannot be read as a tar ({error}); fetch it again, or {_REWRITE}"
            continue
        found = [(i.name, i.offset_data, i.size) for i in infos]
        if found != sorted(members, key=lambda m: m[1]):
            yield f"{path}: its members are not those of the index, in that order; {_REWRITE}"
        plain = {(0, 0, 0, "", "", 0o644)}
        if {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} - plain:
            yield f"{path}: headers carry times or owners, so its bytes depend on them; {_REWRITE}"


def _parts(samples: list[Sample]) -> Iterator[str]:
    """Readers that choose shards choose a split: no shard may hold samples of two."""
    parts: dict[str, set[str]] = {}
    for sample in samples:
        parts.setdefault(sample.row["shard"], set()).add(sample.row["part"])
    for shard, found in sorted(parts.items()):
        if len(found) > 1:
            where = samples[0].folder / shard
            yield f"{where}: holds samples of {' and '.join(sorted(found))}; {_REWRITE}"


def _sample(sample: Sample, leaks: verify_leaks.Leaks, scratch: Path | None) -> Iterator[str]:
    where = f"{sample.folder / sample.row['shard']}: sample {sample.id}"
    data: dict[str, bytes] = {}
    for member in sample.row["members"]:
        suffix = member["suffix"]
        try:
            data[suffix] = sample.read(suffix)
        except ShardError as error:
            yield f"{error}; fetch it again, or {_REWRITE}"
            continue
        if hashlib.sha256(data[suffix]).hexdigest() != member["sha256"]:
            yield (
                f"{where}, member {suffix}: sha256 differs from the index; fetch the shard "
                f"again, or {_REWRITE}"
            )
    if "json" in data and "txt" in data:
        try:
            meta = SampleMeta.from_json(data["json"])
        except ValidationError as error:
            first = error.errors()[0]
            yield f"{where}: its JSON is not of {SCHEMA_VERSION}: {first['loc']}: {first['msg']}"
            return
        yield from _agrees(sample, meta, data, where)
        leaks.see(meta)
        pictures = list(verify_sample.references(meta, data))
        if scratch is not None and "mp4" in data:
            pictures += verify_sample.clip(meta, data["mp4"], scratch)
        yield from (f"{where}: {what}; {_REWRITE}" for what in pictures)


def _agrees(sample: Sample, meta: SampleMeta, data: dict[str, bytes], where: str) -> Iterator[str]:
    """The JSON says what the index and the caption say, in canonical form."""
    said = {
        "pair_type": meta.pair_type,
        "split": meta.split,
        "heldout": meta.heldout,
        "part": part_of(meta.split, meta.heldout),
        "scenario": meta.scenario,
        "video_id": meta.source.video_id,
        "long_video_id": meta.source.long_video_id,
        "clip_id": meta.source.clip_id,
        "caption": meta.caption,
        "frames": meta.video.frames,
        "fps": meta.video.fps,
        "height": meta.video.height,
        "width": meta.video.width,
        "identity_ids": [ref.identity_id for ref in meta.refs],
        "references": len(meta.refs),
    }
    wrong = sorted(key for key, value in said.items() if sample.row[key] != value)
    if wrong:
        yield f"{where}: JSON and index differ in {wrong}; {_REWRITE}"
    if data["txt"].decode(errors="replace") != meta.caption:
        yield f"{where}: the caption member differs from the JSON; {_REWRITE}"
    if data["json"] != meta.to_json(as_read=True):
        yield f"{where}: its JSON is not in canonical form; {_REWRITE}"
