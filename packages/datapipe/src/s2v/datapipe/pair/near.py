"""All pairs of 64-bit hashes within a few bits of each other, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet 2012): cut into four bands of 16 bits, two hashes
that differ by at most ``r`` bits agree in some band to ``r // 4`` bits, so only hashes whose
bands are that near are compared. With ``a = r mod 4`` it is enough to look one bit less far in
all but the first ``a + 1`` bands: were they all off by more, the sum would pass ``r``. The answer
is exact, the same as that of comparing all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Index = npt.NDArray[np.int64]

_BANDS: Final = 4
_BITS: Final = 16
_BLOCK: Final = 1 << 20  # pairs compared at once where all are


def near_pairs(first: Hashes, second: Hashes | None, bits: int) -> tuple[Index, Index]:
    """Pairs ``(i, j)`` with at most ``bits`` differing bits.

    Args:
        first: ``[n]``.
        second: ``[m]``; ``None`` for pairs of ``first`` with itself, of which ``i < j`` is given.
        bits: 0 to 64.

    Returns:
        ``i`` and ``j``, sorted by ``i``, then ``j``; each pair once.
    """
    other = first if second is None else second
    plain = _probes(bits) > max(len(first), len(other))
    found = list(_plain(first, other, bits) if plain else _banded(first, second, bits))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    i, j = (np.concatenate(side) for side in zip(*found, strict=True))
    if second is None:
        i, j = np.minimum(i, j), np.maximum(i, j)
        i, j = i[i < j], j[i < j]
    order = np.lexsort((j, i))
    i, j = i[order], j[order]
    fresh = np.ones(len(i), np.bool_)  # a pair may agree in several bands
    fresh[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    return i[fresh], j[fresh]


def _plain(first: Hashes, second: Hashes, bits: int) -> Iterator[tuple[Index, Index]]:
    """All with all, for few hashes or many bits."""
    step = max(1, _BLOCK // max(len(second), 1))
    for at in range(0, len(first), step):
        i, j = np.nonzero(np.bitwise_count(first[at : at + step, None] ^ second[None]) <= bits)
        yield i + at, j


def _radius(band: int, bits: int) -> int:
    """How far to look in a band; negative: not at all."""
    whole, rest = divmod(bits, _BANDS)
    return whole if band <= rest else whole - 1


@cache
def _masks(radius: int) -> tuple[int, ...]:
    """All patterns of at most ``radius`` bits of a band."""
    return tuple(
        sum(1 << bit for bit in chosen)
        for count in range(radius + 1)
        for chosen in combinations(range(_BITS), count)
    )


def _probes(bits: int) -> int:
    """Look-ups per hash."""
    return sum(len(_masks(_radius(band, bits))) for band in range(_BANDS))


def _banded(first: Hashes, second: Hashes | None, bits: int) -> Iterator[tuple[Index, Index]]:
    for band in range(_BANDS):
        one = _Sorted(first, band)
        other = one if second is None else _Sorted(second, band)
        for mask in _masks(_radius(band, bits)):
            yield from one.meet(other, mask, bits)


class _Sorted:
    """Hashes in order of one band, and where each value of it begins."""

    def __init__(self, hashes: Hashes, band: int) -> None:
        keys = (hashes >> np.uint64(_BITS * band)).astype(np.uint16)
        self.order: Index = np.argsort(keys, kind="stable").astype(np.int64)
        self.keys = keys[self.order]
        self.hashes = hashes[self.order]
        counts = np.bincount(keys, minlength=1 << _BITS)
        self.start: Index = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def meet(self, other: _Sorted, mask: int, bits: int) -> Iterator[tuple[Index, Index]]:
        """Near pairs among all whose bands differ in just ``mask``.

        Every hash walks through its partners one by one, all hashes at once.
        """
        partner = self.keys ^ np.uint16(mask)
        at, end = other.start[partner], other.start[partner.astype(np.int64) + 1]
        if other is self and mask == 0:
            at = np.arange(1, len(partner) + 1, dtype=np.int64)  # those behind it
        walking = at < end
        if other is self:
            walking &= self.keys <= partner  # or each pair of values would meet twice
        mine = np.flatnonzero(walking)
        at, end, hashes = at[mine], end[mine], self.hashes[mine]
        while len(mine):
            near = np.bitwise_count(hashes ^ other.hashes[at]) <= bits
            if near.any():
                yield self.order[mine[near]], other.order[at[near]]
            at = at + 1
            on = at < end
            if not on.all():
                mine, at, end, hashes = mine[on], at[on], end[on], hashes[on]
