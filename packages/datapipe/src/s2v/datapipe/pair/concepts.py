"""Concept balance: clips of one kind are grouped, and a group may be capped.

Step-Video clusters its clips by k-means into more than 120 000 concepts, to balance and to thin
them out. Here some clips found concepts, one after the other: each that is not near enough to a
concept before it founds one of its own. Then every clip joins the nearest concept that is near
enough. There is no number of clusters to choose, no seed, no iteration, and the same result for
any order of the rows. A concept is named after the clip that founded it.

So that not all are compared with all, at most ``_SCOUTS`` clips found concepts: those with the
smallest hashes of their ids, which is a fair sample. Clips near to none of them are left in the
cell of the nearest, and each cell is grouped in the same way. A concept of so many clips that one
of them is a scout is whole; a rarer one may lie in two cells, and is then two concepts.

So n clips take about ``n * _SCOUTS`` products of vectors, not n squared. Measured on one core:
16 000 clips of 2 816 numbers (the embedded embedder's subject and background), none like another,
took 5.7 CPU seconds, 32 000 took 10.2. By that 1e5 clips take half a minute, and 1e6 six minutes
and 11 GB for the vectors. Clips that are alike found fewer concepts and take less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base import ids
from s2v.datapipe.pair.clip_rules import ClipRules
from s2v.datapipe.pair.rows import Row, Tables, by, group, read

_DECIMALS: Final = 6
_CHUNK: Final = 256
_SCOUTS: Final = 2048

Vectors = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Balance:
    """Concepts, and who is one too many.

    Attributes:
        concept: clip to concept; clips without a vector have none.
        full: clip to ``clip: concept full``.
    """

    concept: dict[str, str] = field(default_factory=dict)
    full: dict[str, str] = field(default_factory=dict)


def balance(tables: Tables, clips: Mapping[str, Row], rules: ClipRules) -> Balance:
    """Group clips by what they show, and drop the worst of groups that are too large.

    Photographs are left alone: they are references, not targets.

    Args:
        tables: the measure tables.
        clips: rows of table CLIPS of those still kept, by id.
        rules: ``max_per_concept`` (``None``: nothing is grouped) and ``concept_cosine``.
    """
    if rules.max_per_concept is None:
        return Balance()
    videos = {name for name, row in clips.items() if row["kind"] == "video"}
    names, vectors = clip_vectors(tables, videos)
    founders = concepts(names, vectors, rules.concept_cosine)
    concept = {name: names[founder] for name, founder in zip(names, founders, strict=True)}
    quality = by(read(tables, "quality"), "clip_id")
    members: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (*_rank(quality.get(name, {})), name)):
        members.setdefault(concept[name], []).append(name)
    surplus = [clip for found in members.values() for clip in found[rules.max_per_concept :]]
    return Balance(concept, dict.fromkeys(surplus, "clip: concept full"))


def clip_vectors(tables: Tables, clips: Set[str]) -> tuple[list[str], Vectors]:
    """Mean subject and mean background of a clip's detections, each of length one, joined.

    Args:
        tables: the measure tables.
        clips: whose vectors are wanted.

    Returns:
        The clips that have one, sorted, and ``[n, d]``, of length one.

    Raises:
        ValueError: vectors of different embedders.
    """
    rows = [row for row in read(tables, "embeddings") if row["clip_id"] in clips]
    if len(models := sorted({row["embedder"] for row in rows})) > 1:
        raise ValueError(f"table 'embeddings' mixes embedders {models}; measure again with one")
    width = max((len(row["subject"]) for row in rows if row["subject"] is not None), default=0)
    found = group(rows, "clip_id")
    vectors = np.zeros((len(found), 2 * width), np.float32)
    names = sorted(found)
    for n, name in enumerate(names):
        for at, part in ((0, "subject"), (width, "background")):
            vectors[n, at : at + width] = _mean([row[part] for row in found[name]], width)
        vectors[n] /= max(float(np.linalg.norm(vectors[n])), 1e-12)
    there = np.flatnonzero(vectors.any(axis=1))
    return [names[n] for n in there], vectors[there]


def _mean(vectors: list[npt.NDArray[np.float32] | None], width: int) -> npt.NDArray[np.float64]:
    there = [v for v in vectors if v is not None]
    if not there:
        return np.zeros(width)
    mean = np.asarray(there, np.float64).mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float64)


def concepts(names: Sequence[str], vectors: Vectors, cosine: float) -> list[int]:
    """The founder of each clip's concept.

    Args:
        names: clip ids, sorted.
        vectors: ``[n, d]``, of length one.
        cosine: to the founder, from which a clip belongs to its concept.

    Returns:
        ``[n]`` positions; a founder's is its own. Of founders as near the first is taken.
    """
    chosen = np.full(len(names), -1, np.int64)
    open_cells: list[Index] = [np.arange(len(names))] if len(names) else []
    while open_cells:
        cell = open_cells.pop()
        founders = _founders(vectors, _scouts(names, cell), cosine)
        for at in range(0, len(cell), _CHUNK):
            part = cell[at : at + _CHUNK]
            similar = _cosines(vectors[part], vectors[founders])
            nearest = similar.argmax(axis=1)
            near = similar[np.arange(len(part)), nearest] >= cosine
            chosen[part] = np.where(near, founders[nearest], -1 - nearest)
        # What is left waits with its nearest founder's place, as a negative number.
        left = cell[chosen[cell] < 0]
        order = np.argsort(-chosen[left], kind="stable")
        edges = np.flatnonzero(np.diff(chosen[left][order])) + 1
        open_cells += [each for each in np.split(left[order], edges) if len(each)]
    return [int(founder) for founder in chosen]


def _scouts(names: Sequence[str], cell: Index) -> Index:
    """Positions of the clips that may found concepts, in order of their ids."""
    if len(cell) <= _SCOUTS:
        return cell
    hashed = sorted((ids.stable_hash([names[n]]), int(n)) for n in cell)
    return np.array(sorted(n for _, n in hashed[:_SCOUTS]), np.int64)


def _founders(vectors: Vectors, scouts: Index, cosine: float) -> Index:
    """Those that are not near to one before them; at least one."""
    founders: list[int] = []
    for at in range(0, len(scouts), _CHUNK):
        part = scouts[at : at + _CHUNK]
        known = _cosines(vectors[part], vectors[founders]).max(axis=1, initial=-2.0)
        inner = _cosines(vectors[part], vectors[part])
        fresh: list[int] = []
        for n in range(len(part)):
            if known[n] < cosine and (not fresh or inner[n, fresh].max() < cosine):
                fresh.append(n)
        founders += part[fresh].tolist()
    return np.array(founders, np.int64)


def _cosines(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """``[n, m]``, rounded, so that the order of a sum decides nothing."""
    return np.asarray(np.round(a.astype(np.float64) @ b.astype(np.float64).T, _DECIMALS))


def _rank(quality: Row) -> tuple[float, float, float]:
    """The best first: aesthetics where measured, then naturalness, then sharpness."""
    aesthetic, niqe, blur = (quality.get(name) for name in ("aesthetic", "niqe", "blur"))
    return (
        -aesthetic if aesthetic is not None else 0.0,
        niqe if niqe is not None else float("inf"),
        -blur if blur is not None else 0.0,
    )
