"""A run folder's measure parts: what is committed, and the tables they add up to.

``measure/<stage>-<fingerprint>/<unit>.<n>.json`` is the commit of the n-th generation of a
unit. It names the parquet parts with their sha256 and row counts, and the ids it covers.
A unit is measured when every admitted id is covered; a loosened gate or a reopened
quarantine adds a generation with just the missing ids.

Parts are written before their commit, and the commit by rename, so that a crash at any
moment leaves either a whole generation or files that nothing refers to.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic, records
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.stage import Row

__all__ = ["Commit", "StageStore", "StoreError", "merge"]


@dataclass(frozen=True)
class Commit:
    """One generation of one unit."""

    unit: str
    key: str
    ids: tuple[str, ...]
    quarantined: frozenset[str]
    parts: dict[str, dict[str, Any]]  # table -> {file, sha256, rows}
    cpu_seconds: float
    wall_seconds: float
    setup_seconds: float  # CPU time of loading models before this unit, beside cpu_seconds


class StageStore:
    """Commits of one stage with one fingerprint."""

    def __init__(self, run: Path, stage: str, fingerprint: str) -> None:
        self.stage = stage
        self.folder = run / "measure" / f"{stage}-{fingerprint}"

    def commits(self, unit: str) -> list[Commit]:
        """The commits of one unit by generation."""
        return [self._load(path) for _, path in self._generations(unit)]

    def covered(self, unit: str, *, reopen_quarantine: bool = False) -> set[str]:
        """Ids of ``unit`` that need no work."""
        done: set[str] = set()
        for commit in self.commits(unit):
            done |= set(commit.ids)
            if reopen_quarantine:
                done -= commit.quarantined
        return done

    def commit(
        self,
        unit: str,
        key: str,
        ids: list[str],
        tables: dict[str, list[Row]],
        cpu_seconds: float,
        wall_seconds: float = 0.0,
        setup_seconds: float = 0.0,
    ) -> None:
        """Write the parts of one generation, then its commit file."""
        # The highest and not their number: a user may have deleted an older one.
        generation = max((n for n, _ in self._generations(unit)), default=-1) + 1
        parts = {}
        for name, rows in sorted(tables.items()):
            if not rows and name == "quarantine":
                continue
            sink = io.BytesIO()
            pq.write_table(records.table(name, rows), sink, compression="zstd")
            data = sink.getvalue()
            file = f"{unit}.{generation:03d}.{name}.parquet"
            atomic.write_bytes(self.folder / file, data)
            parts[name] = {
                "file": file,
                "sha256": hashlib.sha256(data).hexdigest(),
                "rows": len(rows),
            }
        quarantined = sorted({row["id"] for row in tables.get("quarantine", [])} & set(ids))
        atomic.write_json(
            self.folder / f"{unit}.{generation:03d}.json",
            {
                "unit": unit,
                "key": key,
                "ids": sorted(ids),
                "quarantined": quarantined,
                "parts": parts,
                "cpu_seconds": round(cpu_seconds, 3),
                "wall_seconds": round(wall_seconds, 3),
                "setup_seconds": round(setup_seconds, 3),
            },
        )

    def rows(self, unit: str, only: Collection[str] | None = None) -> dict[str, list[Row]]:
        """Rows of one unit by table, newest generation of every id; of the named tables only."""
        tables = self._read(self.commits(unit), only)
        return {name: table.to_pylist() for name, table in tables.items()}

    def tables(self, units: Iterable[str]) -> dict[str, pa.Table]:
        """Rows of the given units by table, in unit order, newest generation of every id."""
        return merge(self._read(self.commits(unit)) for unit in sorted(units))

    def all_commits(self) -> list[Commit]:
        """Every commit of the stage, of whatever unit, in order of their files."""
        return [self._load(path) for path in sorted(self.folder.glob("*.json"))]

    def _generations(self, unit: str) -> list[tuple[int, Path]]:
        found = self.folder.glob(f"{unit}.[0-9]*.json")
        numbers = [(int(path.name.removeprefix(f"{unit}.").split(".")[0]), path) for path in found]
        return sorted(numbers)

    def _load(self, path: Path) -> Commit:
        try:
            data = json.loads(path.read_text())
            return Commit(
                unit=data["unit"],
                key=data["key"],
                ids=tuple(data["ids"]),
                quarantined=frozenset(data["quarantined"]),
                parts=data["parts"],
                cpu_seconds=data["cpu_seconds"],
                wall_seconds=data.get("wall_seconds", 0.0),  # older commits do not say
                setup_seconds=data.get("setup_seconds", 0.0),
            )
        except (ValueError, KeyError) as error:
            raise StoreError(
                f"{path}: not a commit ({error}); delete it to measure it again"
            ) from None

    def _read(
        self, commits: list[Commit], only: Collection[str] | None = None
    ) -> dict[str, pa.Table]:
        found: dict[str, list[pa.Table]] = {}
        newest: dict[tuple[str, str], int] = {}
        for n, commit in enumerate(commits):
            for row_id in commit.ids:
                newest[commit.unit, row_id] = n
        for n, commit in enumerate(commits):
            stale = {i for i in commit.ids if newest[commit.unit, i] != n}
            for name, part in commit.parts.items():
                if only is not None and name not in only:
                    continue
                table = _conform(name, self._part(part))
                if stale:
                    column = "id" if name == "quarantine" else commit.key
                    keep = [value not in stale for value in table[column].to_pylist()]
                    table = table.filter(pa.array(keep))
                found.setdefault(name, []).append(table)
        return {name: pa.concat_tables(tables) for name, tables in sorted(found.items())}

    def _part(self, part: dict[str, Any]) -> pa.Table:
        path = self.folder / part["file"]
        advice = "delete the unit's commit file beside it to measure it again"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{path}: committed part is missing; {advice}") from None
        if hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise StoreError(f"{path}: committed part was changed (sha256); {advice}")
        return pq.read_table(io.BytesIO(data))


def _conform(name: str, table: pa.Table) -> pa.Table:
    """Give a part the columns that the contract has got since: null, as nobody measured them."""
    schema = records.TABLES[name]
    if table.schema.equals(schema):
        return table
    missing = [field for field in schema if field.name not in table.schema.names]
    for field in missing:
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def merge(parts: Iterable[dict[str, pa.Table]]) -> dict[str, pa.Table]:
    """Concatenate tables of several stages (only ``quarantine`` and ``spans`` repeat)."""
    merged: dict[str, list[pa.Table]] = {}
    for tables in parts:
        for name, table in tables.items():
            merged.setdefault(name, []).append(table)
    return {name: pa.concat_tables(tables) for name, tables in merged.items()}
