"""Cutting work into units that stay the same when inputs are added.

Before shots a unit is a window of at most ten minutes of one source. After shots it is a
slice of the sorted clip ids. The slices are *content-defined*: a clip whose hash falls in
a fixed class begins a new one, so adding or removing a source re-cuts only the slices it
touches, and all other commits stay valid.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from s2v.datapipe.base.ids import bucket, stable_hash


def slices(
    content: Mapping[str, str], target: int, gone: Collection[str] = ()
) -> list[tuple[str, list[str]]]:
    """Cut ids into named slices of about ``target``, at most twice as many.

    Args:
        content: id -> digest of what it was made of.
        target: the length aimed at.
        gone: ids that were there once and were erased. They are in no slice, but keep the borders
            between the others where they were.

    Returns:
        ``(name, ids)``, sorted; the name carries the first id and a hash of all members
        and their content, so a commit can never be taken for one of something else.
    """
    groups: list[list[str]] = []
    for one in sorted({*content, *gone}):
        boundary = bucket(one, target) == 0 if target > 1 else True
        if not groups or boundary or len(groups[-1]) >= 2 * target:
            groups.append([])
        groups[-1].append(one)
    left = [[one for one in group if one in content] for group in groups]
    return [(unit_name(group, [content[i] for i in group]), group) for group in left if group]


def unit_name(ids: Sequence[str], content: Sequence[str]) -> str:
    """First id and a hash of all members and their content."""
    return f"{ids[0]}-{stable_hash([*ids, *content], 8)}"


def windows(duration_us: int, longest_us: int) -> list[tuple[int, int]]:
    """Cut ``[0, duration)`` into equal windows of at most ``longest_us``.

    Equal windows share the work evenly; a shot that crosses a seam is cut there.
    """
    count = max(1, -(-duration_us // longest_us))
    edges = [duration_us * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))
