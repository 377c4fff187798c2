"""Erase every row and picture of sources that were taken down from a run's folder.

Units of work hold clips of several sources. Their parts are written anew without the rows, under
the name that the unit has without these clips, so that nothing that is left is measured again.
In a tar that others share, pictures are overwritten by zeros; a tar of theirs alone is removed.
Each step can be done twice: what was killed is done again from the start.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.units import unit_name

#: Columns that say whose a row is; ids of subjects and detections begin with their clip's.
_OWNERS: Final = (
    *("video_id", "clip_id", "id", "target_clip_id", "reference_clip_id"),
    *("target_subject_id", "reference_subject_id", "subject_id"),
    *("target_detection_id", "reference_detection_id", "detection_id"),
)
_PICTURES: Final = ("frames", "stills")


@dataclass(frozen=True)
class Erased:
    """What is to be erased.

    Attributes:
        videos: ids of sources.
        clips: ids of their clips.
    """

    videos: frozenset[str]
    clips: frozenset[str]

    def touches(self, said: Mapping[str, Any]) -> bool:
        """Whether a commit covers one of theirs; of verdicts only the rows can say."""
        theirs = {"video_id": self.videos, "clip_id": self.clips}.get(said["key"])
        return theirs is None or not theirs.isdisjoint(said["ids"])

    def owns(self, value: str | None) -> bool:
        """Whether an id is one of theirs, or begins with one of their clips."""
        if value is None:
            return False
        if value in self.videos or value in self.clips:
            return True
        parts = value.split("-")
        return any("-".join(parts[:n]) in self.clips for n in range(3, len(parts)))

    def kept(self, table: pa.Table) -> pa.Table:
        """A table without their rows."""
        keep = [True] * table.num_rows
        for name in _OWNERS:
            if name in table.schema.names:
                column = table[name].cast(pa.string()).to_pylist()
                keep = [k and not self.owns(v) for k, v in zip(keep, column, strict=True)]
        return table if all(keep) else table.filter(pa.array(keep, pa.bool_()))


@dataclass
class _Tar:
    """A tar of pictures: where theirs lie, and whether it holds any other's."""

    theirs: set[tuple[int, int]] = field(default_factory=set)
    shared: bool = False


def erase(run: Path, gone: Erased, content: Mapping[str, str]) -> None:
    """Erase sources from the run's parts, pictures, cut clips, selection steps and tables.

    Args:
        run: the run folder, whose lock is held.
        gone: whose rows and pictures.
        content: source -> what units of its clips are named by, also of those that go. A unit
            that is named otherwise is of an older state of its files and is removed whole.

    Raises:
        StoreError: a commit cannot be read.
    """
    for place in ("measure", "tables", *_PICTURES):  # what a killed writer left; nobody else writes
        if (run / place).is_dir():
            atomic.sweep(run / place, older_than_s=-1)
    _erase_pictures(run, gone)
    touched = {said["unit"] for _, said in _commits(run) if gone.touches(said)}
    members: dict[str, set[str]] = defaultdict(set)
    for _, said in _commits(run):
        if said["unit"] in touched:
            members[said["unit"]].update(said["ids"])
    for path, said in list(_commits(run, touched)):
        _rewrite(path, said, sorted(members[said["unit"]]), gone, content)
    _sweep(run)
    shutil.rmtree(run / "select", ignore_errors=True)  # steps of a selection; made again from rows
    for path in sorted((run / "clips").glob("*/*.mp4")):
        if path.stem in gone.clips:
            path.unlink()
    for path in sorted((run / "tables").glob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        kept = gone.kept(table)
        if kept.num_rows < table.num_rows:
            with atomic.replacing(path) as temporary:
                pq.write_table(kept, temporary, compression="zstd")


def measured_rows(
    run: Path, table: str, column: str, owners: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Rows of a table that any commit of the run has of some owners, whatever its settings.

    Args:
        run: the run folder.
        table: ``clips``, whose owners are sources, or ``frames``, whose owners are clips.
        column: that names the owner, ``video_id`` or ``clip_id``.
        owners: ids.
    """
    wanted = frozenset(owners)
    for path, said in _commits(run):
        part = said["parts"].get(table)
        if part is None or said["key"] != column or wanted.isdisjoint(said["ids"]):
            continue
        if not (path.parent / part["file"]).is_file():
            continue  # removed before a takedown was killed
        for row in pq.read_table(path.parent / part["file"], partitioning=None).to_pylist():
            if row[column] in wanted:
                yield row


def _commits(
    run: Path, units: Collection[str] | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Commits of every stage and configuration by path, one at a time; of named units, if any."""
    for path in sorted((run / "measure").glob("*/*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            _ = (said["unit"], said["key"], said["ids"], said["parts"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: not a commit ({error}); delete it, then take down again"
            ) from None
        if units is None or said["unit"] in units:
            yield path, said


def _rewrite(
    path: Path, said: dict[str, Any], members: list[str], gone: Erased, content: Mapping[str, str]
) -> None:
    """Write a commit anew without their rows; its old parts are then nobody's."""
    if said["key"] not in ("video_id", "clip_id"):  # verdicts, by pairs: any unit may have theirs
        _commit(path, said, gone)
        return
    left = [one for one in said["ids"] if not gone.owns(one)]
    if len(left) == len(said["ids"]):
        return
    stay = [one for one in members if not gone.owns(one)]
    known = said["key"] == "clip_id" and said["unit"] == _name(members, content)
    if known and stay:
        _commit(path, {**said, "unit": _name(stay, content), "ids": left}, gone)
    path.unlink()


def _name(clips: list[str], content: Mapping[str, str]) -> str | None:
    """What a unit of these clips is named; ``None`` where a source is not known any more."""
    made_of = [content.get(one.rsplit("-", 2)[0]) for one in clips]
    known = [one for one in made_of if one is not None]
    return unit_name(clips, known) if len(known) == len(clips) else None


def _sweep(run: Path) -> None:
    """Remove parts that no commit names: those written anew, and what killed writers left."""
    named: dict[Path, set[str]] = defaultdict(set)
    for path, said in _commits(run):
        named[path.parent].update(part["file"] for part in said["parts"].values())
    for path in sorted((run / "measure").glob("*/*.parquet")):
        if path.name not in named[path.parent]:
            path.unlink()


def _commit(path: Path, said: dict[str, Any], gone: Erased) -> None:
    """Write parts and commit of a generation, unless no row is theirs and its name stays."""
    generation = path.name.removesuffix(".json").rpartition(".")[2]
    target = path.with_name(f"{said['unit']}.{generation}.json")
    parts, changed = {}, target != path
    for name, part in sorted(said["parts"].items()):
        table = pq.read_table(path.parent / part["file"], partitioning=None)
        kept = gone.kept(table)
        changed |= kept.num_rows < table.num_rows
        if "unit" in kept.schema.names:  # table quarantine
            at = kept.schema.get_field_index("unit")
            unit = pa.array([said["unit"]] * kept.num_rows, pa.string())
            kept = kept.set_column(at, "unit", unit)
        sink = io.BytesIO()
        pq.write_table(kept, sink, compression="zstd")
        data = sink.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        file = f"{said['unit']}.{generation}.{name}.{digest[:8]}.parquet"
        parts[name] = (file, data, {"file": file, "sha256": digest, "rows": kept.num_rows})
    if not changed:
        return
    for file, data, _ in parts.values():
        atomic.write_bytes(path.parent / file, data, sync_folder=False)
    quarantined = [one for one in said["quarantined"] if not gone.owns(one)]
    new = {**said, "quarantined": quarantined, "parts": {n: p[2] for n, p in parts.items()}}
    text = json.dumps(new, sort_keys=True, ensure_ascii=False) + "\n"
    atomic.write_bytes(target, text.encode())


def _tars(run: Path, gone: Erased) -> dict[str, _Tar]:
    """Every tar that a commit names, by its path below the run folder."""
    tars: dict[str, _Tar] = defaultdict(_Tar)
    for path, said in _commits(run):
        for kind in _PICTURES:
            part = said["parts"].get(kind)
            if part is None or not (path.parent / part["file"]).is_file():
                continue
            columns = ["clip_id", "tar", "offset", "size"]
            table = pq.read_table(path.parent / part["file"], columns=columns, partitioning=None)
            if not gone.touches(said):
                for name in table["tar"].unique().to_pylist():
                    tars[name].shared = True
                continue
            for row in table.to_pylist():
                one = tars[row["tar"]]
                if gone.owns(row["clip_id"]):
                    one.theirs.add((row["offset"], row["size"]))
                else:
                    one.shared = True
    return tars


def _erase_pictures(run: Path, gone: Erased) -> None:
    tars = _tars(run, gone)
    inside = run.resolve()
    for name, one in sorted(tars.items()):
        path = (run / name).resolve()
        if not one.theirs or not path.is_file() or not path.is_relative_to(inside):
            continue
        if not one.shared:
            path.unlink()
            continue
        with atomic.replacing(path) as temporary:
            shutil.copyfile(path, temporary)
            with temporary.open("r+b") as handle:
                for offset, size in sorted(one.theirs):
                    handle.seek(offset)
                    handle.write(bytes(size))
    # A unit that was killed, or whose commit was deleted, leaves pictures that nobody names.
    for folder in _PICTURES:
        for path in sorted((run / folder).glob("*.tar")):
            if f"{folder}/{path.name}" not in tars:
                path.unlink()
