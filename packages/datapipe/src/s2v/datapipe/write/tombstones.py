"""What is left of a source that was taken down: its ids, and hashes to know its copies by.

``tombstones.json`` of the run is written before anything is erased and says when all is done, so
that a takedown that was killed is finished by the next start. No picture, text or address of the
source is in it. A listing that still names the source, or another file of the same bytes, is
passed over by every later run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base import atomic
from s2v.datapipe.base.exclusions import Exclusion, ExclusionIndex
from s2v.datapipe.pair.near import near_pairs
from s2v.datapipe.pair.rows import Row, read
from s2v.datapipe.pair.settings import PairRules
from s2v.datapipe.sources.listing import bytes_key
from s2v.datapipe.write.errors import WriteError

FILE: Final = "tombstones.json"
SCHEMA: Final = "s2v-tombstones-1"
COPY: Final = "copy of a clip taken down"
#: Key types of lines that take a source down whole.
WHOLE: Final = ("video_id", "long_video_id", "sha256")


class GoneClip(BaseModel):
    """A clip of an erased source: what copies of it are known by.

    Attributes:
        kind: video or image.
        frames: per sampled frame its perceptual hash, that of its mirror image, and how much
            detail it had (as table ``frames`` has them).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    frames: tuple[tuple[str, str | None, float | None], ...] = ()


class GoneSource(BaseModel):
    """An erased source.

    Attributes:
        content: key of its bytes, by which the same file under another name is known.
        clips: its clips by id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str | None = None
    clips: dict[str, GoneClip] = {}


class Tombstones(BaseModel):
    """All erased sources of a run, by ``video_id``; ``erased`` once nothing of them is left."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_: Literal["s2v-tombstones-1"] = Field(default=SCHEMA, alias="schema")
    erased: bool = True
    sources: dict[str, GoneSource] = {}

    @property
    def clips(self) -> dict[str, GoneClip]:
        """All their clips by id."""
        return {k: clip for source in self.sources.values() for k, clip in source.clips.items()}


def read_tombstones(run: Path) -> Tombstones:
    """What was erased from a run; nothing where there is no record.

    Raises:
        WriteError: the record cannot be read; without it erased sources could come back.
    """
    path = run / FILE
    try:
        return Tombstones.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Tombstones()
    except ValueError as error:
        first = " ".join(str(error).split())
        raise WriteError(
            f"{path}: is not a record of takedowns ({first}); restore it from a backup, or delete "
            "it and give `s2v-data takedown` the run's exclusions.jsonl again"
        ) from None


def write_tombstones(run: Path, tombstones: Tombstones) -> None:
    """Record them, whole or not at all."""
    atomic.write_json(run / FILE, json.loads(tombstones.model_dump_json(by_alias=True)))


def gone_sources(
    rows: Iterable[Row], exclusions: Iterable[Exclusion], known: Tombstones
) -> set[str]:
    """Sources that were taken down whole, with every other file of the same bytes.

    Args:
        rows: of table ``sources``.
        exclusions: the run's own takedown list.
        known: what was erased before.

    Returns:
        Their ``video_id``s, also those that no row has any more.
    """
    listed = {row["video_id"]: row for row in rows}
    excluded = ExclusionIndex(exclusions)
    gone = {*known.sources, *excluded.of("video_id")}
    gone |= {v for v, row in listed.items() if excluded.reason(row, *WHOLE)}
    contents = {one.content for one in known.sources.values()}
    contents |= {bytes_key(listed[video]) for video in gone & listed.keys()}
    contents.discard(None)
    return gone | {v for v, row in listed.items() if bytes_key(row) in contents}


def bury(
    known: Tombstones,
    gone: Iterable[str],
    sources: Iterable[Row],
    clips: Iterable[Row],
    frames: Iterable[Row],
) -> Tombstones:
    """Tombstones of ``gone``, those that are known already among them.

    Args:
        known: as recorded.
        gone: ``video_id``s.
        sources: rows of table ``sources``.
        clips, frames: all rows that were ever measured of them.
    """
    content = {row["video_id"]: bytes_key(row) for row in sources}
    hashes: dict[str, set[tuple[str, str | None, float | None]]] = {}
    for row in frames:
        if row["phash"] is not None:
            one = (row["phash"], row["phash_mirror"], row["blur"])
            hashes.setdefault(row["clip_id"], set()).add(one)
    kinds: dict[str, dict[str, str]] = {}
    for row in clips:
        kinds.setdefault(row["video_id"], {})[row["clip_id"]] = row["kind"]
    stones = dict(known.sources)
    for video in gone:
        before = stones.get(video, GoneSource())
        all_clips = dict(before.clips)
        for clip, kind in kinds.get(video, {}).items():
            # Killed half-way, some frames may be erased, whose hashes are known from before.
            seen = hashes.get(clip, set()).union(
                all_clips[clip].frames if clip in all_clips else ()
            )
            all_clips[clip] = GoneClip(kind=kind, frames=tuple(sorted(seen, key=str)))
        key = content.get(video) or before.content
        stones[video] = GoneSource(content=key, clips=dict(sorted(all_clips.items())))
    return Tombstones(erased=False, sources=dict(sorted(stones.items())))


def copies(
    tables: Mapping[str, pa.Table], gone: Mapping[str, GoneClip], rules: PairRules
) -> list[str]:
    """Clips that show what a clip taken down shows, by the rules that duplicates are found by.

    Args:
        tables: ``clips`` and ``frames`` of the run.
        gone: clips taken down, by id; those still in ``tables`` are no copies of themselves.
        rules: bits, frames and least detail, as for :func:`s2v.datapipe.pair.copies.duplicates`.

    Returns:
        Ids, sorted. Clips of the file that a taken-down clip is of are not judged.
    """
    kinds = {row["clip_id"]: row["kind"] for row in read(tables, "clips")}
    there = [
        (row["clip_id"], row["phash"], row["phash_mirror"])
        for row in read(tables, "frames")
        if row["phash"] is not None and not _flat(row["blur"], rules)
    ]
    lost = [
        (clip, phash, mirror)
        for clip, one in sorted(gone.items())
        for phash, mirror, blur in one.frames
        if not _flat(blur, rules)
    ]
    if not there or not lost:
        return []
    ours, mirrored = (_hashes([row[1] for row in side]) for side in (there, lost))
    turned = _hashes([row[2] or row[1] for row in lost])
    frames_of: dict[tuple[str, str, bool], tuple[set[int], set[int]]] = {}
    for flipped, theirs in ((False, mirrored), (True, turned)):
        for i, j in zip(*near_pairs(ours, theirs, rules.frame_bits), strict=True):
            key = (there[int(i)][0], lost[int(j)][0], flipped)
            mine, his = frames_of.setdefault(key, (set(), set()))
            mine.add(int(i))
            his.add(int(j))
    found = set()
    for (clip, other, _), (mine, his) in frames_of.items():
        kind = kinds.get(clip)
        needed = 1 if kind == "image" else rules.duplicate_frames
        apart = clip.rsplit("-", 2)[0] != other.rsplit("-", 2)[0]
        if apart and kind == gone[other].kind and min(len(mine), len(his)) >= needed:
            found.add(clip)
    return sorted(found - gone.keys())


def _flat(blur: float | None, rules: PairRules) -> bool:
    """Fades and title cards: their hashes say nothing."""
    return blur is not None and blur < rules.min_frame_detail


def _hashes(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array([int(one, 16) for one in values], np.uint64)
