"""A run folder as the report reads it: settings, tables, shards, frames. Nothing is measured."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import ExclusionIndex
from s2v.datapipe.base.settings import parse
from s2v.datapipe.base.shards import INDEX_FILE, ShardIndex
from s2v.datapipe.pair.conservation import ConservationError, Ledger, Report, check
from s2v.datapipe.pair.quotas import QUOTAS
from s2v.datapipe.pair.rows import Row, by, read
from s2v.datapipe.pair.samples import SAMPLE_REASONS
from s2v.datapipe.pair.select import CLIP_REASONS, Selection
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.subjects import SubjectView, join_subjects
from s2v.datapipe.write.frames import FrameStore

#: Columns that a report only asks for presence; a million floats a table are not worth reading.
_VECTORS: Final = {
    "embeddings": ("subject", "background"),
    "faces": ("embedding",),
}

#: Columns that runs of older versions lack; they are read as null, which says as much.
_LATER: Final = {
    "clips": ("marks",),
    "clip_reasons": ("concept",),
    "pairs": ("search", "joint_similarity", "same_identity", "different_context"),
    "subjects": ("face", "class_source"),
    "checks": ("mark",),
}
#: Tables that runs of older versions lack, because nobody was asked for them.
_LATER_TABLES: Final = frozenset({"verdicts", "marks"})
#: Views of the selection that are no tables of the contract.
_VIEWS: Final = {
    "clip_reasons": CLIP_REASONS,
    "sample_reasons": SAMPLE_REASONS,
    "quotas": QUOTAS,
}
#: Of these, what runs of older versions did not write.
_LATER_VIEWS: Final = ("sample_reasons", "quotas")


class RunFolderError(FileNotFoundError):
    """A folder that is no run, or a run that has not come as far as its tables."""


class RunFolder:
    """A run, opened for reading.

    Attributes:
        folder: the run folder.
        about: what ``run.json`` says: settings, packages, models, fingerprints, commit.
        settings: the thresholds of the selection.
        tables: every table of the run by name; vectors are replaced by ``[1.0]``.
    """

    def __init__(self, folder: Path) -> None:
        """Read ``run.json`` and ``tables/``.

        Raises:
            RunFolderError: the folder, ``run.json`` or a table is missing, or is not JSON.
            SettingsError: the settings are of another version.
        """
        self.folder = folder
        self.about = _about(folder)
        chosen = self.about["settings"].get("select", {})
        self.settings = parse(SelectSettings, chosen, f"{folder / 'run.json'}: settings.select")
        names = [*records.TABLES, *_VIEWS]
        self.tables = {name: _table(folder / "tables" / f"{name}.parquet", name) for name in names}
        if not self.tables["sample_reasons"].num_rows:  # nothing was left out in older versions
            kept = [name for name in SAMPLE_REASONS.names if name in records.SAMPLES.names]
            rows = self.tables["samples"].select(kept).to_pylist()
            self.tables["sample_reasons"] = pa.Table.from_pylist(rows, schema=SAMPLE_REASONS)

    def rows(self, name: str) -> list[Row]:
        """Rows of a table, sorted by its key."""
        if name not in self._rows:
            self._rows[name] = read(self.tables, name)
        return self._rows[name]

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        return {}

    def by(self, name: str, column: str) -> dict[Any, Row]:
        """Rows of a table by a unique column."""
        if (name, column) not in self._by:
            self._by[name, column] = by(self.rows(name), column)
        return self._by[name, column]

    @cached_property
    def _by(self) -> dict[tuple[str, str], dict[Any, Row]]:
        return {}

    @cached_property
    def clip_reasons(self) -> dict[str, str | None]:
        """Why each clip was dropped, ``None`` for a kept one."""
        return {row["clip_id"]: row["reason"] for row in self.tables["clip_reasons"].to_pylist()}

    @cached_property
    def box_reasons(self) -> dict[str, str | None]:
        """Why each detection was not used, ``None`` for a usable one."""
        boxes = self._view.boxes
        return dict(zip(*(boxes[n].to_pylist() for n in ("detection_id", "reason")), strict=True))

    @cached_property
    def _view(self) -> SubjectView:
        return join_subjects(self.tables, self.clip_reasons, self.settings, ExclusionIndex(()))

    @cached_property
    def shards(self) -> ShardIndex | None:
        """The shard index, ``None`` before shards are written."""
        folder = self.folder / "shards"
        return ShardIndex.open(folder) if (folder / INDEX_FILE).is_file() else None

    @cached_property
    def frames(self) -> FrameStore:
        """The sampled frames."""
        return FrameStore(self.folder)

    @cached_property
    def conservation(self) -> Report | str:
        """The funnel of the stored tables, or what is wrong with them in one sentence."""
        # Which samples a list took out is not stored; the check asks whether any may be.
        lists = self.about["settings"].get("exclusions") or ()
        selection = Selection(
            clips=self.tables["clip_reasons"],
            boxes=self._view.boxes,
            faces=self._view.faces,
            subjects=self.tables["subjects"],
            pairs=self.tables["pairs"],
            samples=self.tables["samples"],
            excluded_samples=dict.fromkeys(lists, "excluded"),
            shards=self.settings.shards,
            sample_reasons=self.tables["sample_reasons"],
            quotas=self.tables["quotas"],
        )
        try:
            return check(self.tables, selection, self.settings)
        except ConservationError as error:
            return " ".join(str(error).split())

    @cached_property
    def written(self) -> Ledger | None:
        """Samples that were selected, and what became of them; ``None`` before shards."""
        if self.shards is None:
            return None
        there = set(self.shards.table["sample_id"].to_pylist())
        uncut = {row["id"] for row in self.rows("quarantine") if row["stage"] == "cut"}
        selected = self.rows("samples")
        missing = [row for row in selected if row["sample_id"] not in there]
        bad = sum(row["clip_id"] in uncut for row in missing)
        lost = {"not in the shards: write them again": len(missing) - bad}
        kept = len(selected) - len(missing)
        dropped = {why: count for why, count in lost.items() if count}
        return Ledger("samples written", len(selected), kept, dropped, bad)


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run folder")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder}: no run.json in it, so it is no run folder; `s2v-data run` makes one"
        ) from None
    except ValueError as error:
        raise RunFolderError(f"{path}: not JSON ({error}); run `s2v-data run` again") from None
    if not isinstance(about, dict) or not isinstance(about.get("settings"), dict):
        raise RunFolderError(f"{path}: has no settings; run `s2v-data run` again")
    return about


def _table(path: Path, name: str) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        if name in _LATER_TABLES:
            return records.table(name, [])
        if name in _LATER_VIEWS:
            return _VIEWS[name].empty_table()
        raise RunFolderError(
            f"{path}: missing; the run has not come to its selection, `s2v-data run` goes on"
        ) from None
    except pa.ArrowInvalid as error:
        raise RunFolderError(f"{path}: {error}; `s2v-data select` writes it again") from None
    schema = _VIEWS.get(name) or records.TABLES[name]
    for column in _LATER.get(name, ()):
        if column not in table.schema.names:
            field = schema.field(column)
            table = table.append_column(field, pa.nulls(len(table), field.type))
    if name in _VIEWS:
        return table.select(schema.names)
    for column in _VECTORS.get(name, ()):
        at = table.schema.get_field_index(column)
        if at >= 0:
            table = table.set_column(at, column, _present(table[column]))
    return table


def _present(column: pa.ChunkedArray) -> pa.ListArray:
    """``[1.0]`` where the column has a vector, null where it has none."""
    missing = column.is_null().combine_chunks().to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(~missing))).astype(np.int32)
    ones = pa.array(np.ones(offsets[-1], np.float32))
    return pa.ListArray.from_arrays(pa.array(offsets), ones, mask=pa.array(missing))
