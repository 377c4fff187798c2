"""Identities: clusters of subjects that are one person, creature or thing.

Links are accepted pairs, verified faces and very similar subjects of one long video. They
are taken strongest first; a link is refused when it would put two subjects of one clip, or
two faces that plainly differ, into one identity. Chains of weak links are how clusters of
strangers come about.

Most subjects hang together without any such contradiction. Those are found all at once, and
links are taken one by one only where a whole component would hold one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.pair.ann import Opener, in_memory
from s2v.datapipe.pair.columns import Flags, Floats, Ints, Vectors, groups, ordinals, runs
from s2v.datapipe.pair.evidence import Candidates
from s2v.datapipe.pair.index import DECIMALS, cosine
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.unionfind import components

FACE_NEIGHBOURS: Final = 32
_ASKED: Final = 1 << 17  # faces whose neighbours are held at once
_PAIRS: Final = 1 << 16  # cosines of faces computed at once
_COSINES: Final = 1 << 24  # of two clusters' faces, computed at once
_SLACK: Final = 1e-4  # far above float32's error on unit vectors
_CROWD: Final = 1024  # faces of a component that are not all compared with all


@dataclass(frozen=True)
class Links:
    """Pairs of subjects that may be one, by position, ``a < b``, and how sure that is."""

    a: Ints
    b: Ints
    strength: Floats

    @classmethod
    def of(
        cls, one: npt.NDArray[np.integer], other: npt.NDArray[np.integer], strength: Floats
    ) -> Links:
        """Links of pairs in any order."""
        a, b = np.minimum(one, other), np.maximum(one, other)
        return cls(a.astype(np.int64), b.astype(np.int64), strength)

    @classmethod
    def joined(cls, parts: list[Links]) -> Links:
        """All of them, the strongest first, each pair once."""
        a = np.concatenate([part.a for part in parts])
        b = np.concatenate([part.b for part in parts])
        strength = np.concatenate([part.strength for part in parts])
        order = np.lexsort((-strength, b, a))
        first = order[runs(a[order], b[order])[:-1]]
        best = first[np.lexsort((b[first], a[first], -strength[first]))]
        return cls(a[best], b[best], strength[best])

    def take(self, at: Ints | Flags) -> Links:
        """Some of them."""
        return Links(self.a[at], self.b[at], self.strength[at])


@dataclass(frozen=True)
class FaceBank:
    """Faces of the kept people.

    Attributes:
        at: positions, ascending.
        vectors: ``[n, d]``; of narrower embedders filled up with zeros.
        links: pairs of neighbours among them that are as alike as the floor of the search asks.
    """

    at: Ints
    vectors: Vectors
    links: Links


def find_faces(
    pool: Pool,
    bank: Bank,
    floor: float,
    settings: SelectSettings,
    opener: Opener = in_memory,
) -> FaceBank:
    """Every kept person's face, and the neighbours of each.

    Args:
        pool: the subjects.
        bank: their vectors.
        floor: least cosine of a link.
        settings: how to search.
        opener: what makes a bank ready to be searched.
    """
    at = np.flatnonzero(pool.kept & (pool.face_embedder >= 0))
    found: list[Links] = []
    parts: list[tuple[Ints, Vectors]] = []
    for members in groups((pool.face_embedder,), at):
        faces = bank.face(members)
        parts.append((members, faces))
        with opener(len(members), faces.__getitem__, settings.retrieval) as search:
            for begin in range(0, len(members), _ASKED):
                asked = np.arange(begin, min(begin + _ASKED, len(members)))
                near, strength = search.top(faces[asked], FACE_NEIGHBOURS + 1)
                one, rank = np.nonzero((near != asked[:, None]) & (strength >= floor))
                mine, theirs = asked[one], near[one, rank]
                found.append(Links.of(members[mine], members[theirs], strength[one, rank]))
    width = max((faces.shape[1] for _, faces in parts), default=0)
    vectors = np.zeros((len(at), width), np.float32)
    for members, faces in parts:
        vectors[np.searchsorted(at, members), : faces.shape[1]] = faces
    none = np.empty(0, np.int64)
    links = Links.joined([Links(none, none, none.astype(np.float64)), *found])
    return FaceBank(at, vectors, links)


def cluster(pool: Pool, candidates: Candidates, faces: FaceBank, settings: SelectSettings) -> Ints:
    """Cluster kept subjects.

    Args:
        pool: the subjects.
        candidates: judged pairs; accepted ones are links.
        faces: of the kept people.
        settings: face and similarity thresholds.

    Returns:
        By position: the smallest position of the subject's cluster; its own for a dropped one.
    """
    e = candidates.evidence
    fits = candidates.accepted() | _strong(candidates, settings.pair.strong)
    strength = np.where(np.isnan(e.face_similarity), e.similarity, e.face_similarity)[fits]
    links = Links.joined(
        [
            Links.of(e.target_at[fits], e.reference_at[fits], strength),
            faces.links.take(faces.links.strength >= settings.face.lower),
        ]
    )
    links = links.take(pool.kept[links.a] & pool.kept[links.b])
    return _Clusters(pool, faces, settings.face.different).of(links)


def identity_ids(pool: Pool, cluster_of: Ints) -> pa.Array:
    """``identity_id`` by position, null for dropped subjects.

    A hash of the cluster's smallest subject id, so it does not change while that subject and
    its links stay.
    """
    named, at = np.unique(cluster_of[pool.kept], return_inverse=True)
    names = [f"id{stable_hash([one], 16)}" for one in pool.ids.take(pa.array(named)).to_pylist()]
    codes = np.zeros(len(pool), np.int64)
    codes[pool.kept] = at
    return pa.array(names, pa.string()).take(pa.array(codes, mask=~pool.kept))


def _strong(candidates: Candidates, bound: float) -> Flags:
    """Very similar subjects of one long video; neither faces, nouns nor a verdict contradict it.

    People in the same clothes are not one person: people are linked by verified faces only.
    """
    e = candidates.evidence
    fits = (e.similarity >= bound) & e.same_long_video & ~candidates.fails("face_mismatch")
    fits &= ~(candidates.fails("noun_mismatch") | candidates.fails("verifier_same_identity"))
    fits &= ~e.in_banks(["person"]) | ~np.isnan(e.face_similarity)
    return fits


class _Clusters:
    def __init__(self, pool: Pool, faces: FaceBank, different: float) -> None:
        self._pool = pool
        self._vectors = faces.vectors
        self._face = np.full(len(pool), -1, np.int64)
        self._face[faces.at] = np.arange(len(faces.at))
        self._embedder = pool.face_embedder
        self._different = different

    def of(self, links: Links) -> Ints:
        """The smallest member of everybody's cluster."""
        component = components(len(self._pool), links.a, links.b)
        linked = np.unique(np.concatenate((links.a, links.b)))
        torn = np.zeros(len(component), np.bool_)
        torn[self._twice_in_a_clip(linked, component)] = True
        torn[self._with_strangers(linked, component, torn)] = True
        found = component.copy()  # where nothing speaks against it, a component is a cluster
        self._one_by_one(links.take(torn[component[links.a]]), found)
        return found

    def _twice_in_a_clip(self, members: Ints, component: Ints) -> Ints:
        """Components with two subjects of one clip."""
        place, clip = component[members], self._pool.clip[members]
        order = np.lexsort((clip, place))
        place, clip = place[order], clip[order]
        again = (place[1:] == place[:-1]) & (clip[1:] == clip[:-1])
        return np.unique(place[1:][again])

    def _with_strangers(self, members: Ints, component: Ints, torn: Flags) -> Ints:
        """Components with two faces that plainly differ; those known to be torn are skipped.

        Of a crowd that is not asked.
        """
        faced = members[(self._face[members] >= 0) & ~torn[component[members]]]
        keys = (component[faced], self._embedder[faced])
        order = np.lexsort((faced, keys[1], keys[0]))
        faced = faced[order]
        starts = runs(*(key[order] for key in keys))
        inner = ordinals(starts, len(faced))
        crowds = component[faced[starts[:-1][np.diff(starts) > _CROWD]]]
        found: list[int] = crowds.tolist()  # not known to be torn, but to be taken link by link
        small = ~np.isin(component[faced], crowds)
        # The n-th face of every component with those before it, for all components at once.
        later = np.flatnonzero((inner > 0) & small)
        todo, rank = faced[later], inner[later]
        begin = later - rank
        step = max(1, _PAIRS // max(1, int(rank.max(initial=1))))
        for at in range(0, len(todo), step):
            part = slice(at, at + step)
            counts = rank[part]
            edges = np.append(np.cumsum(counts) - counts, counts.sum())
            other = faced[np.repeat(begin[part], counts) + ordinals(edges, int(counts.sum()))]
            mine = np.repeat(todo[part], counts)
            apart = self._cosines(mine, other) < self._different
            found += component[mine[apart]].tolist()
        return np.unique(np.array(found, np.int64))

    def _cosines(self, a: Ints, b: Ints) -> Floats:
        return cosine(self._vectors[self._face[a]], self._vectors[self._face[b]])

    def _one_by_one(self, links: Links, found: Ints) -> None:
        """Take links strongest first, and put the smallest member of each cluster in ``found``."""
        ends = np.concatenate((links.a, links.b))
        found[ends] = ends
        # Whoever may never be together, whatever else is, need not be looked at one by one.
        links = links.take(~self._apart(links))
        root = list(range(len(found)))
        clusters: dict[int, _Cluster] = {}  # those that were merged or refused; others are alone

        def find(n: int) -> int:
            while root[n] != n:
                root[n] = root[root[n]]
                n = root[n]
            return n

        for a, b in zip(links.a.tolist(), links.b.tolist(), strict=True):
            one, other = find(a), find(b)
            if one == other:
                continue
            mine, theirs = clusters.get(one), clusters.get(other)
            alone = mine is None and theirs is None  # then all was looked at
            mine, theirs = mine or self._single(one), theirs or self._single(other)
            if other in mine.enemies:
                continue
            if not alone and (
                not mine.clips.isdisjoint(theirs.clips) or self._strangers(mine, theirs)
            ):
                mine.enemies.add(other)
                theirs.enemies.add(one)
                clusters[one], clusters[other] = mine, theirs
                continue
            if len(mine.members) < len(theirs.members):
                one, other, mine, theirs = other, one, theirs, mine
            root[other] = one
            clusters[one] = mine
            clusters.pop(other, None)
            mine.take(theirs)
            for enemy in theirs.enemies:
                clusters[enemy].enemies.discard(other)
                clusters[enemy].enemies.add(one)
        for cluster in clusters.values():
            found[cluster.members] = min(cluster.members)

    def _single(self, n: int) -> _Cluster:
        """A subject alone."""
        row = int(self._face[n])
        faces = {} if row < 0 else {int(self._embedder[n]): [row]}
        return _Cluster([n], {int(self._pool.clip[n])}, faces, set())

    def _apart(self, links: Links) -> Flags:
        """Links within a clip, or between two faces that plainly differ."""
        found: Flags = self._pool.clip[links.a] == self._pool.clip[links.b]
        both = (
            ~found
            & (self._face[links.a] >= 0)
            & (self._embedder[links.a] == self._embedder[links.b])
        )
        at = np.flatnonzero(both)
        for begin in range(0, len(at), _PAIRS):
            part = at[begin : begin + _PAIRS]
            found[part] = self._cosines(links.a[part], links.b[part]) < self._different
        return found

    def _strangers(self, one: _Cluster, other: _Cluster) -> bool:
        """Whether two faces of two clusters plainly differ."""
        for embedder, mine in one.faces.items():
            theirs = other.faces.get(embedder)
            if theirs is None:
                continue
            step = max(1, _COSINES // len(theirs))  # two crowds are not compared at once
            b = self._vectors[theirs]
            for at in range(0, len(mine), step):
                if self._any_apart(self._vectors[mine[at : at + step]], b):
                    return True
        return False

    def _any_apart(self, a: Vectors, b: Vectors) -> bool:
        rough = float((a @ b.T).min())
        if abs(rough - self._different) < _SLACK:
            rough = round(float((a.astype(np.float64) @ b.astype(np.float64).T).min()), DECIMALS)
        return rough < self._different


@dataclass(slots=True)
class _Cluster:
    members: list[int]  # positions
    clips: set[int]
    faces: dict[int, list[int]]  # rows of their faces by embedder
    enemies: set[int]  # clusters that it was kept apart from once, and is for good

    def take(self, other: _Cluster) -> None:
        """Take another one's members, and its enemies."""
        self.members += other.members
        self.clips |= other.clips
        self.enemies |= other.enemies
        for embedder, rows in other.faces.items():
            self.faces.setdefault(embedder, []).extend(rows)
