"""What labels imply: same is transitive, so labels can contradict one another, and carry over.

If A is B and B is C, then a label that says A is not C is wrong, or one of the others is. And the
subjects found to be one make groups: of two groups with a pair labelled different every pair is.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from s2v.datapipe.calibrate.candidates import Key
from s2v.datapipe.calibrate.labels import DIFFERENT, NEAR_COPY, SAME

_LINKS = (SAME, NEAR_COPY)


def contradictions(of: Mapping[Key, str]) -> list[tuple[Key, list[str]]]:
    """Pairs labelled different whose subjects are linked by labels that say same.

    Args:
        of: pair -> label.

    Returns:
        each such pair, and the shortest chain of subjects that says otherwise; sorted.
    """
    linked: dict[str, set[str]] = defaultdict(set)
    for (a, b), label in of.items():
        if label in _LINKS:
            linked[a].add(b)
            linked[b].add(a)
    group = groups(of)
    found = []
    for (a, b), label in sorted(of.items()):
        if label == DIFFERENT and group[a] == group[b]:
            found.append(((a, b), _chain(linked, a, b)))
    return found


def groups(of: Mapping[Key, str]) -> dict[str, str]:
    """Subject -> the first subject, by id, of all that are linked to it by same or near copy."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        above.setdefault(name, name)
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for (a, b), label in sorted(of.items()):
        first, second = sorted((top(a), top(b)))
        if label in _LINKS:
            above[second] = first
    return {name: top(name) for name in sorted(above)}


def carried(of: Mapping[Key, str], keys: Iterable[Key]) -> dict[Key, str]:
    """Which of ``keys`` are the same subject or different ones, by what the labels imply.

    A pair inside a group is *same*; whether it is a near copy no other pair can say. A pair of two
    groups is *different* where some pair of theirs is labelled so. Others are left out.
    """
    group = groups(of)
    apart = {frozenset((group[a], group[b])) for (a, b), label in of.items() if label == DIFFERENT}
    found = {}
    for key in keys:
        a, b = (group.get(name) for name in key)
        if a is None or b is None:
            continue
        if a == b:
            found[key] = SAME
        elif frozenset((a, b)) in apart:
            found[key] = DIFFERENT
    return found


def _chain(linked: Mapping[str, set[str]], start: str, end: str) -> list[str]:
    came: dict[str, str | None] = {start: None}
    waiting = deque([start])
    while waiting:
        name = waiting.popleft()
        if name == end:
            break
        for other in sorted(linked.get(name, ())):
            if other not in came:
                came[other] = name
                waiting.append(other)
    chain: list[str] = []
    at: str | None = end
    while at is not None:
        chain.append(at)
        at = came[at]
    return chain[::-1]
