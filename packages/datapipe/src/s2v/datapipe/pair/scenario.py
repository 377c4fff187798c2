"""Scenarios: what kinds of subjects a sample combines (Phantom, section 3.1, 8).

The paper segments its pairs into people, animals, objects, backgrounds "and more", then into
interactions (multi-person, human-pet, human-object), and tops up missing types such as try-on.
Here a sample's scenario follows from the classes of its references alone: every combination has
exactly one name, and a name never changes with what else is in the corpus.

- One reference: ``single-`` and its class.
- Several of one group: ``multi-`` and the class they share, or the group; people are
  ``multi-person``.
- Several groups: their names in the order of :data:`GROUPS`, joined by ``-``; a person with an
  animal is ``human-pet``, with clothes ``try-on``, as the paper calls them.

Groups are the classes, except that products and other things are both objects as soon as
somebody stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Final

from s2v.datapipe.roles import CLASSES

#: Group -> its classes, in the order they are named in.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "human": ("human",),
    "ip-character": ("ip_character",),
    "animal": ("animal",),
    "clothes": ("clothes",),
    "object": ("product", "other"),
    "landmark": ("landmark",),
}
_GROUP_OF: Final = {name: group for group, names in GROUPS.items() for name in names}
#: What one class is called when nothing else is there.
_ALONE: Final = {name: name.replace("_", "-") for name in CLASSES} | {"other": "object"}
#: Combinations with a name of their own.
_NAMED: Final[dict[tuple[str, ...], str]] = {
    ("human", "animal"): "human-pet",
    ("human", "clothes"): "try-on",
}
_SEVERAL: Final = {"human": "person"}
NONE: Final = "none"  # a text-to-video sample has no references


def scenario(classes: Iterable[str]) -> str:
    """Name the scenario of a sample by the classes of its references, in any order.

    Raises:
        ValueError: an unknown class.
    """
    listed = sorted(classes)
    if unknown := [name for name in listed if name not in _GROUP_OF]:
        raise ValueError(f"{unknown[0]!r} is no class of subjects; they are {CLASSES}")
    present = tuple(g for g, names in GROUPS.items() if any(name in names for name in listed))
    if not present:
        return NONE
    if len(present) > 1:
        return _NAMED.get(present, "-".join(present))
    shared = _ALONE[listed[0]] if len(set(listed)) == 1 else present[0]
    return f"single-{shared}" if len(listed) == 1 else f"multi-{_SEVERAL.get(shared, shared)}"


def scenarios() -> tuple[str, ...]:
    """Every name there is, sorted; a quota may ask for these only."""
    names = {NONE} | {scenario([c]) for c in CLASSES} | {scenario([c, c]) for c in CLASSES}
    names.add(scenario(("product", "other")))
    for count in range(2, len(GROUPS) + 1):
        for groups in combinations(GROUPS, count):
            names.add(scenario(GROUPS[group][0] for group in groups))
    return tuple(sorted(names))
