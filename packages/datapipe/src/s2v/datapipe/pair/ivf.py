"""Inverted lists over flat vectors (IVF-Flat), scanned a list at a time.

The bank is cut into lists by the nearest of ``nlist`` centroids (spherical k-means). A query
looks into the ``nprobe`` lists whose centroids are nearest. FAISS scans a list for one query at a
time; a selection asks for the neighbours of all its subjects, so here all queries that
probe a list meet it in one matrix product, which is several times faster (docs/scale.md).

Everything up to the candidates is whole-number arithmetic (:mod:`.whole`): centroids, lists
and candidates are the same bits on any machine, with any batch and any number of threads.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.pair.index import Cosines, Positions, Vectors, rerank
from s2v.datapipe.pair.settings import RetrievalSettings
from s2v.datapipe.pair.whole import LENGTH, LIMIT, whole

_ITERATIONS: Final = 10
_TRAIN_PER_LIST: Final = 64  # FAISS takes 39 to 256
_CHUNK: Final = 1024  # queries at once
_BLOCK: Final = 16_384  # rows at once
_SAMPLED: Final = 256  # rows on which recall is measured,
_NEIGHBOURS: Final = 10  # at so many neighbours,
_TRUTH_CHUNK: Final = 64  # so many rows at once
_KEYS: Final = 1 << 24  # candidates held at once: 0.13 GB
_SCORES: Final = 1 << 23  # scores of one list held at once: 0.17 GB with their keys


class IvfSearch:
    """Inverted lists in memory: ``2 n d`` bytes for the rows and ``4 nlist d`` for centroids.

    Args:
        bank: ``[n, d]``, L2-normalised; kept for the cosines, not copied.
        settings: ``nlist``, ``nprobe`` or ``recall``, ``seed``.
        built: where centroids and lists are kept between runs.
    """

    def __init__(
        self,
        bank: npt.NDArray[np.floating[Any]],
        settings: RetrievalSettings,
        built: Path | None = None,
    ) -> None:
        self._bank = bank
        nlist = min(len(bank), settings.nlist or automatic_nlist(len(bank)))
        kept = _kept(built, (nlist, bank.shape[1]), len(bank))
        self._centroids, lists = kept or _build(bank, nlist, settings.seed, built)
        self._rows: Positions = np.argsort(lists, kind="stable").astype(np.int64)
        self._start = np.searchsorted(lists[self._rows], np.arange(nlist + 1))
        self._codes = np.empty(bank.shape, np.int16)
        for at in range(0, len(bank), _BLOCK):
            self._codes[at : at + _BLOCK] = whole(bank[self._rows[at : at + _BLOCK]])
        self.nprobe = min(nlist, settings.nprobe or nlist)
        if settings.nprobe is None:
            needed = _loaded(built, "needed", np.int64, nlist)
            if needed is None:
                needed = self._needed(lists, settings.seed)
                _leave(built, "needed", needed)
            at = math.ceil(settings.recall * len(needed)) - 1
            self.nprobe = int(needed[at]) + 1 if len(needed) else 1

    @property
    def nlist(self) -> int:
        """Lists."""
        return len(self._centroids)

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        """As :class:`.ann.Search`; a query whose lists hold fewer than ``k`` probes more."""
        near: list[Positions] = [np.empty(0, np.int64)] * len(queries)
        open_rows, probes = np.arange(len(queries)), self.nprobe
        fetch = min(len(self._bank), k + 16 + k // 4)
        while len(open_rows):
            again = []
            step = max(1, min(_CHUNK, _KEYS // (probes * fetch)))
            for at in range(0, len(open_rows), step):
                rows = open_rows[at : at + step]
                keys = self._candidates(whole(queries[rows]), fetch, probes)
                enough = (keys[:, -k] >= 0) if probes < len(self._centroids) else keys[:, 0] > -2
                again.append(rows[~enough])
                for row, found in zip(rows[enough], keys[enough], strict=True):
                    near[row] = self._position(found[found >= 0])
            open_rows = np.concatenate(again)
            probes = min(len(self._centroids), probes * 2)
        return rerank(queries, self._bank, near, k)

    def _candidates(self, queries: Vectors, fetch: int, probes: int) -> Positions:
        """Keys of the best ``fetch`` rows of the probed lists, ascending; -1 where there is none.

        A key is the score before the row, so that no two are equal and ties go by position.
        """
        nlist = len(self._centroids)
        coarse = _keys(queries @ self._centroids.T, np.arange(nlist), nlist)
        probed = nlist - 1 - np.partition(coarse, nlist - probes, axis=1)[:, -probes:] % nlist
        order = np.argsort(probed, axis=None, kind="stable")
        start = np.searchsorted(probed.ravel()[order], np.arange(nlist + 1))
        found = np.full((len(queries), probes, fetch), -1, np.int64)
        for number in np.flatnonzero(np.diff(start)):
            begin, end = self._start[number], self._start[number + 1]
            if begin == end:
                continue
            rows = self._codes[begin:end].astype(np.float32).T
            step = max(1, _SCORES // (end - begin))  # many equal rows make one list of them all
            for at in range(start[number], start[number + 1], step):
                asks = order[at : min(at + step, start[number + 1])]
                asking, slot = np.divmod(asks, probes)
                keys = _keys(queries[asking] @ rows, self._rows[begin:end], len(self._bank))
                if end - begin > fetch:
                    keys = np.partition(keys, end - begin - fetch, axis=1)[:, -fetch:]
                found[asking, slot, : keys.shape[1]] = keys
        flat = found.reshape(len(queries), -1)
        return np.sort(np.partition(flat, flat.shape[1] - fetch, axis=1)[:, -fetch:], axis=1)

    def _needed(self, lists: Positions, seed: int) -> Positions:
        """How many lists come before that of a true neighbour, ascending over a sample's.

        A sample of the bank's rows, the true neighbours of each, and where the list of each
        neighbour stands in the row's order of lists.
        """
        nlist, n = len(self._centroids), len(self._bank)
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(n, min(n, _SAMPLED), replace=False))
        fetch = min(n, _NEIGHBOURS + 1)  # itself is one of them
        places = []
        for at in range(0, len(rows), _TRUTH_CHUNK):
            queries = whole(self._bank[rows[at : at + _TRUTH_CHUNK]])
            true = self._position(self._candidates(queries, fetch, nlist))
            order = np.argsort(-_keys(queries @ self._centroids.T, np.arange(nlist), nlist), axis=1)
            place = np.empty_like(order)
            np.put_along_axis(place, order, np.broadcast_to(np.arange(nlist), order.shape), axis=1)
            found = np.take_along_axis(place, lists[true], axis=1)
            places.append(found[true != rows[at : at + _TRUTH_CHUNK, None]])
        return np.sort(np.concatenate(places)).astype(np.int64)

    def _position(self, keys: Positions) -> Positions:
        return len(self._bank) - 1 - keys % len(self._bank)


def automatic_nlist(n: int) -> int:
    """The square root of the number of rows: centroids and one list cost the same."""
    return max(1, round(math.sqrt(n)))


def _keys(scores: Vectors, rows: Positions, n: int) -> Positions:
    """One whole number for a score and its row; the larger score first, then the smaller row."""
    found: Positions = (scores.astype(np.int64) + LIMIT) * n + (n - 1 - rows)
    return found


def _nearest(rows: Vectors, centroids: Vectors) -> Positions:
    found: Positions = np.argmax(rows @ centroids.T, axis=1).astype(np.int64)  # ties: the first
    return found


def _build(
    bank: npt.NDArray[np.floating[Any]], nlist: int, seed: int, built: Path | None
) -> tuple[Vectors, Positions]:
    """Centroids and each row's list; ``[nlist, d]`` and ``[n]``."""
    centroids = _train(bank, nlist, seed)
    lists = np.empty(len(bank), np.int64)
    for at in range(0, len(bank), _BLOCK):
        lists[at : at + _BLOCK] = _nearest(whole(bank[at : at + _BLOCK]), centroids)
    _leave(built, "lists", lists)
    _leave(built, "centroids", centroids)
    return centroids, lists


def _kept(built: Path | None, shape: tuple[int, int], n: int) -> tuple[Vectors, Positions] | None:
    """What :func:`_build` left, if it is whole and of these sizes; it is built again if not."""
    centroids = _loaded(built, "centroids", np.float32, LENGTH + 1)
    lists = _loaded(built, "lists", np.int64, shape[0])
    if centroids is None or lists is None or centroids.shape != shape or lists.shape != (n,):
        return None
    return centroids, lists


def _leave(built: Path | None, name: str, values: npt.NDArray[Any]) -> None:
    if built is not None:
        with replacing(built / f"{name}.npy") as temporary, temporary.open("wb") as out:
            np.save(out, values, allow_pickle=False)


def _loaded(
    built: Path | None, name: str, dtype: type[np.generic], below: int
) -> npt.NDArray[Any] | None:
    """An array of numbers smaller than ``below``, or ``None``: it is made again then."""
    if built is None:
        return None
    try:
        found = np.load(built / f"{name}.npy", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    low = 0 if dtype is np.int64 else -below
    fits = found.dtype == dtype and bool(((found >= low) & (found < below)).all())
    return found if fits else None


def _train(bank: npt.NDArray[np.floating[Any]], nlist: int, seed: int) -> Vectors:
    """Spherical k-means on a sample, in whole numbers; ``[nlist, d]``."""
    rng = np.random.default_rng(seed)
    count = min(len(bank), _TRAIN_PER_LIST * nlist)
    sample = whole(bank[np.sort(rng.choice(len(bank), count, replace=False))])
    centroids = sample[np.sort(rng.choice(count, nlist, replace=False))].copy()
    for _ in range(_ITERATIONS):
        lists = np.concatenate(
            [_nearest(sample[at : at + _BLOCK], centroids) for at in range(0, count, _BLOCK)]
        )
        order = np.argsort(lists, kind="stable")
        start = np.searchsorted(lists[order], np.arange(nlist + 1))
        for number in np.flatnonzero(np.diff(start)):  # an empty list keeps its centroid
            members = sample[order[start[number] : start[number + 1]]]
            total = members.sum(axis=0, dtype=np.float64)  # whole numbers: exact in any order
            length = float(np.sqrt(np.square(total).sum()))
            if length > 0:
                centroids[number] = whole((total / length)[None])[0]
    if float(np.abs(centroids).max()) > LENGTH:
        raise AssertionError("a centroid is longer than whole numbers allow")
    return centroids
