"""A run folder's measure parts: what is committed, and the tables they add up to.

``measure/<stage>-<fingerprint>/<unit>.<n>.json`` is the commit of the n-th generation of a
unit. It names the parquet parts with their sha256 and row counts, and the ids it covers.
A unit is measured when every admitted id is covered; a loosened gate or a reopened
quarantine adds a generation with just the missing ids.

Parts are written before their commit, and the commit by rename, so that a crash at any
moment leaves either a whole generation or files that nothing refers to. A part's name carries
its digest, so that two writers of one generation (a machine that was given up too early) never
overwrite each other's: the last commit refers to its own parts.

A folder holds as many commits as there are units. It is listed once and not once per unit: the
driver lists it (:meth:`StageStore.listed`), and an actor is told what the driver saw and looks
for newer generations by name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic, records
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.stage import Row

__all__ = ["Commit", "Listing", "StageStore", "StoreError", "covered", "merge"]


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


#: Unit -> its generations, ascending.
Listing = dict[str, list[int]]


class StageStore:
    """Commits of one stage with one fingerprint.

    Args:
        run: the run folder.
        stage, fingerprint: whose commits.
        seen: generations that were there when the folder was listed; newer ones are found by
            name. ``None`` lists the folder each time.
        closed: nothing was written since ``seen`` was listed, so nothing newer is looked for.
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        fingerprint: str,
        *,
        seen: Listing | None = None,
        closed: bool = False,
    ) -> None:
        self.stage = stage
        self.folder = run / "measure" / f"{stage}-{fingerprint}"
        self._seen, self._closed = seen, closed

    @classmethod
    def listed(cls, run: Path, stage: str, fingerprint: str) -> StageStore:
        """With its folder listed now, for readers while nobody writes."""
        store = cls(run, stage, fingerprint)
        return cls(run, stage, fingerprint, seen=store.listing(), closed=True)

    def listing(self) -> Listing:
        """Every unit with its generations, by one look at the folder."""
        found: Listing = {}
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return found
        for name in names:
            unit, dot, generation = name.removesuffix(".json").rpartition(".")
            if dot and name.endswith(".json") and generation.isdecimal():
                found.setdefault(unit, []).append(int(generation))
        return {unit: sorted(found[unit]) for unit in sorted(found)}

    def commits(self, unit: str) -> list[Commit]:
        """The commits of one unit by generation."""
        found = (self._load(self._path(unit, n)) for n in self.generations(unit))
        return [commit for commit in found if commit is not None]

    def committed(self, unit: str) -> bool:
        """Whether there is any commit of the unit; one without ids counts."""
        return bool(self.generations(unit))

    def covered(self, unit: str, *, reopen_quarantine: bool = False) -> set[str]:
        """Ids of ``unit`` that need no work."""
        return covered(self.commits(unit), reopen_quarantine=reopen_quarantine)

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
        generation = max(self.generations(unit), default=-1) + 1
        parts = {}
        for name, rows in sorted(tables.items()):
            if not rows and name == "quarantine":
                continue
            sink = io.BytesIO()
            pq.write_table(records.table(name, rows), sink, compression="zstd")
            data = sink.getvalue()
            digest = hashlib.sha256(data).hexdigest()
            file = f"{unit}.{generation:03d}.{name}.{digest[:8]}.parquet"
            atomic.write_bytes(self.folder / file, data, sync_folder=False)
            parts[name] = {"file": file, "sha256": digest, "rows": len(rows)}
        quarantined = sorted({row["id"] for row in tables.get("quarantine", [])} & set(ids))
        said = {
            "unit": unit,
            "key": key,
            "ids": sorted(ids),
            "quarantined": quarantined,
            "parts": parts,
            "cpu_seconds": round(cpu_seconds, 3),
            "wall_seconds": round(wall_seconds, 3),
            "setup_seconds": round(setup_seconds, 3),
        }
        # On one line: with an indent Python does without its fast encoder.
        text = json.dumps(said, sort_keys=True, ensure_ascii=False) + "\n"
        atomic.write_bytes(self._path(unit, generation), text.encode())

    def rows(self, unit: str, only: Collection[str] | None = None) -> dict[str, list[Row]]:
        """Rows of one unit by table, newest generation of every id; of the named tables only."""
        tables = self._read(self.commits(unit), only)
        return {name: table.to_pylist() for name, table in tables.items()}

    def tables(self, units: Iterable[str]) -> dict[str, pa.Table]:
        """Rows of the given units by table, in unit order, newest generation of every id."""
        return self.tables_and_ids(units)[0]

    def tables_and_ids(
        self, units: Iterable[str], without: Collection[str] = ()
    ) -> tuple[dict[str, pa.Table], set[str]]:
        """The same, and all ids that were measured, those in quarantine among them.

        Args:
            units: whose rows.
            without: tables to leave where they are; see :meth:`parts`.
        """
        ids: set[str] = set()
        parts = []
        for unit in sorted(units):
            commits = self.commits(unit)
            ids.update(*(commit.ids for commit in commits))
            parts.append(self._read(commits, without=without))
        return merge(parts), ids

    def parts(self, units: Iterable[str], name: str) -> Iterator[pa.Table]:
        """One table, a unit at a time, in unit order, newest generation of every id."""
        for unit in sorted(units):
            found = self._read(self.commits(unit), only={name})
            if name in found:
                yield found[name]

    def digest(self, units: Iterable[str]) -> str:
        """16 hex digits over what the given units' commits say and refer to."""
        digest = hashlib.sha256(self.folder.name.encode())
        for unit in sorted(units):
            for commit in self.commits(unit):
                parts = sorted((name, part["sha256"]) for name, part in commit.parts.items())
                digest.update(json.dumps([unit, commit.key, commit.ids, parts]).encode())
        return digest.hexdigest()[:16]

    def all_commits(self) -> Iterator[Commit]:
        """Every commit of the stage, of whatever unit, in order of unit and generation."""
        for unit in self._seen if self._seen is not None else self.listing():
            yield from self.commits(unit)

    def _path(self, unit: str, generation: int) -> Path:
        return self.folder / f"{unit}.{generation:03d}.json"

    def generations(self, unit: str) -> list[int]:
        """Numbers of the unit's commits, ascending."""
        if self._seen is None:
            return self.listing().get(unit, [])
        found = list(self._seen.get(unit, ()))
        if not self._closed:
            n = found[-1] + 1 if found else 0
            while self._path(unit, n).exists():
                found.append(n)
                n += 1
        return found

    def _load(self, path: Path) -> Commit | None:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
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
        except FileNotFoundError:  # deleted since the folder was listed: to be measured again
            return None
        except (ValueError, KeyError) as error:
            raise StoreError(
                f"{path}: not a commit ({error}); delete it to measure it again"
            ) from None

    def _read(
        self,
        commits: list[Commit],
        only: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> dict[str, pa.Table]:
        found: dict[str, list[pa.Table]] = {}
        newest: dict[tuple[str, str], int] = {}
        for n, commit in enumerate(commits):
            for row_id in commit.ids:
                newest[commit.unit, row_id] = n
        for n, commit in enumerate(commits):
            stale = {i for i in commit.ids if newest[commit.unit, i] != n}
            for name, part in commit.parts.items():
                if (only is not None and name not in only) or name in without:
                    continue
                table = _conform(name, self._part(part))
                if stale:
                    column = "id" if name == "quarantine" else commit.key
                    keep = [value not in stale for value in table[column].to_pylist()]
                    table = table.filter(pa.array(keep, pa.bool_()))
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
        # A quarter of what pq.read_table takes: it starts threads, and parts are small.
        return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def covered(commits: Iterable[Commit], *, reopen_quarantine: bool = False) -> set[str]:
    """Ids that need no work, by a unit's commits in order."""
    done: set[str] = set()
    for commit in commits:
        done |= set(commit.ids)
        if reopen_quarantine:
            done -= commit.quarantined
    return done


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
