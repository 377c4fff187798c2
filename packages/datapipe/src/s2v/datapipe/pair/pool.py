"""Subjects that a search may meet, as arrays by their position in table SUBJECTS."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base.stored import StoredTable
from s2v.datapipe.pair import columns
from s2v.datapipe.pair.columns import (
    Flags,
    Hashes,
    Ints,
    Places,
    SpooledColumn,
    VectorColumn,
    Vectors,
)
from s2v.datapipe.pair.rows import Tables
from s2v.datapipe.pair.settings import BANKS
from s2v.datapipe.pair.subjects import DUPLICATE


@dataclass(frozen=True)
class Pool:
    """Columns of table SUBJECTS; strings are codes, equal where the strings are.

    Attributes:
        table: table SUBJECTS, sorted by ``subject_id``.
        clips: all clip ids, sorted.
        duplicate_of: clip that was dropped as a duplicate to the one that stands for it.
    """

    table: pa.Table
    clips: pa.Array
    duplicate_of: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> pa.Array:
        """Subject ids."""
        return columns.whole(self.table["subject_id"])

    @cached_property
    def kept(self) -> Flags:
        """Fit to be searched with and found."""
        return ~columns.there(self.table["reason"])

    @cached_property
    def collapsed(self) -> Flags:
        """Fit, but of a clip that another one stands for."""
        same = pc.fill_null(pc.equal(self.table["reason"], DUPLICATE), False)
        return np.asarray(columns.whole(same).to_numpy(zero_copy_only=False), np.bool_)

    @cached_property
    def clip(self) -> Places:
        """Position in ``clips``."""
        return columns.positions(self.table["clip_id"], self.clips).astype(np.int32)

    @cached_property
    def content(self) -> Places:
        """Position in ``clips`` of the clip that stands for the subject's."""
        stands = np.arange(len(self.clips), dtype=np.int32)
        if self.duplicate_of:
            gone, stay = (
                columns.positions(pa.array(list(side)), self.clips)
                for side in (self.duplicate_of.keys(), self.duplicate_of.values())
            )
            stands[gone] = stay
        return np.asarray(stands[self.clip], np.int32)

    @cached_property
    def bank(self) -> Places:
        """Position in ``BANKS``, -1 for none of them."""
        return columns.positions(self.table["bank"], pa.array(BANKS)).astype(np.int32)

    @cached_property
    def embedder(self) -> Places:
        """Code of the subject embedder."""
        return columns.codes(self.table["embedder"])[0]

    @cached_property
    def face_embedder(self) -> Places:
        """Code of the face embedder, -1 without a usable face."""
        return columns.codes(self.table["face_embedder"])[0]

    @cached_property
    def video(self) -> Places:
        """Code of the file."""
        return columns.codes(self.table["video_id"])[0]

    @cached_property
    def long_video(self) -> Places:
        """Code of the long video."""
        return columns.codes(self.table["long_video_id"])[0]

    @cached_property
    def noun(self) -> Places:
        """Code of the head noun."""
        return columns.codes(self.table["noun"])[0]

    @cached_property
    def image(self) -> Flags:
        """Of a photograph."""
        found = pc.fill_null(pc.equal(self.table["kind"], "image"), False)
        return np.asarray(columns.whole(found).to_numpy(zero_copy_only=False), np.bool_)

    def number(self, column: str) -> Ints:
        """A column of whole numbers; -1 for null."""
        return columns.ints(self.table[column], -1)

    def hashes(self, column: str) -> tuple[Hashes, Flags]:
        """A column of perceptual hashes, and where there is one."""
        return columns.hashes(self.table[column])


class Bank:
    """Vectors of the subjects of a pool, taken from the measure tables when asked for."""

    def __init__(self, pool: Pool, tables: Tables) -> None:
        self._pool = pool
        self.tables = tables
        self._wanted = np.flatnonzero(pool.kept | pool.collapsed)
        self._columns: dict[tuple[str, str], VectorColumn | SpooledColumn] = {}

    @cached_property
    def _embedded(self) -> Ints:
        """Row of table ``embeddings`` by position."""
        found = np.full(len(self._pool), -1, np.int64)
        detections = self._pool.table["detection_id"].take(pa.array(self._wanted))
        found[self._wanted] = columns.positions(
            detections, self.tables["embeddings"]["detection_id"]
        )
        return found

    @cached_property
    def _faced(self) -> Ints:
        """Row of table ``faces`` by position, -1 without a usable face."""
        found = np.full(len(self._pool), -1, np.int64)
        mine = np.flatnonzero(self._pool.face_embedder >= 0)
        faces = self.tables.get("faces")
        if not len(mine) or faces is None:
            return found
        frame, known = columns.codes(faces["frame_id"])
        number = columns.ints(faces["face"], 0)
        span = int(number.max()) + 1
        keys = frame * span + number
        order = np.argsort(keys, kind="stable")
        subjects = self._pool.table.take(pa.array(mine))
        wanted = columns.positions(subjects["frame_id"], known) * span
        wanted += columns.ints(subjects["face"], 0)
        found[mine] = order[np.searchsorted(keys[order], wanted)]
        return found

    def subject(self, at: Ints) -> Vectors:
        """Subject embeddings, ``[n, d]``."""
        return self._column("embeddings", "subject").take(self._embedded[at])

    def background(self, at: Ints) -> Vectors:
        """Embeddings of what is around the subjects, ``[n, d]``."""
        return self._column("embeddings", "background").take(self._embedded[at])

    def face(self, at: Ints) -> Vectors:
        """Face embeddings, ``[n, d]``."""
        return self._column("faces", "embedding").take(self._faced[at])

    def _column(self, table: str, name: str) -> VectorColumn | SpooledColumn:
        if (table, name) not in self._columns:
            self._columns[table, name] = self._opened(table, name)
        return self._columns[table, name]

    def _opened(self, table: str, name: str) -> VectorColumn | SpooledColumn:
        rows = self.tables[table]
        if not isinstance(rows, StoredTable):
            return VectorColumn(rows[name])
        if table == "faces":
            mine = self._faced[self._faced >= 0]
        elif name == "background":
            mine = self._embedded[self.has_background]
        else:
            mine = self._embedded[self._wanted]
        return SpooledColumn(rows, name, np.unique(mine))

    @cached_property
    def has_background(self) -> Flags:
        """By position: there is an embedding of the background."""
        found = np.zeros(len(self._pool), np.bool_)
        table = self.tables["embeddings"]
        if isinstance(table, StoredTable):
            there = table.valid("background")
        else:
            there = columns.there(table["background"])
        found[self._wanted] = there[self._embedded[self._wanted]]
        return found
