"""Shards of video2dataset as sources: ``00000.tar`` with ``00000.parquet`` beside it.

A tar holds ``<key>.mp4``, ``<key>.txt`` (the caption) and ``<key>.json``; the Parquet has a row per
key, also of those that failed: ``key, status, error_message, url, caption, clips, ...``. Clips of
one video have keys ``<key>_<n>``. Videos stay in their tars, which our stages read members of.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.ids import VIDEO_ID, stable_hash
from s2v.datapipe.interop import tables
from s2v.datapipe.interop.bounded import Fields
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.manifests import Foreign, files
from s2v.datapipe.sources.address import check_url
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.spec import VIDEO_SUFFIXES

_MAX_TEXT: Final = 1 << 20
_MAX_META: Final = 16 << 20
_MAX_MEMBERS: Final = 1_000_000


@dataclass
class _Sample:
    """Members of one key."""

    video: str | None = None
    caption: str | None = None
    meta: Any = None
    wrong: str | None = None
    extra: list[str] = field(default_factory=list)


class Video2Dataset:
    """A folder of shards."""

    def __init__(self, folder: Path) -> None:
        """List the shards.

        Raises:
            InteropError: there are none.
        """
        self.folder = folder
        self.shards = list(files(folder, "*.tar")) if folder.is_dir() else []
        if not self.shards:
            raise InteropError(
                f"{folder}: holds no .tar; give the output_folder of video2dataset in its "
                "webdataset format"
            )

    def sources(self, ledger: Ledger) -> Iterator[Foreign]:
        """A source per video in the tars; failed rows are in the ledger with their reason."""
        for shard in self.shards:
            name = shard.relative_to(self.folder).as_posix()
            try:
                samples = _members(shard)
            except InteropError as error:
                ledger.found("row")
                ledger.leave("row", name, name, RowError("unreadable row", str(error)))
                continue
            for key, row in self._failed(shard, samples):
                ledger.found("row")
                message = f"{row.get('status')}: {row.get('error_message')}"
                ledger.leave("row", key, name, RowError("not downloaded", message[:400]))
            for key, sample in samples.items():
                ledger.found("row")
                try:
                    yield self._source(shard, name, key, sample)
                except RowError as error:
                    ledger.leave("row", key, f"{name}, sample {key}", error)

    def _failed(
        self, shard: Path, samples: dict[str, _Sample]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows of the Parquet beside the tar that have no video in it.

        A failed row may have text members in the tar; it is told of once, with its message.
        """
        path = shard.with_suffix(".parquet")
        if not path.is_file():
            return
        there = tables.columns_of(path)
        columns = [c for c in ("key", "status", "error_message") if c in there]
        for _, row in tables.rows(path, ["key", *columns[1:]] if "key" in columns else ["key"]):
            key = str(row["key"])
            sample = samples.get(key)
            if sample is None or sample.video is None:
                samples.pop(key, None)
                yield key, row

    def _source(self, shard: Path, name: str, key: str, sample: _Sample) -> Foreign:
        if sample.wrong:
            raise RowError("unreadable row", sample.wrong)
        if sample.video is None:
            raise RowError("not downloaded", f"no video beside {sample.extra}")
        meta = Fields(sample.meta if sample.meta is not None else {}, "json")
        status = meta.raw("status") if "status" in meta else "success"
        if status != "success":
            raise RowError("not downloaded", f"status {str(status)[:100]!r}")
        url = _url(meta)
        begin, end = _span(meta)
        caption = sample.caption or (meta.text("caption") if "caption" in meta else None)
        # Keys are unique among the shards of one download; two downloads may share them.
        clean = VIDEO_ID.fullmatch(key) is not None
        video_id = key if clean else f"v{stable_hash([name, key], 16)}"
        source = str(meta.raw("url"))[:4000] if "url" in meta else None
        long_id = f"l{stable_hash([source], 16)}" if source else f"{video_id.split('_')[0]}"
        facts = {
            "kind": "video",
            "video_id": video_id,
            "long_video_id": long_id,
            "url": url,
            "given_caption": caption.strip()[:20_000] if caption and caption.strip() else None,
            "offset_us": round(begin * 1e6) if begin is not None and end is not None else None,
        }
        return Foreign(key, f"{name}, sample {key}", shard, sample.video, facts)


def _members(path: Path) -> dict[str, _Sample]:
    """Samples of a tar by key; only texts are read.

    Raises:
        InteropError: no tar, damaged, or with too many members.
    """
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for count, member in enumerate(tar):
                if count >= _MAX_MEMBERS:
                    raise InteropError(f"{path}: over {_MAX_MEMBERS} members")
                if member.isfile():
                    _member(tar, member, samples)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InteropError(f"{path}: cannot be read as a tar ({error}); fetch it again") from None
    return samples


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, _Sample]) -> None:
    folder, _, name = member.name.rpartition("/")
    key, dot, suffix = name.partition(".")
    if not key or not dot:
        return
    sample = samples.setdefault(f"{folder}/{key}" if folder else key, _Sample())
    sample.extra.append(suffix)
    if f".{suffix.lower()}" in VIDEO_SUFFIXES:
        if sample.video is not None:
            sample.wrong = f"has two videos, {sample.video!r} and {member.name!r}"
        elif "#" in member.name or ".." in member.name.split("/"):
            sample.wrong = f"{member.name!r} cannot be addressed in its tar"
        sample.video = member.name
    elif suffix in ("txt", "json"):
        limit = _MAX_TEXT if suffix == "txt" else _MAX_META
        handle = tar.extractfile(member)
        if member.size > limit or handle is None:
            sample.wrong = f"{member.name!r} has {member.size} bytes, over {limit}"
            return
        try:
            text = handle.read().decode("utf-8")
            if suffix == "txt":
                sample.caption = text
            else:
                sample.meta = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            sample.wrong = f"{member.name!r}: {str(error)[:200]}"


def _url(meta: Fields) -> str | None:
    value = meta.raw("url") if "url" in meta else None
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        return None
    try:
        check_url(value)
    except SourceError:
        return None
    return value


def _span(meta: Fields) -> tuple[float | None, float | None]:
    """``clips`` of a cut clip: its one span in the long video, in seconds or as ``h:mm:ss``."""
    if "clips" not in meta:
        return None, None
    clips = meta.raw("clips")
    if not isinstance(clips, list) or len(clips) != 1 or not isinstance(clips[0], list | tuple):
        return None, None
    try:
        begin, end = (_seconds(value) for value in clips[0])
    except (ValueError, TypeError):
        raise RowError("unreadable row", f"clips is {repr(clips)[:100]}") from None
    if not 0 <= begin < end < 1e9:
        raise RowError("unreadable row", f"clips is {repr(clips)[:100]}")
    return begin, end


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        total = 0.0
        for part in value.split(":"):
            total = total * 60 + float(part)
        return total
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)
