"""Write a selection as a shard folder.

A whole new folder is built beside the old one and takes its place in one rename. Shards whose
samples did not change are linked, not built again. The same selection, frames and clips give
the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe.base import atomic, shards
from s2v.datapipe.pair.rows import Row, read
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.write import describe, folder, plan
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.inputs import Inputs
from s2v.datapipe.write.layout import Layout
from s2v.datapipe.write.members import BuiltSample, SampleBuilder
from s2v.datapipe.write.nvmeta import write_nv_meta
from s2v.datapipe.write.plan import ShardPlan, plan_shards
from s2v.datapipe.write.previous import Previous, ShardRecord, record, write_records
from s2v.datapipe.write.settings import WriteSettings
from s2v.datapipe.write.tar import index_row, sample_bytes, write_index, write_tar

_GUESSED_REFERENCE = 100_000  # bytes, before it is made; what is made is counted


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        folder: the shard folder.
        shards: number of samples by shard file, in index order.
        samples: number of samples.
        bytes: of all shards.
        skipped: samples whose clip could not be cut, with the reason.
        removed: shard files of an earlier write that no sample is in any more.
        changed: shard files that are new or have other bytes than before; the others are kept.
    """

    folder: Path
    shards: dict[str, int]
    samples: int
    bytes: int
    skipped: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def write_shards(
    run: Path,
    tables: Mapping[str, pa.Table],
    selection: Selection,
    settings: WriteSettings,
    clip_files: Mapping[str, Path],
    out: Path,
) -> Written:
    """Write shards, index and everything that stands beside them.

    Args:
        run: the run folder, where the sampled frames are.
        tables: the measure tables; a clip that could not be cut is in ``quarantine``.
        selection: what :func:`s2v.datapipe.pair.select.select` made.
        settings: margins, qualities, size of a shard, title.
        clip_files: the cut mp4 of each sample's clip.
        out: the shard folder; what an earlier write left is replaced.

    Returns:
        Counts, and what was left out.

    Raises:
        WriteError: a clip is neither cut nor quarantined, or frames are missing.
        OSError: the disk is full; what was built is removed again, and ``out`` is as it was.
    """
    coming = folder.begin(out)
    try:
        return _write(run, tables, selection, settings, clip_files, coming, out)
    except BaseException:
        folder.abandon(coming)
        raise


def _write(
    run: Path,
    tables: Mapping[str, pa.Table],
    selection: Selection,
    settings: WriteSettings,
    clip_files: Mapping[str, Path],
    coming: Path,
    out: Path,
) -> Written:
    """Build the folder ``coming`` and put it in the place of ``out``."""
    before = Previous(out)
    layout = plan.recorded_layout(out) or Layout(counts=selection.shards)
    samples, skipped = _writable(selection, tables, clip_files)
    everything = {**tables, "subjects": selection.subjects}
    builder = SampleBuilder(run, everything, clip_files, settings)
    layout = layout.grown(
        plan.items(samples, _guessed(samples, clip_files)), settings.max_shard_bytes
    )
    shelf = _Shelf(coming, before, builder)
    while True:
        plans = plan_shards(samples, layout)
        shelf.hold(plans)
        grown = layout.grown(plan.items(samples, shelf.sizes()), settings.max_shard_bytes)
        if grown == layout:
            break
        layout = grown
    rows = [row for one in plans for row in shelf.rows[one.name]]
    records = [shelf.records[one.name] for one in plans]
    atomic.write_json(coming / plan.LAYOUT_FILE, plan.as_record(layout))
    write_records(coming, records)
    write_index(coming, rows)
    write_nv_meta(coming, rows, records)
    describe.write_descriptions(
        describe.Dataset(
            folder=coming,
            title=settings.title,
            index=pa.Table.from_pylist(rows, schema=shards.INDEX),
            files=records,
            sources=tables["sources"],
            reference_sources=_reference_sources(selection, samples),
            classes=tuple(sorted(_classes(builder, samples))),
            motion=tuple(m for row in samples if (m := _motion(builder, row)) is not None),
        )
    )
    folder.commit(coming, out)
    new = {one.shard for one in records}
    return Written(
        folder=out,
        shards={one.name: len(one.samples) for one in plans},
        samples=len(rows),
        bytes=sum(one.bytes for one in records),
        skipped=skipped,
        removed=tuple(sorted(before.tars - new)),
        changed=tuple(sorted(new - shelf.kept)),
    )


class _Shelf:
    """The tars of the coming folder: kept from before, or built; replaced as the plan changes."""

    def __init__(self, coming: Path, before: Previous, builder: SampleBuilder) -> None:
        self._coming, self._before, self._builder = coming, before, builder
        self._inputs = Inputs(builder)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.records: dict[str, ShardRecord] = {}
        self.kept: set[str] = set()

    def hold(self, plans: list[ShardPlan]) -> None:
        """Have exactly the shards of a plan."""
        for name in sorted(self.records.keys() - {one.name for one in plans}):
            self._drop(name)
        for one in plans:
            inputs = self._inputs.digest(one)
            if one.name in self.records:
                if self.records[one.name].inputs == inputs:
                    continue
                self._drop(one.name)
            if same := self._before.same(one.name, inputs):
                folder.link(self._before.folder / one.name, self._coming / one.name)
                self.records[one.name], self.rows[one.name] = same
                self.kept.add(one.name)
            else:
                self.rows[one.name] = write_shard(one, self._builder, self._coming)
                path = self._coming / one.name
                self.records[one.name] = made = record(path, len(one.samples), inputs)
                if self._before.sha256(one.name) == made.sha256:
                    self.kept.add(one.name)

    def _drop(self, name: str) -> None:
        (self._coming / name).unlink()
        self.kept.discard(name)
        del self.records[name], self.rows[name]

    def sizes(self) -> dict[str, int]:
        """Bytes of every sample in its tar."""
        return {
            str(row["sample_id"]): sample_bytes(row) for rows in self.rows.values() for row in rows
        }


def _guessed(samples: list[Row], clip_files: Mapping[str, Path]) -> dict[str, int]:
    """About how large samples will be, so that few shards are divided after they were built."""
    return {
        row["sample_id"]: clip_files[row["clip_id"]].stat().st_size
        + _GUESSED_REFERENCE * len(row["references"])
        for row in samples
    }


def write_shard(plan: ShardPlan, builder: SampleBuilder, folder: Path) -> list[dict[str, Any]]:
    """Write one tar; samples are built one at a time.

    Returns:
        Its rows of ``index/samples.parquet``.
    """
    built: list[shards.SampleMeta] = []

    def stream() -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in plan.samples:
            sample: BuiltSample = builder.build(row)
            built.append(sample.meta)
            yield row["sample_id"], sample.members

    written = write_tar(folder / plan.name, stream())
    return [index_row(plan.name, w, meta) for w, meta in zip(written, built, strict=True)]


def _writable(
    selection: Selection, tables: Mapping[str, pa.Table], clip_files: Mapping[str, Path]
) -> tuple[list[Row], dict[str, str]]:
    """Samples whose clip was cut; the others must be quarantined."""
    quarantine = {row["id"]: row for row in read(tables, "quarantine")}
    samples, skipped = [], {}
    for row in read({"samples": selection.samples}, "samples"):
        clip = row["clip_id"]
        if clip in clip_files:
            samples.append(row)
        elif clip in quarantine:
            skipped[row["sample_id"]] = f"{clip}: {quarantine[clip]['message']}"
        else:
            raise WriteError(
                f"sample {row['sample_id']}: clip {clip} was neither cut nor quarantined; "
                "cut it first (`s2v-data run` does)"
            )
    return samples, skipped


def _classes(builder: SampleBuilder, samples: list[Row]) -> Iterator[str]:
    for row in samples:
        for ref in row["references"]:
            yield str(builder.subjects[ref["subject_id"]]["class"])


def _motion(builder: SampleBuilder, sample: Row) -> float | None:
    motion: float | None = builder.clips[sample["clip_id"]]["motion"]
    return motion


def _reference_sources(selection: Selection, samples: list[Row]) -> frozenset[str]:
    video = dict(
        zip(
            selection.subjects["subject_id"].to_pylist(),
            selection.subjects["video_id"].to_pylist(),
            strict=True,
        )
    )
    return frozenset(
        video[ref["reference_subject_id"]] for row in samples for ref in row["references"]
    )
