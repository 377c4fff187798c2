"""The samples that a run may draw from, in columns: a million rows are a few arrays.

A row of the index belongs to a source (its pair type) and has, in each phase, a bucket or none.
Every row that is not in the pool has its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from s2v.model.config_data import DataConfig, VideoSize
from s2v.model.data.buckets import REASONS, Bucket, Ints, Shapes, fit
from s2v.model.errors import ModelError

COLUMNS = (
    "sample_id", "pair_type", "split", "heldout", "frames", "fps", "height", "width", "references",
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Which samples there are, and in which bucket each is.

    Attributes:
        ids: of all rows of the index.
        rows: per source its rows, sorted by sample id. Excluded samples are among them, so that
            exclusions change no other sample's place; they have no bucket.
        buckets: all of the run.
        places: per phase, per row of the index: place in ``buckets``, -1 without one.
        shown: per row of the index: references that a step shows.
        dropped: rows that no phase draws, by reason. With :attr:`size` they add up to the index.
    """

    ids: pa.Array
    rows: Mapping[str, Ints]
    buckets: tuple[Bucket, ...]
    places: tuple[npt.NDArray[np.int16], ...]
    shown: npt.NDArray[np.int8]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_ids(cls, sources: Mapping[str, Sequence[str]], phases: int = 1) -> Pool:
        """A pool of one bucket from ids alone."""
        ids = [i for source in sorted(sources) for i in sorted(sources[source])]
        ends = np.cumsum([0, *(len(sources[source]) for source in sorted(sources))])
        spans = zip(sorted(sources), ends, ends[1:], strict=False)
        rows = {s: np.arange(a, b, dtype=np.int64) for s, a, b in spans if b > a}
        one = (np.zeros(len(ids), np.int16),) * phases
        return cls(
            pa.array(ids, pa.string()),
            rows,
            (Bucket(1, 8, 8, 0),),
            one,
            np.zeros(len(ids), np.int8),
        )

    @property
    def size(self) -> int:
        """Rows that some phase draws."""
        return sum(self.counts.values())

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples that some phase draws, per source."""
        some = np.max(np.stack(self.places), axis=0) >= 0
        found = {s: int(some[rows].sum()) for s, rows in sorted(self.rows.items())}
        return {s: n for s, n in found.items() if n}

    def drawn_rows(self) -> Ints:
        """Rows that some phase draws, in the order of the index."""
        some = np.max(np.stack(self.places), axis=0) >= 0
        listed = np.concatenate([rows[some[rows]] for rows in self.rows.values()])
        return np.sort(listed)

    def id(self, row: int) -> str:
        """The sample id of a row."""
        return str(self.ids[row].as_py())

    def bucket(self, row: int, phase: int) -> Bucket | None:
        """The bucket of a row in a phase, or None."""
        place = int(self.places[phase][row])
        return None if place < 0 else self.buckets[place]

    def first_bucket(self, row: int) -> Bucket:
        """The bucket of a row in the first phase that draws it."""
        return next(b for p in range(len(self.places)) if (b := self.bucket(row, p)) is not None)

    def sizes(self, row: int) -> list[VideoSize]:
        """All sizes of a row, over the phases that draw it."""
        found = (self.bucket(row, phase) for phase in range(len(self.places)))
        return sorted({bucket.size for bucket in found if bucket is not None})

    def count(self, source: str, phase: int) -> int:
        """Samples of a source that a phase can draw."""
        rows = self.rows.get(source)
        return 0 if rows is None else int((self.places[phase][rows] >= 0).sum())

    def digest(self) -> str:
        """16 hex over the samples' ids, source by source."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for source in sorted(self.rows):
            names = self.ids.take(pa.array(self.rows[source])).to_pylist()
            found.update(f"{source}\0{len(names)}\0".encode() + "\n".join(names).encode())
        return found.hexdigest()[:16]

    def without(self, reasons: Mapping[int, str]) -> Pool:
        """The pool with rows left out that turned out to be unusable.

        Args:
            reasons: row of the index to why.
        """
        if not reasons:
            return self
        rows = np.fromiter(reasons, np.int64, len(reasons))
        dropped = Counter(self.dropped)
        before = np.max(np.stack(self.places), axis=0) >= 0
        dropped.update(why for row, why in reasons.items() if before[row])
        places = []
        for place in self.places:
            changed = place.copy()
            changed[rows] = -1
            places.append(changed)
        return Pool(
            self.ids,
            self.rows,
            self.buckets,
            tuple(places),
            self.shown,
            dict(sorted(dropped.items())),
        )


def pool_of(
    table: pa.Table,
    config: DataConfig,
    *,
    excluded: npt.NDArray[np.object_] | None = None,
    where: str = "the index",
) -> Pool:
    """The training samples of an index.

    Args:
        table: columns :data:`COLUMNS`, a row per sample.
        config: sizes, mixture, phases.
        excluded: per row None or the reason why a list keeps it out.
        where: names the index in errors.

    Raises:
        ModelError: nothing is left, and the message counts the reasons; or two rows have one id.
    """
    n = table.num_rows
    _once(table["sample_id"], where)
    stages = config.stages()
    pair_type = table["pair_type"].combine_chunks().dictionary_encode()
    kinds = [str(k) for k in pair_type.dictionary.to_pylist()]
    kind = pair_type.indices.to_numpy(zero_copy_only=False)
    texts, reason = [""], np.zeros(n, np.int32)

    def rule(why: str, applies: npt.NDArray[np.bool_]) -> None:
        reason[(reason == 0) & applies] = len(texts)
        texts.append(why)

    rule("held out", _numbers(table, "heldout").astype(np.bool_))
    for split in pc.unique(table["split"]).to_pylist():
        if split != "train":
            rule(f"split {split}", pc.equal(table["split"], split).to_numpy(zero_copy_only=False))
    asked = {source for stage in stages for source in stage.mix}
    for number, name in enumerate(kinds):
        if name not in asked:
            rule(f"pair type {name} not in data.mix", kind == number)
    usable = reason == 0
    shown = np.minimum(_numbers(table, "references"), config.max_references).astype(np.int8)
    names: dict[Bucket, int] = {}
    places = []
    why = np.zeros(n, np.int64)
    at = np.flatnonzero(usable)
    # Millions of clips have thousands of shapes: each is fitted once.
    columns = [_numbers(table, c)[at] for c in ("frames", "fps", "height", "width")]
    (frames, fps, height, width), shape = _distinct(columns)
    shapes = Shapes(frames, fps, height, width)
    for stage in stages:
        fits = fit(shapes, stage.sizes, rate=config.fps, max_enlarge=config.max_enlarge)
        place = np.full(n, -1, np.int16)
        place[at] = _numbered(fits.size[shape], fits.sizes, shown[at], config, names)
        why[at] = fits.reasons[shape]
        for number, name in enumerate(kinds):
            if name not in stage.mix:
                place[(kind == number)] = -1
        places.append(place)
    somewhere = np.max(np.stack(places), axis=0) >= 0
    for number, text in enumerate(REASONS[1:], 1):
        rule(text, usable & ~somewhere & (why == number))
    rows = _sorted_rows(table["sample_id"], kind, kinds, somewhere)
    if excluded is not None:
        listed = np.array([x is not None for x in excluded], np.bool_)
        for text in sorted({str(x) for x in excluded[listed & somewhere]}):
            rule(text, somewhere & (excluded == text))
        places = [np.where(listed, np.int16(-1), place) for place in places]
    how_many = np.bincount(reason, minlength=len(texts)).tolist()
    dropped = dict(sorted((t, k) for t, k in zip(texts, how_many, strict=True) if t and k))
    ids = table["sample_id"].combine_chunks()
    pool = Pool(ids, rows, tuple(names), tuple(places), shown, dropped)
    some_left(pool, where)
    return pool


def some_left(pool: Pool, where: str) -> None:
    """Refuse a pool that no phase can draw a sample from.

    Raises:
        ModelError: with the reasons, counted, and what may be changed about them.
    """
    if not pool.size:
        raise ModelError(
            f"{where}: no sample for train among {len(pool.ids)}: {counted(pool.dropped)}"
        )


#: What lets samples in that were left out, by how the reason begins.
_WAYS_OUT = (
    (REASONS[1], "fewer data.frames (or in data.sizes) or a higher data.fps"),
    (REASONS[2], "smaller data.sizes or a larger data.max_enlarge"),
    ("pair type", "more pair types in data.mix"),
    ("excluded", "shorter lists in data.exclusions"),
    ("split", "other shares in `s2v-data select`"),
    ("held out", "a smaller select.split.heldout_share in `s2v-data select`"),
    ("not held out", "a larger select.split.heldout_share in `s2v-data select`"),
)


def counted(dropped: Mapping[str, int]) -> str:
    """Reasons for which samples were left out, with their numbers, and the way out of the first."""
    if not dropped:
        return "the index is empty; write the shards first: `s2v-data run`"
    said = ", ".join(f"{count} {text}" for text, count in sorted(dropped.items()))
    most = max(sorted(dropped), key=lambda text: dropped[text])
    way = next((way for begin, way in _WAYS_OUT if most.startswith(begin)), None)
    return f"{said}; {way} would let some in" if way else said


def _once(ids: pa.ChunkedArray, where: str) -> None:
    """Refuse ids that stand in two rows: what was made of one would be taken for the other."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = pc.value_counts(ids)
    twice = counted.filter(pc.greater(counted.field("counts"), 1))
    raise ModelError(
        f"{where}: {len(twice)} sample ids stand in more rows than one, the first is "
        f"{twice[0]['values']}; write the shards anew, or train on folders that share no sample"
    )


def _distinct(
    columns: Sequence[npt.NDArray[np.generic]],
) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.intp]]:
    """The distinct rows of some columns, and which of them each row is."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, at = np.unique(column, return_inverse=True)
        code = code * len(values) + at
        # Kept small, so that no product of counts overflows.
        code = np.unique(code, return_inverse=True)[1]
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return [column[first] for column in columns], which


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.generic]:
    return np.asarray(table[name].to_numpy())


def _numbered(
    size: Ints,
    sizes: Sequence[tuple[int, int, int]],
    shown: npt.NDArray[np.int8],
    config: DataConfig,
    names: dict[Bucket, int],
) -> Ints:
    """Place of each row's bucket in ``names``, which grows by the new ones in sorted order."""
    references = (
        shown.astype(np.int64)
        if config.group_references
        else np.full(len(shown), config.max_references, np.int64)
    )
    span = config.max_references + 1
    code = np.where(size >= 0, size * span + references, -1)
    out = np.full(len(size), -1, np.int64)
    found = {}
    for c in (int(c) for c in np.unique(code) if c >= 0):
        frames, height, width = sizes[c // span]
        found[c] = Bucket(frames, height, width, c % span)
    for c, bucket in sorted(found.items(), key=lambda item: item[1]):
        out[code == c] = names.setdefault(bucket, len(names))
    return out


def _sorted_rows(
    ids: pa.ChunkedArray,
    kind: npt.NDArray[np.generic],
    kinds: Sequence[str],
    here: npt.NDArray[np.bool_],
) -> dict[str, Ints]:
    """Per pair type its rows in order of their ids."""
    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    found = {}
    for number, name in enumerate(kinds):
        rows = order[(kind[order] == number) & here[order]]
        if len(rows):
            found[name] = rows
    return dict(sorted(found.items()))
