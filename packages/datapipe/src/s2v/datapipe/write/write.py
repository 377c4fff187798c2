"""Write a selection as a shard folder.

Tars are built aside and moved in together; the index is written last and is the commit. The
same selection, frames and clips give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe.base import atomic, shards
from s2v.datapipe.pair.rows import Row, read
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.write import describe
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.members import BuiltSample, SampleBuilder
from s2v.datapipe.write.plan import LAYOUT_FILE, ShardPlan, layout, plan_shards, recorded_counts
from s2v.datapipe.write.settings import WriteSettings
from s2v.datapipe.write.tar import index_row, write_index, write_tar

_STAGING = ".staging"


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
    """

    folder: Path
    shards: dict[str, int]
    samples: int
    bytes: int
    skipped: dict[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


def write_shards(
    run: Path,
    tables: Mapping[str, pa.Table],
    selection: Selection,
    settings: WriteSettings,
    clip_files: Mapping[str, Path],
    out: Path,
) -> Written:
    """Write shards, index, ``wids.json``, dataset card and Croissant description.

    Args:
        run: the run folder, where the sampled frames are.
        tables: the measure tables; a clip that could not be cut is in ``quarantine``.
        selection: what :func:`s2v.datapipe.pair.select.select` made.
        settings: margins, qualities, title.
        clip_files: the cut mp4 of each sample's clip.
        out: the shard folder; what an earlier write left is replaced.

    Returns:
        Counts, and what was left out.

    Raises:
        WriteError: a clip is neither cut nor quarantined, or frames are missing.
    """
    counts = recorded_counts(out) or selection.shards
    samples, skipped = _writable(selection, tables, clip_files)
    plans = plan_shards(samples, counts)
    everything = {**tables, "subjects": selection.subjects}
    builder = SampleBuilder(run, everything, clip_files, settings)
    staging = out / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    rows = [row for plan in plans for row in write_shard(plan, builder, staging)]
    removed = _commit(out, staging, plans, rows, counts)
    described = describe.Dataset(
        folder=out,
        title=settings.title,
        index=pa.Table.from_pylist(rows, schema=shards.INDEX),
        sources=tables["sources"],
        reference_sources=_reference_sources(selection, samples),
    )
    describe.write_descriptions(described)
    return Written(
        folder=out,
        shards={plan.name: len(plan.samples) for plan in plans},
        samples=len(rows),
        bytes=sum((out / plan.name).stat().st_size for plan in plans),
        skipped=skipped,
        removed=removed,
    )


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


def _commit(
    out: Path,
    staging: Path,
    plans: list[ShardPlan],
    rows: list[dict[str, Any]],
    counts: ShardCounts,
) -> tuple[str, ...]:
    """Move the tars in, remove those left over, write the index.

    While files change there is no index: a reader that opens the folder then is told to
    wait for one, instead of reading bytes that are not what the index says.
    """
    new = {plan.name for plan in plans}
    old = {path.name for path in out.glob("*.tar")}
    changed = sorted(n for n in new if not _same(staging / n, out / n))
    removed = tuple(sorted(old - new))
    if changed or removed:
        (out / shards.INDEX_FILE).unlink(missing_ok=True)
    for name in changed:
        (staging / name).replace(out / name)
    for name in removed:
        (out / name).unlink()
    shutil.rmtree(staging)
    atomic.write_json(out / LAYOUT_FILE, layout(counts))
    write_index(out, rows)
    return removed


def _same(a: Path, b: Path) -> bool:
    return (
        b.exists()
        and a.stat().st_size == b.stat().st_size
        and atomic.sha256_file(a) == atomic.sha256_file(b)
    )
