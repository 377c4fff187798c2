"""The folder ``tables`` of a run: every table as one file, and what each was made of.

A view is a pure function of the committed rows, the manifest, the settings and the code. What did
not change is not written again, and is not put together again either: while commits, manifest,
settings and code are those of the last time, the views of the measure tables *are* the measure
tables, read a column at a time (:class:`s2v.datapipe.base.stored.StoredTable`). So selecting again
opens no commit and reads no vector.

``select/views.json`` says what the files were made of. It may be deleted: all is made again then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.base.stored import StoredTable, StoredTableError, write_table
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.stepstore import code_digest, digest_of

FOLDER: Final = "tables"
STATE: Final = "select/views.json"
#: Tables to which other steps than measuring add rows; their measured part is kept apart.
_GROWING: Final = ("quarantine", "verdicts")
_MEASURED: Final = "select/measured-{}.parquet"
#: Sections of the configuration that measuring does not read.
_LATER: Final = frozenset({"folder", "select", "exclusions", "write"})


@dataclass(frozen=True)
class Standing:
    """The measure tables as they lie on disk.

    Attributes:
        tables: by name.
        digest: of everything they are made of.
        sound: nothing in them contradicts anything, as was found when they were made.
    """

    tables: dict[str, Any]
    digest: str
    sound: bool


def stamp(
    folder: Path, settings: Mapping[str, Any], plan: Mapping[str, StageRun], sources: list[Row]
) -> str:
    """Digest of what the measure tables are made of, without opening a commit.

    A commit is never written again under its name, so its name, size and time stand for it.

    Args:
        folder: the run folder.
        settings: the configuration as plain data.
        plan: stage -> run, with its fingerprint.
        sources: rows of table ``sources``.
    """
    read = {name: value for name, value in settings.items() if name not in _LATER}
    text = json.dumps([code_digest(), read, sources], sort_keys=True, default=str)
    found = hashlib.sha256(text.encode())
    for name in sorted(plan):
        stage = f"{name}-{plan[name].fingerprint}"
        found.update(f"{stage}\n".encode())
        if name != "verify":  # it works on pairs, and is read by itself
            for line in _commits(folder / "measure" / stage):
                found.update(line.encode())
    return found.hexdigest()


def _commits(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, one.stat()) for one in entries if one.name.endswith(".json")]
    except FileNotFoundError:
        return []
    return sorted(f"{name} {about.st_size} {about.st_mtime_ns}\n" for name, about in found)


def standing(folder: Path, stamped: str) -> Standing | None:
    """The measure tables that :func:`write_views` left, if they were made of the same.

    Args:
        folder: the run folder.
        stamped: what :func:`stamp` says now.
    """
    state = _state(folder)
    if state.get("stamp") != stamped:
        return None
    try:
        digest, sound, names = state["digest"], state["sound"], state["measured"]
        tables: dict[str, Any] = {}
        for name in names:
            if name in _GROWING:
                path = folder / _MEASURED.format(name)
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    tables[name] = file.read().replace_schema_metadata(None)
                if digest_of(tables[name]) != state["growing"][name]:
                    return None
            else:
                path = folder / FOLDER / f"{name}.parquet"
                if state["files"].get(name, {}).get("file") != _file(path):
                    return None
                tables[name] = StoredTable(path)
    except (KeyError, TypeError, OSError, pa.ArrowException, StoredTableError):
        return None
    return Standing(tables, str(digest), bool(sound))


def write_views(
    folder: Path,
    tables: Mapping[str, pa.Table],
    selection: Selection,
    *,
    measured: Mapping[str, pa.Table] | None = None,
    stamped: str = "",
    digest: str = "",
    before_names: Callable[[], object] | None = None,
) -> tuple[str, ...]:
    """Write every table as ``tables/<name>.parquet``, whole or not at all, if it changed.

    Only the holder of the run's lock writes there, so whatever is half written is of the dead.

    Args:
        folder: the run folder.
        tables: the measure tables with what was added to them.
        selection: what was made of them; checked, so what is measured is sound.
        measured: the measure tables as they were read; without them nothing is remembered.
        stamped, digest: what they are made of.
        before_names: called when all is written and no file replaced yet; raises to leave all as it
            was.

    Returns:
        Names of the tables written.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    atomic.sweep(folder / FOLDER, older_than_s=-1)
    atomic.sweep(folder, older_than_s=-1, deep=False)  # quarantine.jsonl is written there
    before = _state(folder).get("files", {})
    views = {
        **tables,
        "subjects": selection.subjects,
        "pairs": selection.pairs,
        "samples": selection.samples,
        "clip_reasons": selection.clips,
        "sample_reasons": selection.sample_reasons,
        "quotas": selection.quotas,
    }
    made_of = {name: _made_of(name, views[name], measured, digest) for name in sorted(views)}
    paths = {name: folder / FOLDER / f"{name}.parquet" for name in made_of}
    written = [
        name
        for name, said in made_of.items()
        if before.get(name) != {"made_of": said, "file": _file(paths[name])}
        or not paths[name].exists()
    ]
    with ExitStack() as names:  # all are written before any gets its name
        for name in written:
            if not isinstance(views[name], StoredTable):
                write_table(views[name], names.enter_context(atomic.replacing(paths[name])))
        if before_names is not None:
            before_names()
        for name in written:
            if isinstance(views[name], StoredTable):
                views[name].move(paths[name])
    files = {name: {"made_of": made_of[name], "file": _file(paths[name])} for name in made_of}
    rows = tables["quarantine"].sort_by([("stage", "ascending"), ("id", "ascending")]).to_pylist()
    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows]
    atomic.write_bytes(folder / "quarantine.jsonl", "".join(lines).encode())
    if measured is not None:
        _remember(folder, files, measured, stamped, digest)
    return tuple(written)


def _made_of(
    name: str, table: pa.Table, measured: Mapping[str, pa.Table] | None, digest: str
) -> str:
    """Two tables of one name that say the same here are the same."""
    if measured is not None and name in measured and name not in _GROWING:
        return f"{digest}-{code_digest()[:16]}"
    return digest_of(table)


def _remember(
    folder: Path,
    files: Mapping[str, Any],
    measured: Mapping[str, pa.Table],
    stamped: str,
    digest: str,
) -> None:
    growing = {}
    for name in sorted(set(_GROWING) & set(measured)):
        growing[name] = digest_of(measured[name])
        with atomic.replacing(folder / _MEASURED.format(name)) as temporary:
            write_table(measured[name], temporary)
    atomic.write_json(
        folder / STATE,
        {
            "stamp": stamped,
            "digest": digest,
            "sound": True,
            "measured": sorted(measured),
            "growing": growing,
            "files": files,
        },
    )


def _state(folder: Path) -> dict[str, Any]:
    """What was left the last time; nothing where it cannot be read."""
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(path: Path) -> list[int] | None:
    """What tells a file from another one of its name, without reading it."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return [about.st_size, about.st_mtime_ns, about.st_ino]
