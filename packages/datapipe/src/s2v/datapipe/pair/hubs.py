"""Hubs: subjects that stand among the nearest of very many others.

In many dimensions a few vectors, near the centre of all, become neighbours of everything
(Radovanović, Nanopoulos, Ivanović 2010): a blurred crop, a silhouette, an average face. Such a
neighbour says nothing about who is shown, so it is no reference to train on. A hub is told by
its k-occurrence, the number of targets that list it among their candidates: it stands above a
multiple of the mean, and above a floor, as members of one large identity list each other too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from s2v.datapipe.pair.settings import RetrievalSettings

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def hubs(
    target_positions: Sequence[int] | Counts,
    reference_positions: Sequence[int] | Counts,
    n: int,
    settings: RetrievalSettings,
) -> Flags:
    """Which of ``n`` subjects are hubs.

    Args:
        target_positions: ``[c]``, of each candidate pair the one that searched, in any order.
        reference_positions: ``[c]``, the one it found. A pair that is listed twice counts once,
            and nobody counts as a candidate of its own.
        n: subjects.
        settings: ``hub_above`` and ``hub_floor``; no flags where ``hub_above`` is ``None``.

    Returns:
        ``[n]``; the same for any order of the pairs.

    Raises:
        ValueError: lists of different length, or positions outside ``0 <= p < n``.
    """
    if settings.hub_above is None:
        return np.zeros(n, np.bool_)
    found = occurrences(target_positions, reference_positions, n)
    # Over subjects that search or are found at all: others belong to no bank of this search.
    taking_part = np.zeros(n, np.bool_)
    taking_part[np.asarray(target_positions, np.int64)] = True
    taking_part |= found > 0
    mean = found.sum() / max(1, int(taking_part.sum()))
    flags: Flags = found > max(settings.hub_floor, settings.hub_above * mean)
    return flags


def occurrences(
    target_positions: Sequence[int] | Counts, reference_positions: Sequence[int] | Counts, n: int
) -> Counts:
    """How many different targets list each subject: ``[n]``; arguments as :func:`hubs`."""
    targets = np.asarray(target_positions, np.int64)
    references = np.asarray(reference_positions, np.int64)
    if targets.shape != references.shape or targets.ndim != 1:
        raise ValueError(
            f"{targets.shape} targets and {references.shape} references; each pair has one of both"
        )
    for name, values in (("target", targets), ("reference", references)):
        if len(values) and not 0 <= values.min() <= values.max() < n:
            raise ValueError(f"{name} positions {values.min()} to {values.max()} are not below {n}")
    apart = targets != references
    pairs = np.sort(references[apart] * n + targets[apart])  # np.unique hashes: four times slower
    first = np.ones(len(pairs), np.bool_)
    first[1:] = pairs[1:] != pairs[:-1]
    counted: Counts = np.bincount(pairs[first] // max(n, 1), minlength=n).astype(np.int64)
    return counted
