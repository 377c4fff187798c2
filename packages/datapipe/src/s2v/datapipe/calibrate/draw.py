"""Which pairs to label: some from every step of the score, most around and between the bounds.

Drawn by chance they would nearly all be plainly different ones, and say nothing about a bound.
What that does to the shares is undone by weights (:func:`weights`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.calibrate.candidates import STRATUM, Bound, Candidate, Cell, Pool
from s2v.datapipe.calibrate.statistics import Floats

_ACCEPTED: Final = 3  # times as many from the steps around and between the bounds
_FAR_COPY: Final = 0.25  # of pairs that another rule refuses as copies and that are not alike


def draw(pool: Pool, count: int, seed: int = 0) -> list[Candidate]:
    """``count`` pairs of each class of a pool (all, if fewer), in an order that tells nothing.

    Each stratum gives its share or all it has; what it lacks goes to the others. Inside a
    stratum and in the final order pairs stand by a hash of the seed and their ids, so the same
    seed draws the same pairs, and a larger ``count`` draws these and more.
    """
    cells: dict[Cell, list[Candidate]] = defaultdict(list)
    for one in pool.candidates:
        cells[one.cell].append(one)
    for members in cells.values():
        members.sort(key=lambda c: (_chance(seed, "draw", c), c.key))
    chosen = []
    for kind in pool.kinds:
        there = {cell: len(members) for cell, members in cells.items() if cell[2] == kind}
        for cell, n in shares(there, pool.bound, count).items():
            chosen += cells[cell][:n]
    return sorted(chosen, key=lambda c: (_chance(seed, "show", c), c.key))


def shares(sizes: dict[Cell, int], bound: Bound, count: int) -> dict[Cell, int]:
    """How many pairs of each stratum: one by one to the stratum that is furthest behind."""
    half = STRATUM / 2
    first, last = (int(v // STRATUM) for v in (bound.lower - half, bound.upper + half))

    def weight(cell: Cell) -> float:
        guarded, step, _ = cell
        near = first <= step <= last
        return (1 if near else _FAR_COPY) if guarded else (_ACCEPTED if near else 1)

    due = {cell: weight(cell) for cell in sizes}
    given = dict.fromkeys(sorted(sizes), 0)
    for _ in range(min(count, sum(sizes.values()))):
        open_ = [cell for cell in given if given[cell] < sizes[cell]]
        given[min(open_, key=lambda c: ((given[c] + 1) / due[c], -c[1], c[0], c[2]))] += 1
    return given


def weights(labelled: Sequence[Candidate], sizes: Mapping[Cell, int]) -> Floats:
    """``[n]``: how many pairs each labelled pair stands for, itself included.

    Those of its stratum. Where a step has no label in one class, that class's pairs are spread
    over the labelled ones of the same step, as strata that are empty are joined with their like.
    """
    seen = Counter(one.cell for one in labelled)
    all_of, known = Counter[tuple[bool, int]](), Counter[tuple[bool, int]]()
    for cell, size in sizes.items():
        all_of[cell[:2]] += size
        if seen[cell]:
            known[cell[:2]] += size
    return np.array(
        [
            sizes[one.cell] / seen[one.cell] * all_of[one.cell[:2]] / known[one.cell[:2]]
            for one in labelled
        ],
        np.float64,
    )


def unseen(labelled: Sequence[Candidate], sizes: Mapping[Cell, int]) -> dict[tuple[bool, int], int]:
    """Steps, guarded or not, of which no pair is labelled, and how many pairs they have."""
    seen = {one.cell[:2] for one in labelled}
    found = Counter[tuple[bool, int]]()
    for cell, size in sizes.items():
        if cell[:2] not in seen:
            found[cell[:2]] += size
    return dict(sorted(found.items()))


def _chance(seed: int, what: str, one: Candidate) -> str:
    return stable_hash([str(seed), what, *one.key])
