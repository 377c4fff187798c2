"""The recorded layout: which shard a sample belongs to, and how a shard that is full is divided.

The first key is a stable hash of the sample's source modulo the number of shards recorded by
the first write. A shard that would pass its size is divided in two; the division is recorded
and replayed by every later write. So a sample's shard depends on the sample and on the record
alone: taking samples away moves none, adding some moves about half of each shard that got full.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.base import ids
from s2v.datapipe.pair.settings import ShardCounts

#: Of a tar besides its members: the two closing blocks, filled up to a record.
TAR_END: Final = 10_240
_SALTS: Final = 16
_EVEN_ENOUGH: Final = 0.75


@dataclass(frozen=True)
class Item:
    """What a sample's place depends on, and the bytes that it takes in a tar.

    ``kind`` is what shards are named by: the pair type, with the part where that is not "train".
    """

    sample_id: str
    kind: str
    video_id: str
    clip_id: str
    bytes: int


class Division(BaseModel):
    """Shard ``shard`` was full; a part of its samples went ``into`` a new one.

    Whole sources go as long as there is more than one. The clips of one source are parted only
    where it fills a shard alone; it is named by a hash, so that no id outlives a takedown here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shard: int = Field(ge=0)
    into: int = Field(gt=0)
    by: Literal["source", "clip"]
    salt: int = Field(ge=0)
    source: str = ""  # hash of the one whose clips are parted

    def moves(self, item: Item) -> bool:
        """Whether a sample of ``shard`` goes into the new one."""
        if self.by == "source":
            return _bit(item.video_id, self.salt)
        return self.source == _name(item.video_id) and _bit(item.clip_id, self.salt)


def _bit(key: str, salt: int) -> bool:
    return ids.stable_hash(["divide", str(salt), key], 1) < "8"


def _name(video_id: str) -> str:
    return ids.stable_hash(["source", video_id], 16)


class Layout(BaseModel):
    """Numbers of shards by pair type, and every division since.

    Shards of the parts ``val`` and ``test`` begin as one of each kind: they are few.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    counts: ShardCounts
    divisions: dict[str, tuple[Division, ...]] = {}

    @model_validator(mode="after")
    def _in_order(self) -> Layout:
        for kind, divisions in self.divisions.items():
            first = self._first(kind)
            if [d.into for d in divisions] != list(range(first, first + len(divisions))) or any(
                d.shard >= d.into for d in divisions
            ):
                raise ValueError(f"divisions of {kind!r} are not in the order they were made")
        return self

    def _first(self, kind: str) -> int:
        """Shards of a kind before any division."""
        return 1 if "-" in kind else self.counts.of(kind)

    def place(self, items: Iterable[Item]) -> dict[tuple[str, int], list[Item]]:
        """Deal samples to ``(kind, number)``, each sorted by id."""
        of_shard: dict[tuple[str, int], list[Division]] = defaultdict(list)
        for kind, divisions in self.divisions.items():
            for division in divisions:
                of_shard[kind, division.shard].append(division)
        placed: dict[tuple[str, int], list[Item]] = defaultdict(list)
        for item in sorted(items, key=lambda one: one.sample_id):
            number = ids.bucket(item.video_id, self._first(item.kind))
            while moved := next((d for d in of_shard[item.kind, number] if d.moves(item)), None):
                number = moved.into
            placed[item.kind, number].append(item)
        return dict(placed)

    def grown(self, items: Iterable[Item], max_bytes: int) -> Layout:
        """Divide until every shard of more than one clip keeps to ``max_bytes``.

        Args:
            items: all samples with their sizes in a tar.
            max_bytes: of one tar file. A sample that is larger has a shard to itself.
        """
        shards = self.place(items)
        divisions = {kind: list(made) for kind, made in self.divisions.items()}
        full = [key for key, inside in shards.items() if _size(inside) > max_bytes]
        heapq.heapify(full)
        while full:
            kind, number = heapq.heappop(full)
            made = divisions.setdefault(kind, [])
            division = _divide(shards[kind, number], number, self._first(kind) + len(made))
            if division is None:
                continue
            made.append(division)
            inside = shards.pop((kind, number))
            shards[kind, number] = [one for one in inside if not division.moves(one)]
            shards[kind, division.into] = [one for one in inside if division.moves(one)]
            for key in ((kind, number), (kind, division.into)):
                if _size(shards[key]) > max_bytes:
                    heapq.heappush(full, key)
        return self.model_copy(
            update={"divisions": {kind: tuple(made) for kind, made in divisions.items() if made}}
        )


def _size(inside: Sequence[Item]) -> int:
    return sum(one.bytes for one in inside) + TAR_END


def _divide(inside: Sequence[Item], number: int, into: int) -> Division | None:
    """The first salt that parts a shard evenly enough, else the most even; ``None`` for one clip.

    One source is left whole while others can go, so that taking one down touches few shards.
    """
    sources = {one.video_id for one in inside}
    only = sources.pop() if len(sources) == 1 else None
    if only is not None and len({one.clip_id for one in inside}) == 1:
        return None
    whole = sum(one.bytes for one in inside)
    best: tuple[float, Division] | None = None
    for tried in count(1):
        division = Division(
            shard=number,
            into=into,
            by="source" if only is None else "clip",
            salt=into * _SALTS + tried,  # every division throws its own coins
            source="" if only is None else _name(only),
        )
        moved = [one.bytes for one in inside if division.moves(one)]
        if 0 < len(moved) < len(inside):
            share = max(sum(moved), whole - sum(moved)) / whole
            if best is None or share < best[0]:
                best = (share, division)
        if best and (tried >= _SALTS or best[0] <= _EVEN_ENOUGH):
            return best[1]
    return None
