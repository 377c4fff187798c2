"""Which pairs are looked at: a stratified sample that the seed and the pairs alone decide."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from s2v.datapipe.audit.estimate import Stratum
from s2v.datapipe.audit.pairs import Pair
from s2v.datapipe.base import ids
from s2v.datapipe.pair.unionfind import UnionFind

MIN_SOURCES = 10  # fewer sources say too little about how sources differ


@dataclass(frozen=True)
class Drawn:
    """A sample of pairs.

    Attributes:
        pairs: by id.
        population: pairs of each stratum, drawn or not.
    """

    pairs: list[Pair]
    population: dict[Stratum, int]

    def weight(self, pair: Pair) -> float:
        """How many pairs of the population it stands for."""
        return self.population[pair.stratum] / self._drawn[pair.stratum]

    @cached_property
    def _drawn(self) -> Counter[Stratum]:
        return Counter(pair.stratum for pair in self.pairs)


def draw(pairs: Sequence[Pair], count: int, seed: int) -> Drawn:
    """Draw ``count`` pairs, some of every class and scenario.

    A stratum's part grows with the root of its size, between as many of each, which compares
    classes best, and as many as there are, which estimates the whole best (Bankier 1988).
    Inside a stratum the pairs with the smallest hashes of seed and id are taken: no order of the
    tables matters, and a larger sample holds the smaller one's pairs, so labels stay of use.

    Args:
        pairs: the population.
        count: pairs wanted; all are taken when there are no more.
        seed: another seed, another sample.
    """
    strata: dict[Stratum, list[Pair]] = defaultdict(list)
    for pair in pairs:
        strata[pair.stratum].append(pair)
    sizes = {stratum: len(members) for stratum, members in sorted(strata.items())}
    chosen = []
    for stratum, part in allocate(sizes, count).items():
        ordered = sorted(
            strata[stratum], key=lambda pair: ids.stable_hash([str(seed), pair.pair_id])
        )
        chosen += ordered[:part]
    return Drawn(sorted(chosen, key=lambda pair: pair.pair_id), sizes)


def allocate(sizes: Mapping[Stratum, int], count: int) -> dict[Stratum, int]:
    """How many of each stratum, by the root of its size; never more than it has.

    With ``count`` at least the number of strata each gets one.
    """
    given = dict.fromkeys(sizes, 0)
    for _ in range(min(count, sum(sizes.values()))):
        # The next pair goes where the most are due for each that was given (Hill's method).
        open_ = [stratum for stratum in sizes if given[stratum] < sizes[stratum]]
        given[max(open_, key=lambda s: (_due(sizes[s], given[s]), sizes[s]))] += 1
    return given


def _due(size: int, given: int) -> float:
    return math.inf if given == 0 else math.sqrt(size) / math.sqrt(given * (given + 1))


@dataclass(frozen=True)
class Ties:
    """What pairs have in common, and so get wrong together.

    Attributes:
        units: pair id to its units, as many for each pair.
        by: ``source`` where a pair's unit is its long video, ``subject`` where its two subjects
            are.
        sources: long videos, those that a pair ties together counted once.
    """

    units: dict[str, frozenset[str]]
    by: str
    sources: int


def ties(pairs: Sequence[Pair]) -> Ties:
    """What the pairs of a sample share: a source, where there are enough of them, or a subject.

    With few sources nothing can be said about others, and the interval is of these alone.
    """
    films = UnionFind()
    for pair in pairs:
        sides = pair.target.subject, pair.reference.subject
        films.union(*(side["long_video_id"] for side in sides))
    count = len(films.groups())
    units = {}
    for pair in pairs:
        sides = pair.target.subject, pair.reference.subject
        if count >= MIN_SOURCES:
            units[pair.pair_id] = frozenset([films.find(sides[0]["long_video_id"])])
        else:
            units[pair.pair_id] = frozenset(side["subject_id"] for side in sides)
    return Ties(units, "source" if count >= MIN_SOURCES else "subject", count)


def sizes_by_kind(population: Mapping[Stratum, int]) -> dict[str, int]:
    """Pairs of each class."""
    found: Counter[str] = Counter()
    for (kind, _), size in population.items():
        found[kind] += size
    return dict(sorted(found.items()))
