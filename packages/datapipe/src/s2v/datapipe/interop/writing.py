"""Imported samples become a shard folder like any other, with an account of what was left out."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from s2v.datapipe.backends.nouns import category_of
from s2v.datapipe.base import ids, records, shards
from s2v.datapipe.base.progress import track
from s2v.datapipe.interop.building import Builder, Built, UnbuiltError
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.imported import Candidate, Imported, name_to_id
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.pair.split import split_of_sources
from s2v.datapipe.write import describe, folder
from s2v.datapipe.write.nvmeta import write_nv_meta
from s2v.datapipe.write.previous import record, write_records
from s2v.datapipe.write.tar import index_row, write_index, write_tar

_ORDER: Final = ("in", "cross")


@dataclass(frozen=True)
class Planned:
    """A sample with its place."""

    sample_id: str
    shard: str
    split: str
    sample: Imported


class ShardWriter:
    """Writes planned samples shard by shard; what cannot be built is filed."""

    def __init__(
        self, out: Path, videos: Videos, settings: ImportSettings, ledger: Ledger, *, quiet: bool
    ) -> None:
        """Keep what to write with; ``out`` is the folder that will hold ``shards/``."""
        self.out, self.settings, self.ledger, self.quiet = out, settings, ledger, quiet
        self.builder = Builder(videos, out / "clips", settings)
        self._rows_done: dict[str, bool] = {}
        self._row_errors: dict[str, tuple[str, RowError]] = {}
        self._classes: list[str] = []
        self._sources: dict[str, dict[str, object]] = {}
        self._reference_sources: set[str] = set()

    def write(self, samples: Iterable[Imported]) -> dict[str, Any]:
        """Write all samples below ``out/shards``; an earlier import there is replaced.

        Where no sample could be built nothing is replaced.

        Returns:
            Counts of what is there now.
        """
        planned = self._plan(samples)
        shards_folder = self.out / "shards"
        staging = folder.begin(shards_folder)
        rows: list[dict[str, Any]] = []
        with track("build samples", len(planned), quiet=self.quiet) as step:
            for name, group in _by_shard(planned):
                rows += self._shard(staging / name, group, step)
        self._close_rows()
        if not rows:
            shutil.rmtree(staging)
            return {"samples": 0, "shards": 0, "references": 0}
        self._finish(staging, rows)
        _refuse_other(shards_folder)
        folder.commit(staging, shards_folder)
        return {
            "samples": len(rows),
            "shards": len({row["shard"] for row in rows}),
            "references": sum(row["references"] for row in rows),
        }

    def _plan(self, samples: Iterable[Imported]) -> list[Planned]:
        chosen: dict[str, Imported] = {}
        seen: dict[tuple[object, ...], str] = {}
        for sample in samples:
            clip = sample.clip
            same = (sample.pair_type, clip.path or clip.name, clip.frames)
            if (other := seen.setdefault(same, sample.row)) != sample.row:
                error = RowError("sample twice", f"the same clip as {other!r}")
                self._refuse(sample, error, ())
                continue
            key = _sample_id(sample)
            try:
                self.builder.check_sample(key)
                chosen[key] = sample
            except RowError as error:
                self._refuse(sample, error, ())
        long = {k: name_to_id("l", s.clip.long_name or s.clip.name) for k, s in chosen.items()}
        shared = {
            (long[key], name_to_id("l", one.clip.long_name or one.clip.name))
            for key, sample in chosen.items()
            for subject in sample.subjects
            for one in subject.candidates
        }
        everyone = {name for edge in shared for name in edge} | set(long.values())
        split = split_of_sources(everyone, sorted(shared), self.settings.split)
        kind = {k: shards.kind_of(s.pair_type, split[long[k]], False) for k, s in chosen.items()}
        kinds = Counter(kind.values())
        shards_of = {k: -(-n // self.settings.samples_per_shard) for k, n in kinds.items()}
        return sorted(
            (
                Planned(
                    sample_id=key,
                    shard=_shard_name(kind[key], long[key], shards_of),
                    split=split[long[key]],
                    sample=sample,
                )
                for key, sample in chosen.items()
            ),
            key=lambda p: (_ORDER.index(p.sample.pair_type), p.shard, p.sample_id),
        )

    def _shard(self, path: Path, group: list[Planned], step: Any) -> list[dict[str, Any]]:
        metas: list[shards.SampleMeta] = []

        def stream() -> Iterator[tuple[str, dict[str, bytes]]]:
            for planned, built in self._build(group):
                step()
                if isinstance(built, UnbuiltError):
                    self._refuse(planned.sample, built.error, built.refused)
                    continue
                self._took(planned.sample, built)
                metas.append(built.meta)
                yield planned.sample_id, built.members

        written = write_tar(path, stream())
        if not written:
            path.unlink()
        return [index_row(path.name, w, m) for w, m in zip(written, metas, strict=True)]

    def _build(self, group: list[Planned]) -> Iterator[tuple[Planned, Built | UnbuiltError]]:
        """In the order of the group, a few at once."""

        def build(planned: Planned) -> Built | UnbuiltError:
            try:
                return self.builder.build(planned.sample, planned.split)
            except UnbuiltError as error:
                return error

        waiting = iter(group)
        with ThreadPoolExecutor(self.settings.workers) as pool:
            try:
                running: list[tuple[Planned, Future[Built | UnbuiltError]]] = [
                    (one, pool.submit(build, one))
                    for one in islice(waiting, 2 * self.settings.workers)
                ]
                while running:
                    planned, future = running.pop(0)
                    yield planned, future.result()
                    running += [(one, pool.submit(build, one)) for one in islice(waiting, 1)]
            finally:
                pool.shutdown(cancel_futures=True)

    def _took(self, sample: Imported, built: Built) -> None:
        refused = {id(c): e for c, e in built.refused}
        used = {id(c) for c in built.used}
        self._rows_done[sample.row] = True
        full = len(built.used) >= self.settings.max_references
        for subject in sample.subjects:
            taken = any(id(c) in used for c in subject.candidates)
            for one in subject.candidates:
                if id(one) in used:
                    self.ledger.wrote("reference")
                elif error := refused.get(id(one)):
                    self.ledger.leave("reference", one.id, sample.where, error)
                else:
                    why = "another reference of this phrase was taken"
                    if full and not taken:
                        why = "more references than a sample holds"
                    self.ledger.leave("reference", one.id, sample.where, RowError(why, ""))
        source = built.meta.source
        for video, licence in (
            (source.video_id, source.licence),
            *((ref.from_.source, ref.from_.licence) for ref in built.meta.refs),
        ):
            self._sources.setdefault(
                video,
                {
                    "video_id": video,
                    "long_video_id": source.long_video_id,
                    "kind": "video",
                    "licence": licence,
                    "consent": self.settings.consent,
                    "origin": "imported",
                },
            )
        self._classes += [category_of(ref.noun, ref.phrase) for ref in built.meta.refs]
        self._reference_sources |= {ref.from_.source for ref in built.meta.refs}

    def _refuse(
        self,
        sample: Imported,
        error: RowError,
        refused: tuple[tuple[Candidate, RowError], ...],
    ) -> None:
        self._rows_done.setdefault(sample.row, False)
        self._row_errors.setdefault(sample.row, (sample.where, error))
        known = {id(c): e for c, e in refused}
        for subject in sample.subjects:
            for one in subject.candidates:
                self.ledger.leave("reference", one.id, sample.where, known.get(id(one), error))

    def _close_rows(self) -> None:
        """A row is written if one of its samples is; else its first sample says why not."""
        for row, done in sorted(self._rows_done.items()):
            if done:
                self.ledger.wrote("row")
            else:
                where, error = self._row_errors[row]
                self.ledger.leave("row", row, where, error)

    def _finish(self, place: Path, rows: list[dict[str, Any]]) -> None:
        """Write what stands beside the tars."""
        samples = Counter(str(row["shard"]) for row in rows)
        made = [record(place / name, count, "") for name, count in samples.items()]
        write_records(place, made)
        write_index(place, rows)
        write_nv_meta(place, rows, made)
        described = describe.Dataset(
            folder=place,
            title=self.settings.write.title,
            index=pa.Table.from_pylist(rows, schema=shards.INDEX),
            files=made,
            classes=tuple(sorted(self._classes)),
            sources=records.table("sources", [s for _, s in sorted(self._sources.items())]),
            reference_sources=frozenset(self._reference_sources),
        )
        describe.write_descriptions(described)


def _sample_id(sample: Imported) -> str:
    offered = [c.id for s in sample.subjects for c in s.candidates]
    return ids.sample_id(sample.pair_type, sample.clip.name, offered)


def _shard_name(kind: str, long_video: str, shards_of: Mapping[str, int]) -> str:
    """All clips of a long video lie in one shard: a takedown touches no other."""
    return f"{kind}-{ids.bucket(long_video, shards_of[kind]):06d}.tar"


def _by_shard(planned: list[Planned]) -> Iterator[tuple[str, list[Planned]]]:
    groups: dict[str, list[Planned]] = defaultdict(list)
    for one in planned:
        groups[one.shard].append(one)
    yield from groups.items()


def _refuse_other(place: Path) -> None:
    if place.exists() and not (place / shards.INDEX_FILE).is_file() and any(place.iterdir()):
        raise InteropError(f"{place}: is no shard folder; import into another folder")
