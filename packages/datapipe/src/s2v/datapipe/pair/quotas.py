"""Quotas: how many samples of a kind are wanted, which are too many, which are missing.

Phantom (section 3.1, 8) tops up missing types such as try-on; Phantom-Data's figure 3 and its
ablation by subject type rest on such counts. Two kinds of keys are counted, per pair type:
scenarios, of which a sample has one, and classes, of which it has one or more.

Thinning goes through the samples from the best to the worst, by score, then id, twice. First
those are admitted that a minimum still waits for, then the others; neither is admitted where a
maximum of one of its keys is reached. So no maximum is ever exceeded, minima come before others
when there is a total, and the same samples give the same result in any order. With quotas on
scenarios alone a raised maximum keeps everything that was kept before; a class may lose a sample
when another class of that sample is full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from s2v.datapipe.pair.columns import Floats, Ints
from s2v.datapipe.pair.sample_rules import TypeQuotas

Key = tuple[str, str]  # ("scenario" | "class", name)
TOTAL_FULL: Final = "quota: total reached"

#: What was wanted and what was got, per pair type and key; every key that occurs has a row.
QUOTAS: Final = pa.schema(
    [
        pa.field("pair_type", pa.string()),
        pa.field("of", pa.string()),  # scenario | class | total
        pa.field("name", pa.string()),  # null for the total
        pa.field("made", pa.int64()),  # samples before quotas
        pa.field("least", pa.int64()),  # wanted at least, null where nothing is asked
        pa.field("most", pa.int64()),  # wanted at most
        pa.field("kept", pa.int64()),  # after quotas and topping up
        pa.field("topped_up", pa.int64()),  # of these, added by the second pass
        pa.field("missing", pa.int64()),  # wanted at least, less kept; 0 when it is met
        pa.field("subjects", pa.int64()),  # of a class: kept subjects that could be a target
        pa.field("paired", pa.int64()),  # of these, with an accepted pair (in-pairs: all)
    ]
)


@dataclass(frozen=True)
class Bounds:
    """What is wanted of one pair type, as numbers.

    Attributes:
        least: key to minimum.
        most: key to maximum.
        total: of all samples together.
    """

    least: Mapping[Key, int] = field(default_factory=dict)
    most: Mapping[Key, int] = field(default_factory=dict)
    total: int | None = None


def bounds(rules: TypeQuotas, made: int) -> Bounds:
    """Quotas as numbers; shares are of ``rules.total``, or of what was made.

    Args:
        rules: quotas of one pair type.
        made: how many samples of it there are.
    """
    whole = made if rules.total is None else rules.total
    least: dict[Key, int] = {}
    most: dict[Key, int] = {}
    for of, named in (("scenario", rules.scenarios), ("class", rules.classes)):
        for name, quota in sorted(named.items()):
            low, high = quota.min, quota.max
            if quota.share is not None:
                low = high = round(quota.share * whole)
            if low:
                least[of, name] = low
            if high is not None:
                most[of, name] = high
    return Bounds(least, most, rules.total)


class Counts:
    """How many samples of each key are in, and whether one more may come."""

    def __init__(self, wanted: Bounds) -> None:
        self.wanted = wanted
        self.of: Counter[Key] = Counter()
        self.total = 0

    def start(self, counted: Mapping[Key, int]) -> None:
        """Count what is in already; the total stands under ``("total", "")``."""
        self.of = Counter({key: n for key, n in counted.items() if key[0] != "total"})
        self.total = counted["total", ""]

    def full(self, keys: Iterable[Key]) -> str | None:
        """The first reason why a sample of these keys cannot be admitted, or ``None``."""
        most = self.wanted.most
        for key in keys:
            if key in most and self.of[key] >= most[key]:
                return f"quota: {key[0]} {key[1]} full"
        if self.wanted.total is not None and self.total >= self.wanted.total:
            return TOTAL_FULL
        return None

    def waited_for(self, keys: Iterable[Key]) -> bool:
        """Whether a minimum of one of the keys is not reached."""
        least = self.wanted.least
        return any(self.of[key] < least.get(key, 0) for key in keys)

    def add(self, keys: Iterable[Key]) -> None:
        """Count one more sample."""
        self.of.update(keys)
        self.total += 1

    def short(self) -> bool:
        """Whether any minimum is not reached."""
        return self.waited_for(self.wanted.least)


def thin(keys: Sequence[Sequence[Key]], order: Ints, wanted: Bounds) -> list[str | None]:
    """Why each sample is left out, ``None`` for those that stay.

    Args:
        keys: per sample its scenario and its classes.
        order: positions of the samples, best first.
        wanted: of :func:`bounds`.
    """
    counts = Counts(wanted)
    reasons: list[str | None] = [None] * len(keys)
    later: list[int] = order.tolist()
    if wanted.least:
        first, later = later, []
        for n in first:
            if counts.waited_for(keys[n]) and counts.full(keys[n]) is None:
                counts.add(keys[n])
            else:
                later.append(n)
    for n in later:
        reasons[n] = counts.full(keys[n])
        if reasons[n] is None:
            counts.add(keys[n])
    return reasons


def best_first(score: Floats, ids: Sequence[str]) -> Ints:
    """Positions by falling score; ties by id."""
    by_id = np.argsort(np.array(ids, np.str_), kind="stable")
    return np.asarray(by_id[np.argsort(-score[by_id], kind="stable")], np.int64)


def tally(
    pair_type: str,
    made: Counter[Key],
    kept: Counter[Key],
    added: Counter[Key],
    wanted: Bounds,
    subjects: Mapping[str, tuple[int, int]],
) -> pa.Table:
    """What was wanted and what was got of one pair type, as :data:`QUOTAS`.

    Args:
        pair_type: ``in``, ``cross`` or ``image``.
        made: samples per key before quotas; the total under ``("total", "")``.
        kept: after them.
        added: by the second pass.
        wanted: of :func:`bounds`.
        subjects: per class, how many subjects could be targets and how many were paired.
    """
    order = {"scenario": 0, "class": 1, "total": 2}
    names = {*made, *kept, *wanted.least, *wanted.most, ("total", "")}
    rows = []
    for key in sorted(names, key=lambda key: (order[key[0]], key[1])):
        of, name = key
        least = wanted.least.get(key)
        there = subjects.get(name) if of == "class" else None
        rows.append(
            {
                "pair_type": pair_type,
                "of": of,
                "name": name or None,
                "made": made[key],
                "least": least,
                "most": wanted.total if of == "total" else wanted.most.get(key),
                "kept": kept[key],
                "topped_up": added[key],
                "missing": max(0, (least or 0) - kept[key]),
                "subjects": there[0] if there else None,
                "paired": there[1] if there else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=QUOTAS)
