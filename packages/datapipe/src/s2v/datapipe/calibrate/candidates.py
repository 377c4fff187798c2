"""Bounds, the pairs they decide on, and the strata that pairs are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

Row = dict[str, Any]
Key = tuple[str, str]
#: Guarded or not, the step of the score, the class.
Cell = tuple[bool, int, str]

FACE: Final = "face"
#: Width of the score strata. They do not depend on the bounds in force, so labels outlive them.
STRATUM: Final = 0.05


@dataclass(frozen=True)
class Bound:
    """A pair of bounds: on which column of table ``pairs``, and where they are configured.

    Attributes:
        name: a bank's name, ``face``, or a bank's class, such as ``thing.clothes``.
        section: of the configuration; its keys are ``lower`` and ``upper``.
        lower, upper: in force in the run.
        embedder: whose cosine it is.
    """

    name: str
    section: tuple[str, ...]
    lower: float
    upper: float
    embedder: str

    @property
    def column(self) -> str:
        """The score's column of table ``pairs``."""
        return "face_similarity" if self.name == FACE else "similarity"

    @property
    def bank(self) -> str:
        """Whose pairs it bounds."""
        return "person" if self.name == FACE else self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        """The class it is for; empty where it is for a whole bank."""
        return self.name.partition(".")[2]

    def of_class(self, kind: str) -> Bound:
        """The same for one class of the bank."""
        section = (*self.section, "classes", kind)
        return replace(self, name=f"{self.name}.{kind}", section=section)


@dataclass(frozen=True)
class Candidate:
    """Two subjects that were compared.

    Attributes:
        target, reference: subject ids, as in the first of their rows.
        score: cosine.
        clips: of both.
        guards: rules against copying that it fails, the bound's own left out.
        kind: class of both subjects; empty where they differ or nobody says.
    """

    target: str
    reference: str
    score: float
    clips: tuple[str, str]
    guards: tuple[str, ...]
    kind: str = ""

    @property
    def key(self) -> Key:
        """The same for both orders."""
        return ordered(self.target, self.reference)

    @property
    def cell(self) -> Cell:
        """Its stratum: guarded or not, the step of the score, the class."""
        return bool(self.guards), int(self.score // STRATUM), self.kind


@dataclass(frozen=True)
class Pool:
    """The pairs of one bound.

    Attributes:
        bound: what decides on them.
        candidates: by falling score, then id; of a large stratum a part drawn by lot.
        sizes: how many pairs each stratum has; counted from ``candidates`` where not given.
    """

    bound: Bound
    candidates: tuple[Candidate, ...]
    sizes: Mapping[Cell, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count the strata."""
        if not self.sizes:
            object.__setattr__(self, "sizes", dict(Counter(c.cell for c in self.candidates)))

    @property
    def count(self) -> int:
        """Of all pairs."""
        return sum(self.sizes.values())

    @property
    def guarded(self) -> int:
        """Of pairs that another rule refuses as copies."""
        return sum(n for (guarded, *_), n in self.sizes.items() if guarded)

    @property
    def kinds(self) -> list[str]:
        """Classes of its pairs; the empty one of those whose subjects have no class in common."""
        return sorted({kind for *_, kind in self.sizes})

    def of_class(self, kind: str) -> Pool:
        """The pairs of one class alone."""
        return Pool(
            self.bound if self.bound.kind == kind else self.bound.of_class(kind),
            tuple(one for one in self.candidates if one.kind == kind),
            {cell: size for cell, size in self.sizes.items() if cell[2] == kind},
        )


def ordered(a: str, b: str) -> Key:
    """A pair of ids, the same for both orders."""
    return (a, b) if a <= b else (b, a)
