"""Taking sources, clips, subjects or samples out of a finished run, for good.

The list is kept in the run folder, so that no later write brings back what was taken down.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.base.exclusions import Exclusion, read_exclusions
from s2v.datapipe.pair.rows import Row, read
from s2v.datapipe.pair.settings import PairRules
from s2v.datapipe.write.erase import Erased, erase, measured_rows
from s2v.datapipe.write.tombstones import (
    COPY,
    WHOLE,
    GoneClip,
    Tombstones,
    bury,
    copies,
    gone_sources,
    read_tombstones,
    write_tombstones,
)

FILE: Final = "exclusions.jsonl"
#: What a run writes itself; anything else in its folder is made from it and may show its pictures.
_OF_RUN: Final = frozenset(
    {"clips", "frames", "measure", "run.json", "select", "shards", "sources", "stills", "tables"}
    | {"exclusions.jsonl", "tombstones.json", "quarantine.jsonl"}
)


def of_run(run: Path) -> tuple[Exclusion, ...]:
    """What was taken down from a run so far.

    Raises:
        ExclusionError: the list cannot be read; nothing is written then.
    """
    path = run / FILE
    return read_exclusions(path) if path.exists() else ()


def take_down(run: Path, lists: Iterable[Path]) -> tuple[Exclusion, ...]:
    """Add lists to what is taken down from a run; the next write honours it.

    Args:
        run: the run folder.
        lists: JSONL files of ``{key_type, key, reason, by, when}``.

    Returns:
        The lines that are new.

    Raises:
        ExclusionError: a line cannot be read; the run's list is left as it was.
    """
    new = [one for path in lists for one in read_exclusions(path)]
    with (run / ".takedown.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)  # lists of two people at once must not lose a line
        known = of_run(run)
        new = [one for one in dict.fromkeys(new) if one not in known]
        if new:
            lines = [json.dumps(one.model_dump(), ensure_ascii=False) for one in (*known, *new)]
            atomic.write_bytes(run / FILE, "".join(f"{line}\n" for line in lines).encode())
    return tuple(new)


def unmatched(run: Path, exclusions: Iterable[Exclusion]) -> list[str]:
    """Keys that no row of the run has: perhaps misspelt, and certainly without effect."""
    tables: dict[str, pa.Table] = {}
    for name in ("sources", "clips", "subjects", "samples"):
        path = run / "tables" / f"{name}.parquet"
        if path.exists():
            tables[name] = pq.read_table(path, partitioning=None)
    known = {
        (column, key)
        for table in tables.values()
        for column in table.schema.names
        if column in {one.key_type for one in exclusions}
        for key in table[column].unique().to_pylist()
    }
    return [
        f"{one.key_type} {one.key}" for one in exclusions if (one.key_type, one.key) not in known
    ]


def settle(run: Path, sources: Sequence[Row], made_of: Callable[[Row], str]) -> Tombstones:
    """Erase every source that the run's takedown list names whole, unless that is done.

    Args:
        run: the run folder, whose lock is held.
        sources: rows of table ``sources`` as they are listed now.
        made_of: row of table ``sources`` -> what units of its clips are named by.

    Returns:
        All sources erased so far; no listing brings them back.

    Raises:
        WriteError, ExclusionError: a record cannot be read.
        StoreError: a commit cannot be read.
    """
    known, told = read_tombstones(run), of_run(run)
    if not known.sources and not any(one.key_type in WHOLE for one in told):
        return known
    path = run / "tables" / "sources.parquet"
    before = pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []
    rows = {row["video_id"]: row for row in (*before, *sources)}
    gone = gone_sources(rows.values(), told, known)
    if known.erased and gone <= known.sources.keys():
        return known
    clips = list(measured_rows(run, "clips", "video_id", gone))
    named = {row["clip_id"] for row in clips} | known.clips.keys()
    frames = measured_rows(run, "frames", "clip_id", named)
    content = {video: made_of(row) for video, row in rows.items()}
    stones = bury(known, gone, rows.values(), clips, frames)
    write_tombstones(run, stones)
    erase(run, Erased(frozenset(stones.sources), frozenset(stones.clips)), content)
    stones = stones.model_copy(update={"erased": True})
    write_tombstones(run, stones)
    return stones


def copies_of_gone(
    run: Path, tables: Mapping[str, pa.Table], rules: PairRules
) -> tuple[Exclusion, ...]:
    """Lines for the clips that show what a source or clip taken down shows.

    Args:
        run: the run folder.
        tables: its measure tables.
        rules: by which duplicates are found.
    """
    gone = dict(read_tombstones(run).clips)
    named = {one.key for one in of_run(run) if one.key_type == "clip_id"}
    if named:
        frames: dict[str, list[tuple[str, str | None, float | None]]] = {}
        for row in read(tables, "frames"):
            if row["clip_id"] in named and row["phash"] is not None:
                one = (row["phash"], row["phash_mirror"], row["blur"])
                frames.setdefault(row["clip_id"], []).append(one)
        for row in read(tables, "clips"):
            if row["clip_id"] in named:
                found = tuple(frames.get(row["clip_id"], ()))
                gone[row["clip_id"]] = GoneClip(kind=row["kind"], frames=found)
    if not gone:
        return ()
    return tuple(
        Exclusion(key_type="clip_id", key=clip, reason=COPY, by="s2v-data", when="")
        for clip in copies(tables, gone, rules)
    )


def made_from(run: Path) -> list[str]:
    """What else lies in a run's folder: reports, contact sheets, models made before a takedown."""
    names = (path.name for path in run.iterdir() if not path.name.startswith("."))
    return sorted(name for name in names if name not in _OF_RUN)


def forget_clips(run: Path, kept: Iterable[str]) -> int:
    """Remove cut clips that no sample is made of; say how many."""
    names = {f"{clip}.mp4" for clip in kept}
    gone = [path for path in (run / "clips").glob("*/*.mp4") if path.name not in names]
    for path in gone:
        path.unlink()
    return len(gone)
