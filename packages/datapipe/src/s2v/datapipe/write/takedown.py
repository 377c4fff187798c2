"""Taking sources, clips, subjects or samples out of a finished run, for good.

The list is kept in the run folder, so that no later write brings back what was taken down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.pair.exclusions import Exclusion, read_exclusions

FILE: Final = "exclusions.jsonl"


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
    known = of_run(run)
    new = [one for path in lists for one in read_exclusions(path)]
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


def forget_clips(run: Path, kept: Iterable[str]) -> int:
    """Remove cut clips that no sample is made of; say how many.

    Sampled frames stay, as those of several sources share a file; the folder of a run is to be
    deleted as a whole when nothing of a source may remain in it.
    """
    names = {f"{clip}.mp4" for clip in kept}
    gone = [path for path in (run / "clips").glob("*/*.mp4") if path.name not in names]
    for path in gone:
        path.unlink()
    return len(gone)
