"""Which sample goes into which shard.

A shard is a stable hash of the sample's source video modulo the number of shards of its
pair type. The first write records that number; later writes keep to it, so that a takedown
or a changed threshold touches few shards.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.samples import shard_name
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.write.errors import WriteError

LAYOUT_FILE: Final = "index/layout.json"
LAYOUT: Final = "s2v-shards-1"
PAIR_TYPES: Final = ("in", "cross", "image")


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its file name and its rows of table ``samples``, sorted by id."""

    name: str
    samples: tuple[Row, ...]


def plan_shards(samples: Iterable[Row], counts: ShardCounts) -> list[ShardPlan]:
    """Deal samples to shards; shards without samples are not written.

    Args:
        samples: rows of table ``samples``; their ``shard`` column is not used.
        counts: the recorded numbers of shards.

    Returns:
        Plans by pair type (``in``, ``cross``, ``image``), then name.
    """
    dealt: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in samples:
        name = shard_name(row["pair_type"], row["video_id"], counts.of(row["pair_type"]))
        dealt[PAIR_TYPES.index(row["pair_type"]), name].append(row)
    return [
        ShardPlan(name, tuple(sorted(rows, key=lambda row: str(row["sample_id"]))))
        for (_, name), rows in sorted(dealt.items())
    ]


def recorded_counts(folder: Path) -> ShardCounts | None:
    """Numbers of shards recorded by the first write, ``None`` before it.

    Raises:
        WriteError: the record cannot be read.
    """
    path = folder / LAYOUT_FILE
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != LAYOUT:
            raise ValueError(f"schema {data['schema']!r} is not {LAYOUT!r}")
        return ShardCounts.model_validate(data["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise WriteError(
            f"{path}: unreadable ({error}); write into an empty folder, or delete this one"
        ) from None


def layout(counts: ShardCounts) -> dict[str, object]:
    """What ``index/layout.json`` says."""
    return {"schema": LAYOUT, "shards": counts.model_dump(by_alias=True)}
