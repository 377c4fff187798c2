"""Candidate pairs: priors restrict the search, then everything known of a pair is put down.

Searches (Phantom-Data, steps 2 and 3):

- ``own``: inside the subject's long video by its embedding; living subjects are searched there
  only.
- ``joint``: the same between two people who both show a face, by body and face together.
- ``faces``: persons by face, in all other long videos and photographs.
- ``all``: things, everywhere.

Each search gives its ``overfetch`` nearest, in other clips, down to a floor below the lower
bound. Clips with the same content were collapsed before (:mod:`.copies`); what was collapsed is
still listed as a candidate (``copy``), so that a reader sees that the copy was met and refused.

This is the only part of the selection that looks at vectors, and what it finds does not depend
on the bounds, as long as they stay above the floor: they are asked afterwards (:mod:`.judge`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from s2v.datapipe.pair.ann import nearest
from s2v.datapipe.pair.columns import Flags, Floats, Ints, Places, Vectors, groups, ordinals
from s2v.datapipe.pair.copies import NOT_COMPARED, FrameHashes
from s2v.datapipe.pair.evidence import SEARCHES, Evidence, Small
from s2v.datapipe.pair.faces import joint_vectors
from s2v.datapipe.pair.index import DECIMALS, cosine
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.settings import BANKS, BankRules, SelectSettings

_CHUNK: Final = 8192  # pairs whose vectors are held at once
_SHARED: Final = 4  # searched all at once: those who skip at most so many times ``overfetch``


@dataclass(frozen=True)
class Proposals:
    """What the searches found: positions, the search, and the similarity it went by."""

    target: Ints
    reference: Ints
    search: Small
    order: Floats

    @classmethod
    def joined(cls, parts: list[Proposals]) -> Proposals:
        """All of them, by target, search, descending order, reference."""
        target = np.concatenate([np.empty(0, np.int64), *(p.target for p in parts)])
        reference = np.concatenate([np.empty(0, np.int64), *(p.reference for p in parts)])
        search = np.concatenate([np.empty(0, np.int8), *(p.search for p in parts)])
        order = np.concatenate([np.empty(0, np.float64), *(p.order for p in parts)])
        at = np.lexsort((reference, -order, search, target))
        return cls(target[at], reference[at], search[at], order[at])


def floors(settings: SelectSettings) -> Floats:
    """Least similarity that a search goes down to, ``[searches, banks]``.

    The bound below which no pair is accepted and no identity linked, less
    ``retrieval.floor_margin``, down to the next tenth, so that small changes of a bound search
    nothing again. Copies are listed at any similarity.
    """
    found = np.full((len(SEARCHES), len(BANKS)), -np.inf)
    margin = settings.retrieval.floor_margin
    if margin is None:
        return found
    face, weight = settings.face.lower, settings.face.face_weight
    for n, bank in enumerate(BANKS):
        lower = min(settings.pair.of(bank).least, settings.pair.strong)
        bounds = {
            "all": lower,
            "faces": face,
            "joint": (1 - weight) * lower + weight * face,
            "own": lower,
        }
        for search, bound in bounds.items():
            found[SEARCHES.index(search), n] = np.floor((bound - margin) * 10 + 1e-6) / 10
    return found


def find_candidates(
    pool: Pool, bank: Bank, hashes: FrameHashes, settings: SelectSettings, floor: Floats
) -> Evidence:
    """Search, and put down what is known of every pair found.

    Args:
        pool: the subjects.
        bank: their vectors.
        hashes: perceptual hashes of all frames; its clips are those of the pool.
        settings: where and how to search; no bound of a rule is asked here.
        floor: of :func:`floors`.
    """
    search = _Search(pool, bank, settings, floor)
    found = [*search.own(), *search.faces(), *search.everywhere(), _collapsed_pairs(pool)]
    return _evidence(pool, bank, Proposals.joined(found), hashes, settings)


class _Search:
    """The searches over kept subjects."""

    def __init__(self, pool: Pool, bank: Bank, settings: SelectSettings, floor: Floats) -> None:
        self.pool, self.bank, self.settings, self.floor = pool, bank, settings, floor
        self.cap = settings.retrieval.overfetch

    def own(self) -> list[Proposals]:
        """Other clips of the same long video, for banks not searched everywhere."""
        pool, found = self.pool, []
        searched = self._among(lambda rules: rules.across_sources != "yes")
        for members in groups((pool.bank, pool.embedder, pool.long_video), searched):
            faced = members[pool.face_embedder[members] >= 0]
            alike = groups((pool.face_embedder,), faced)
            for two in alike:
                found.append(self._top(two, two, "joint", self._joint))
                others = np.setdiff1d(members, two, assume_unique=True)
                found.append(self._top(two, others, "own", self.bank.subject))
            faceless = np.setdiff1d(members, faced, assume_unique=True)
            found.append(self._top(faceless, members, "own", self.bank.subject))
        return found

    def everywhere(self) -> list[Proposals]:
        """All sources at once, for banks searched everywhere."""
        pool = self.pool
        searched = self._among(lambda rules: rules.across_sources == "yes")
        return [
            self._top(members, members, "all", self.bank.subject)
            for members in groups((pool.bank, pool.embedder), searched)
        ]

    def faces(self) -> list[Proposals]:
        """Faces in other long videos and photographs."""
        pool, found = self.pool, []
        searched = self._among(lambda rules: rules.across_sources == "faces")
        searched = searched[pool.face_embedder[searched] >= 0]
        for members in groups((pool.bank, pool.face_embedder, pool.embedder), searched):
            own = groups((pool.long_video,), members)
            few = [part for part in own if len(part) <= _SHARED * self.cap]
            if few:
                queries = np.sort(np.concatenate(few))
                found.append(self._top(queries, members, "faces", self.bank.face))
            for queries in own:
                if len(queries) > _SHARED * self.cap:
                    others = np.setdiff1d(members, queries, assume_unique=True)
                    found.append(self._top(queries, others, "faces", self.bank.face))
        return found

    def _among(self, admitted: Callable[[BankRules], bool]) -> Ints:
        wanted = np.array([admitted(self.settings.pair.of(b)) for b in BANKS] + [False])
        return np.flatnonzero(self.pool.kept & wanted[self.pool.bank])

    def _joint(self, at: Ints) -> Vectors:
        weight = self.settings.face.face_weight
        return joint_vectors(self.bank.subject(at), self.bank.face(at), weight)

    def _top(
        self, queries: Ints, bank: Ints, search: str, vectors: Callable[[Ints], Vectors]
    ) -> Proposals:
        """Up to ``overfetch`` neighbours per query: in other clips, by face in other videos."""
        code = SEARCHES.index(search)
        if not len(queries) or not len(bank):
            empty = np.empty(0, np.int64)
            return Proposals(empty, empty, empty.astype(np.int8), empty.astype(np.float64))
        same = self.pool.long_video if search == "faces" else self.pool.clip
        most = _most(same[queries], same[bank])
        known = vectors(bank)
        asked = known if queries is bank else vectors(queries)
        near, order = nearest(asked, known, self.cap + most, self.settings.retrieval)
        found = bank[near]
        fits = same[found] != same[queries][:, None]
        fits &= np.cumsum(fits, axis=1) <= self.cap
        fits &= order >= self.floor[code, self.pool.bank[queries]][:, None]
        rows, _ = np.nonzero(fits)
        return Proposals(
            target=queries[rows],
            reference=found[fits],
            search=np.full(len(rows), code, np.int8),
            order=order[fits],
        )


def _most(queries: Places, bank: Places) -> int:
    """How many of the bank some query must skip, at most."""
    names, counts = np.unique(bank, return_counts=True)
    return int(counts[np.isin(names, queries)].max(initial=0))


def _collapsed_pairs(pool: Pool) -> Proposals:
    """Subjects of a collapsed clip as references of those of the clip that stands for it."""
    kept, gone = np.flatnonzero(pool.kept), np.flatnonzero(pool.collapsed)
    kept = kept[np.argsort(pool.content[kept], kind="stable")]
    begin = np.searchsorted(pool.content[kept], pool.content[gone], side="left")
    counts = np.searchsorted(pool.content[kept], pool.content[gone], side="right") - begin
    reference = np.repeat(gone, counts)
    starts = np.append(np.cumsum(counts) - counts, counts.sum())
    target = kept[np.repeat(begin, counts) + ordinals(starts, len(reference))]
    fits = (pool.bank[target] == pool.bank[reference]) & (
        pool.embedder[target] == pool.embedder[reference]
    )
    target, reference = target[fits], reference[fits]
    code = np.full(len(target), SEARCHES.index("copy"), np.int8)
    return Proposals(target, reference, code, np.zeros(len(target)))


def _evidence(
    pool: Pool, bank: Bank, found: Proposals, hashes: FrameHashes, settings: SelectSettings
) -> Evidence:
    a, b = found.target, found.reference
    embedded = pool.embedder[a] == pool.embedder[b]
    faced = (pool.face_embedder[a] >= 0) & (pool.face_embedder[a] == pool.face_embedder[b])
    surrounded = embedded & bank.has_background[a] & bank.has_background[b]
    similarity = _cosines(a, b, embedded, bank.subject)
    face = _cosines(a, b, faced, bank.face)
    weight = settings.face.face_weight
    return Evidence(
        ids=pool.ids,
        target_at=a.astype(np.int32),
        reference_at=b.astype(np.int32),
        bank_at=pool.bank[a].astype(np.int8),
        search=found.search,
        order=found.order,
        similarity=similarity,
        face_similarity=face,
        joint_similarity=np.round((1 - weight) * similarity + weight * face, DECIMALS),
        background_similarity=_cosines(a, b, surrounded, bank.background),
        phash_distance=_bits(pool, "crop_phash", a, b),
        face_phash_distance=_bits(pool, "face_phash", a, b),
        frame_phash_distance=_frames(hashes, pool.clip[a], pool.clip[b]),
        gap_us=_gaps(pool, a, b),
        same_clip=pool.clip[a] == pool.clip[b],
        same_frame=(pool.video[a] == pool.video[b])
        & (pool.number("pts_us")[a] == pool.number("pts_us")[b]),
        same_long_video=pool.long_video[a] == pool.long_video[b],
        same_noun=pool.noun[a] == pool.noun[b],
        duplicate=(pool.content[a] == pool.content[b]) & (pool.clip[a] != pool.clip[b]),
    )


def _cosines(a: Ints, b: Ints, where: Flags, vectors: Callable[[Ints], Vectors]) -> Floats:
    """Cosines of one kind of vectors, NaN where one side lacks it or the embedders differ."""
    found = np.full(len(a), np.nan)
    at = np.flatnonzero(where)
    for begin in range(0, len(at), _CHUNK):
        part = at[begin : begin + _CHUNK]
        found[part] = cosine(vectors(a[part]), vectors(b[part]))
    return found


def _bits(pool: Pool, column: str, a: Ints, b: Ints) -> Small:
    """Differing bits of two hashes, -1 where one is missing."""
    values, there = pool.hashes(column)
    bits = np.bitwise_count(values[a] ^ values[b]).astype(np.int8)
    return np.where(there[a] & there[b], bits, np.int8(-1))


def _frames(hashes: FrameHashes, a: Places, b: Places) -> Small:
    """Smallest distance between any two frames of two clips, -1 where there are none."""
    found = hashes.distance(a, b)
    return np.where(found == NOT_COMPARED, -1, found).astype(np.int8)


def _gaps(pool: Pool, a: Ints, b: Ints) -> Ints:
    """Time between two clips of one file; 0 where they touch, -1 across files."""
    start, end = pool.number("start_us"), pool.number("end_us")
    gap = np.maximum(0, np.maximum(start[a] - end[b], start[b] - end[a]))
    return np.where((pool.video[a] != pool.video[b]) | pool.image[a], np.int64(-1), gap)
