"""The candidates of one bound in bounded memory, however many rows table ``pairs`` has.

Of a stratum at most :data:`MOST` pairs are kept, those whose hash is smallest: as good as drawn by
lot, the same whatever the order of the rows, and both rows of a pair meet in one. Their number is
counted up to that, and beyond it estimated from how far apart the hashes lie (the k minimum
values of Bar-Yossef et al. 2002), within two per cent.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.calibrate.candidates import Bound, Candidate, Cell, Key, Pool

MOST: Final = 4096
_DIGITS: Final = 13  # hex digits of a hash: 52 bits, what a float holds


@dataclass
class _Stratum:
    """Pairs by hash; those at or beyond ``below`` were thrown out."""

    kept: dict[Key, float] = field(default_factory=dict)
    below: float = 1.0

    def thin(self, most: int) -> None:
        """Keep the ``most`` smallest hashes."""
        if len(self.kept) > most:
            smallest = heapq.nsmallest(most + 1, ((h, key) for key, h in self.kept.items()))
            self.below = smallest[-1][0]
            self.kept = {key: h for h, key in smallest[:-1]}

    def size(self) -> int:
        """How many there were."""
        return len(self.kept) if self.below == 1.0 else round(len(self.kept) / self.below)


class Collector:
    """Takes candidates one by one, some of them twice, and makes a pool of them."""

    def __init__(self, bound: Bound, keep: Collection[Key], most: int = MOST) -> None:
        self.bound = bound
        self._keep = keep
        self._most = most
        self._found: dict[Key, Candidate] = {}
        self._strata: dict[Cell, _Stratum] = {}

    def add(self, one: Candidate) -> None:
        """Take a pair; a rule that fails in one of its orders fails the pair."""
        key = one.key
        before = self._found.get(key)
        if before is not None:
            if set(one.guards) <= set(before.guards):
                return
            one = replace(before, guards=tuple(sorted({*before.guards, *one.guards})))
            self._strata[before.cell].kept.pop(key, None)
        stratum = self._strata.setdefault(one.cell, _Stratum())
        chance = int(stable_hash(key, _DIGITS), 16) / 16**_DIGITS
        if chance < stratum.below:
            stratum.kept[key] = chance
            self._found[key] = one
            if len(stratum.kept) > 2 * self._most:
                self._thin(stratum)
        elif key in self._keep:
            self._found[key] = one

    def _thin(self, stratum: _Stratum) -> None:
        before = stratum.kept.keys()
        stratum.thin(self._most)
        for key in before - stratum.kept.keys():
            if key not in self._keep:
                del self._found[key]

    def pool(self) -> Pool | None:
        """What was taken; ``None`` of nothing."""
        for stratum in self._strata.values():
            self._thin(stratum)
        sizes = {cell: one.size() for cell, one in sorted(self._strata.items()) if one.kept}
        if not sizes:
            return None
        found = sorted(self._found.values(), key=lambda c: (-c.score, c.key))
        return Pool(self.bound, tuple(found), sizes)
