"""Which sample goes into which shard; the rule is in :mod:`.layout`, its record in the folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from s2v.datapipe.base.shards import PairType, Part, kind_of
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.layout import Item, Layout

LAYOUT_FILE: Final = "index/layout.json"
SCHEMA: Final = "s2v-shards-3"
#: Knew no divisions; had samples of all parts in one shard, which the next write parts.
_OLDER_SCHEMAS: Final = ("s2v-shards-1", "s2v-shards-2")
PAIR_TYPES: Final = get_args(PairType)
PARTS: Final = get_args(Part)


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its file name and its rows of table ``samples``, sorted by id."""

    name: str
    samples: tuple[Row, ...]


def plan_shards(
    samples: Iterable[Row], layout: Layout, sizes: Mapping[str, int] | None = None
) -> list[ShardPlan]:
    """Deal samples to shards; shards without samples are not written.

    Args:
        samples: rows of table ``samples``; their ``shard`` column, the first key, is not used.
        layout: the recorded layout.
        sizes: bytes by sample, where they are known; they do not change the plan.

    Returns:
        Plans by pair type (``in``, ``cross``, ``image``), part, then number.
    """
    rows = {str(row["sample_id"]): row for row in samples}
    placed = layout.place(items(rows.values(), sizes or {}))
    return [
        ShardPlan(f"{kind}-{number:06d}.tar", tuple(rows[one.sample_id] for one in inside))
        for (kind, number), inside in sorted(
            placed.items(), key=lambda entry: (*_rank(entry[0][0]), entry[0][1])
        )
    ]


def _rank(kind: str) -> tuple[int, int]:
    pair_type, _, part = kind.partition("-")
    return PAIR_TYPES.index(pair_type), PARTS.index(part or "train")


def items(samples: Iterable[Row], sizes: Mapping[str, int]) -> list[Item]:
    """Samples as the layout sees them; an unknown size is 0."""
    return [
        Item(
            sample_id=str(row["sample_id"]),
            kind=kind_of(row["pair_type"], row["split"], row["heldout"]),
            video_id=row["video_id"],
            clip_id=row["clip_id"],
            bytes=sizes.get(str(row["sample_id"]), 0),
        )
        for row in samples
    ]


def recorded_layout(folder: Path) -> Layout | None:
    """The layout recorded by earlier writes, ``None`` before the first.

    Raises:
        WriteError: the record cannot be read.
    """
    path = folder / LAYOUT_FILE
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] not in (SCHEMA, *_OLDER_SCHEMAS):
            raise ValueError(f"schema {data['schema']!r} is neither {SCHEMA!r} nor an older one")
        return Layout(counts=data["shards"], divisions=data.get("divisions", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise WriteError(
            f"{path}: unreadable ({error}); write into an empty folder, or delete this one"
        ) from None


def as_record(layout: Layout) -> dict[str, Any]:
    """What ``index/layout.json`` says."""
    return {
        "schema": SCHEMA,
        "shards": layout.counts.model_dump(by_alias=True),
        "divisions": {
            kind: [d.model_dump() for d in made] for kind, made in layout.divisions.items()
        },
    }
