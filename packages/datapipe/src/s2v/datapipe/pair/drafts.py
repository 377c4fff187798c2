"""Drafts of samples: which clip with which references, before quotas and ids.

At most one ``in`` and one ``cross`` or ``image`` draft per clip (Phantom, section 3.1), one
reference per phrase. Everything is a number here: positions in a :class:`.sample_pool.Pool`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2v.datapipe.pair.columns import Flags, Ints, ordinals, runs
from s2v.datapipe.pair.sample_pool import Pool

Chosen = list[tuple[int, int]]  # target subject, pair


@dataclass(frozen=True)
class Drafts:
    """Samples of one pair type, ``[s]``, with ``[r]`` references in all.

    Attributes:
        clip: ``[s]``.
        edges: ``[s + 1]``; sample ``n`` has references ``edges[n]`` to ``edges[n + 1]``.
        target: ``[r]`` the subject whose phrase it is.
        pair: ``[r]`` position in the pool's pairs, -1 for the clip's own picture.
    """

    clip: Ints
    edges: Ints
    target: Ints
    pair: Ints

    def __len__(self) -> int:
        return len(self.clip)

    def take(self, at: Ints) -> Drafts:
        """The drafts at ``at``, in that order."""
        counts = np.diff(self.edges)[at]
        edges = np.concatenate(([0], np.cumsum(counts)))
        inner = np.arange(edges[-1]) + np.repeat(self.edges[:-1][at] - edges[:-1], counts)
        return Drafts(self.clip[at], edges, self.target[inner], self.pair[inner])

    def and_(self, other: Drafts) -> Drafts:
        """These, then ``other``."""
        return Drafts(
            np.concatenate((self.clip, other.clip)),
            np.concatenate((self.edges, self.edges[-1] + other.edges[1:])),
            np.concatenate((self.target, other.target)),
            np.concatenate((self.pair, other.pair)),
        )


class Collected:
    """Drafts one by one, as flat numbers: a million lists would be a million to keep alive."""

    def __init__(self) -> None:
        self._clips: list[int] = []
        self._counts: list[int] = [0]
        self._target: list[int] = []
        self._pair: list[int] = []

    def add(self, clip: int, chosen: Chosen) -> None:
        """One more draft."""
        self._clips.append(clip)
        self._counts.append(len(chosen))
        for target, pair in chosen:
            self._target.append(target)
            self._pair.append(pair)

    def drafts(self) -> Drafts:
        """All of them, in the order they came."""
        return Drafts(
            np.array(self._clips, np.int64),
            np.cumsum(np.array(self._counts, np.int64)),
            np.array(self._target, np.int64),
            np.array(self._pair, np.int64),
        )


def own_drafts(pool: Pool) -> Drafts:
    """One ``in`` draft per clip of a video: its best subjects, in the order of their phrases."""
    at = np.flatnonzero(~pool.clips.image[pool.clip])
    best = at[np.lexsort((at, -pool.quality[at], pool.clip[at]))]
    place = ordinals(runs(pool.clip[best]), len(best))
    best = best[place < pool.rules.max_references]
    target = best[np.lexsort((best, pool.phrase_start[best], pool.clip[best]))]
    edges = runs(pool.clip[target])
    clip = pool.clip[target[edges[:-1]]]
    return Drafts(clip, edges, target, np.full(len(target), -1, np.int64))


class Matcher:
    """Gives clips references that are not used up; remembers how often each was used."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        pairs = pool.pairs
        self.reference: list[int] = pairs.reference.tolist()
        self.uses = [0] * len(pool.ids)
        edges = runs(pairs.target)
        paired = pairs.target[edges[:-1]]
        order = np.lexsort((paired, -pool.quality[paired], pool.clip[paired]))
        self._subject: list[int] = paired[order].tolist()
        self._first: list[int] = edges[:-1][order].tolist()
        self._last: list[int] = edges[1:][order].tolist()
        of_clip = runs(pool.clip[paired[order]])
        self._clips: list[int] = pool.clip[paired[order]][of_clip[:-1]].tolist()
        self._span = dict(
            zip(
                self._clips,
                zip(of_clip[:-1].tolist(), of_clip[1:].tolist(), strict=True),
                strict=True,
            )
        )
        self._phrase: list[int] = pool.phrase_start.tolist()

    def clips(self, images: bool) -> list[int]:
        """Clips with an accepted pair: videos, or photographs."""
        is_image = self.pool.clips.image.tolist()
        return [clip for clip in self._clips if is_image[clip] == images]

    def choose(self, clip: int, limit: int) -> Chosen:
        """References for a clip: of its best subjects that have a free one, the surest.

        No two phrases get the same: a reference has its target's identity, and an identity is
        in a clip once.

        Args:
            clip: its position.
            limit: uses from which a reference is used up.

        Returns:
            In the order of the phrases; empty when none is free.
        """
        found: list[tuple[int, int, int]] = []
        uses, reference, most = self.uses, self.reference, self.pool.rules.max_references
        for n in range(*self._span[clip]):
            for pair in range(self._first[n], self._last[n]):
                if uses[reference[pair]] < limit:
                    subject = self._subject[n]
                    found.append((self._phrase[subject], subject, pair))
                    break
            if len(found) == most:
                break
        found.sort()
        return [(subject, pair) for _, subject, pair in found]

    def use(self, chosen: Chosen) -> None:
        """Count the references of a draft."""
        for _, pair in chosen:
            self.uses[self.reference[pair]] += 1

    def count(self, drafts: Iterable[Drafts]) -> None:
        """Count the references of these drafts and no others."""
        counts = np.zeros(len(self.uses), np.int64)
        for some in drafts:
            counts += np.bincount(self.pool.pairs.reference[some.pair], minlength=len(counts))
        self.uses = counts.tolist()

    def drafts(self) -> tuple[Drafts, Drafts]:
        """One draft per clip with a free reference, in order of clip ids: videos, photographs.

        Both draw on the same references; photographs give none unless the settings ask for it.
        """
        is_image: list[bool] = self.pool.clips.image.tolist()
        with_images, limit = self.pool.rules.image_samples, self.pool.rules.max_uses
        found = (Collected(), Collected())
        for clip in self._clips:
            image = is_image[clip]
            if (with_images or not image) and (chosen := self.choose(clip, limit)):
                self.use(chosen)
                found[image].add(clip, chosen)
        return found[0].drafts(), found[1].drafts()


def reference_quality(pool: Pool, drafts: Drafts) -> npt.NDArray[np.float64]:
    """Of each draft the quality of its worst reference: it is as good as that. ``[s]``."""
    if not len(drafts):
        return np.zeros(0)
    own = drafts.pair < 0
    shown = np.where(
        own,
        pool.own_quality[drafts.target],
        pool.quality[references(pool, drafts)],
    )
    return np.asarray(np.minimum.reduceat(shown, drafts.edges[:-1]), np.float64)


def references(pool: Pool, drafts: Drafts) -> Ints:
    """The subject whose pixels each reference shows. ``[r]``."""
    if not len(pool.pairs.reference):
        return drafts.target
    own: Flags = drafts.pair < 0
    return np.where(own, drafts.target, pool.pairs.reference[np.where(own, 0, drafts.pair)])


def kinds(pool: Pool, drafts: Drafts) -> Ints:
    """What each draft combines, as a number: see :func:`kind`. ``[s]``."""
    if not len(drafts):
        return np.zeros(0, np.int64)
    bits = np.left_shift(1, pool.class_at[drafts.target].astype(np.int64))
    masks = np.bitwise_or.reduceat(bits, drafts.edges[:-1])
    return np.asarray(2 * masks + (np.diff(drafts.edges) > 1), np.int64)


def kind(classes: Iterable[int]) -> int:
    """Twice the set of classes, a bit each, and one where there are several references."""
    listed = list(classes)
    mask = 0
    for at in listed:
        mask |= 1 << at
    return 2 * mask + (len(listed) > 1)
