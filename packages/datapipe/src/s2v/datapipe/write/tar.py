"""Deterministic tar files: same members, same bytes; the offset of every member is known."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import shards
from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.base.index_rows import GROUP_ROWS

MAX_NAME = 100  # bytes: longer names need a PAX header, which some readers skip


def write_tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> list[dict[str, Any]]:
    """Write WebDataset samples to one tar, atomically.

    Args:
        path: the shard.
        samples: ``(key, {suffix: data})`` in the order to be written; the members of a
            sample are written contiguously in the order of the mapping.

    Returns:
        Per sample ``{"sample_id", "members": [{"suffix", "offset", "size", "sha256"}]}``.

    Raises:
        ValueError: a key with a dot, space or ``#``, a name over 100 bytes, or a key twice.
    """
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    with (
        replacing(path, sync_folder=False) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, members in samples:
            if key in seen or any(c in key for c in ". #/"):
                raise ValueError(f"{path}: key {key!r} is there twice or has one of '. #/'")
            seen.add(key)
            rows.append({"sample_id": key, "members": _write_sample(tar, key, members)})
    return rows


def _write_sample(
    tar: tarfile.TarFile, key: str, members: dict[str, bytes]
) -> list[dict[str, Any]]:
    written = []
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        if len(info.name.encode()) > MAX_NAME:
            raise ValueError(f"member name {info.name!r} is over {MAX_NAME} bytes")
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        offset = tar.offset + tarfile.BLOCKSIZE
        tar.addfile(info, io.BytesIO(data))
        written.append(
            {
                "suffix": suffix,
                "offset": offset,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    return written


def index_row(shard: str, written: dict[str, Any], meta: shards.SampleMeta) -> dict[str, Any]:
    """One row of ``index/samples.parquet`` from what :func:`write_tar` returned."""
    return {
        "sample_id": written["sample_id"],
        "shard": shard,
        "pair_type": meta.pair_type,
        "split": meta.split,
        "heldout": meta.heldout,
        "part": shards.part_of(meta.split, meta.heldout),
        "scenario": meta.scenario,
        "video_id": meta.source.video_id,
        "long_video_id": meta.source.long_video_id,
        "clip_id": meta.source.clip_id,
        "identity_ids": [ref.identity_id for ref in meta.refs],
        "caption": meta.caption,
        "frames": meta.video.frames,
        "fps": meta.video.fps,
        "height": meta.video.height,
        "width": meta.video.width,
        "references": len(meta.refs),
        "members": written["members"],
    }


def sample_bytes(row: dict[str, Any]) -> int:
    """What the members of an index row take in a tar, headers and padding included."""
    block = tarfile.BLOCKSIZE
    return sum(block + -(-int(m["size"]) // block) * block for m in row["members"])


def write_index(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write ``index/samples.parquet`` atomically; rows in the order given."""
    path = folder / shards.INDEX_FILE
    with replacing(path) as temporary:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=shards.INDEX),
            temporary,
            compression="zstd",
            row_group_size=GROUP_ROWS,  # a reader of one row decodes its group
        )
    return path
