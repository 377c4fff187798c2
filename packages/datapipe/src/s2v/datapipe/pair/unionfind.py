"""Disjoint sets whose name is their smallest member, so that order never shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class UnionFind:
    """Disjoint sets of strings."""

    def __init__(self, members: Iterable[str] = ()) -> None:
        self._parent: dict[str, str] = {member: member for member in members}

    def find(self, member: str) -> str:
        """Smallest member of the set; a new member is a set of its own."""
        root = self._parent.setdefault(member, member)
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def union(self, a: str, b: str) -> None:
        """Join two sets."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def groups(self) -> dict[str, list[str]]:
        """Members of every set, sorted, by their smallest."""
        found: dict[str, list[str]] = defaultdict(list)
        for member in sorted(self._parent):
            found[self.find(member)].append(member)
        return dict(found)


def components(
    count: int, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The smallest number that each of ``0 .. count - 1`` hangs together with.

    Args:
        count: how many numbers.
        a, b: links between them.
    """
    label = np.arange(count)
    while len(a):
        one, other = label[a], label[b]
        low, high = np.minimum(one, other), np.maximum(one, other)
        np.minimum.at(label, high, low)
        while not np.array_equal(above := label[label], label):
            label = above
        apart = label[a] != label[b]
        a, b = a[apart], b[apart]
    return label
