"""Disjoint sets whose name is their smallest member, so that order never shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


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
