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

from s2v.datapipe.pair.ann import Opener, Search, in_memory
from s2v.datapipe.pair.clocks import Clocks, clocks_of
from s2v.datapipe.pair.columns import Flags, Floats, Ints, Places, Vectors, groups, ordinals
from s2v.datapipe.pair.copies import NOT_COMPARED, FrameHashes
from s2v.datapipe.pair.evidence import SEARCHES, Evidence, Small
from s2v.datapipe.pair.faces import joint_vectors
from s2v.datapipe.pair.index import DECIMALS, cosine
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.settings import BANKS, BankRules, SelectSettings

_CHUNK: Final = 8192  # pairs whose vectors are held at once
_SHARED: Final = 16  # asked of one index: those who skip at most so many times ``overfetch``
_ASKED: Final = 1 << 17  # queries whose vectors are held at once
_ANSWERS: Final = 1 << 25  # of their answers at once: 0.5 GB


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
    margin = settings.retrieval.floor_margin
    if margin is None:
        return np.full((len(SEARCHES), len(BANKS)), -np.inf)
    return np.asarray(np.floor((lowest(settings) - margin) * 10 + 1e-6) / 10, np.float64)


def lowest(settings: SelectSettings) -> Floats:
    """Least similarity of a pair that is accepted, or that links, by search and bank.

    ``[searches, banks]``; minus infinity for copies.
    """
    found = np.full((len(SEARCHES), len(BANKS)), -np.inf)
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
            found[SEARCHES.index(search), n] = bound
    return found


def find_candidates(
    pool: Pool,
    bank: Bank,
    hashes: FrameHashes,
    settings: SelectSettings,
    floor: Floats,
    opener: Opener = in_memory,
) -> Evidence:
    """Search, and put down what is known of every pair found.

    Args:
        pool: the subjects.
        bank: their vectors.
        hashes: perceptual hashes of all frames; its clips are those of the pool.
        settings: where and how to search; no bound of a rule is asked here.
        floor: of :func:`floors`.
        opener: what makes a bank ready to be searched.
    """
    search = _Search(pool, bank, settings, floor, opener)
    found = [*search.own(), *search.faces(), *search.everywhere(), _collapsed_pairs(pool)]
    clocks = clocks_of(pool, bank.tables)
    return _evidence(pool, bank, Proposals.joined(found), hashes, clocks, settings)


class _Search:
    """The searches over kept subjects."""

    def __init__(
        self, pool: Pool, bank: Bank, settings: SelectSettings, floor: Floats, opener: Opener
    ) -> None:
        self.pool, self.bank, self.settings, self.floor = pool, bank, settings, floor
        self.opener = opener
        self.cap = settings.retrieval.overfetch

    def own(self) -> list[Proposals]:
        """Other clips of the same long video, for banks not searched everywhere."""
        pool, found = self.pool, []
        searched = self._among(lambda rules: rules.across_sources != "yes")
        for members in groups((pool.bank, pool.embedder, pool.long_video), searched):
            faced = members[pool.face_embedder[members] >= 0]
            alike = groups((pool.face_embedder,), faced)
            for two in alike:
                found += self._top(two, two, "joint", self._joint)
                others = np.setdiff1d(members, two, assume_unique=True)
                found += self._top(two, others, "own", self.bank.subject)
            faceless = np.setdiff1d(members, faced, assume_unique=True)
            found += self._top(faceless, members, "own", self.bank.subject)
        return found

    def everywhere(self) -> list[Proposals]:
        """All sources at once, for banks searched everywhere."""
        pool = self.pool
        searched = self._among(lambda rules: rules.across_sources == "yes")
        return [
            part
            for members in groups((pool.bank, pool.embedder), searched)
            for part in self._top(members, members, "all", self.bank.subject)
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
                found += self._top(queries, members, "faces", self.bank.face)
            for queries in own:
                if len(queries) > _SHARED * self.cap:
                    others = np.setdiff1d(members, queries, assume_unique=True)
                    found += self._top(queries, others, "faces", self.bank.face, once=True)
        return found

    def _among(self, admitted: Callable[[BankRules], bool]) -> Ints:
        wanted = np.array([admitted(self.settings.pair.of(b)) for b in BANKS] + [False])
        return np.flatnonzero(self.pool.kept & wanted[self.pool.bank])

    def _joint(self, at: Ints) -> Vectors:
        weight = self.settings.face.face_weight
        return joint_vectors(self.bank.subject(at), self.bank.face(at), weight)

    def _top(
        self,
        queries: Ints,
        bank: Ints,
        search: str,
        vectors: Callable[[Ints], Vectors],
        *,
        once: bool = False,
    ) -> list[Proposals]:
        """Up to ``overfetch`` neighbours per query: in other clips, by face in other videos.

        A bank that is asked ``once``, by some of many, is not worth an index: it is searched
        exactly.
        """
        if not len(queries) or not len(bank):
            return []
        same = self.pool.long_video if search == "faces" else self.pool.clip
        skipped = _skipped(same[queries], same[bank])
        found = []
        settings = self.settings.retrieval
        if once:
            settings = settings.model_copy(update={"index": "exact"})
        with self.opener(len(bank), lambda at: vectors(bank[at]), settings) as ready:
            # Those who must skip as many are asked together: a film of a thousand faces makes
            # no photograph wait for a thousand neighbours.
            for most in np.unique(skipped).tolist():
                mine = queries[skipped == most]
                step = max(1, min(_ASKED, _ANSWERS // (self.cap + most)))
                for at in range(0, len(mine), step):
                    part = mine[at : at + step]
                    found.append(self._answers(ready, part, bank, search, vectors(part), most))
        return found

    def _answers(
        self, ready: Search, queries: Ints, bank: Ints, search: str, asked: Vectors, most: int
    ) -> Proposals:
        same = self.pool.long_video if search == "faces" else self.pool.clip
        code = SEARCHES.index(search)
        near, order = ready.top(asked, self.cap + most)
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


def _skipped(queries: Places, bank: Places) -> Ints:
    """How many of the bank each query must skip at most: up to the next power of two. ``[q]``."""
    names, counts = np.unique(bank, return_counts=True)
    at = np.searchsorted(names, queries).clip(0, len(names) - 1)
    exact = np.where(names[at] == queries, counts[at], 0)
    bits = np.ceil(np.log2(np.maximum(exact, 1))).astype(np.int64)
    return np.where(exact > 0, np.int64(1) << bits, 0)


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
    pool: Pool,
    bank: Bank,
    found: Proposals,
    hashes: FrameHashes,
    clocks: Clocks,
    settings: SelectSettings,
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
        gap_us=clocks.gap_us(a, b),
        same_clip=pool.clip[a] == pool.clip[b],
        same_frame=clocks.same_frame(a, b),
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
