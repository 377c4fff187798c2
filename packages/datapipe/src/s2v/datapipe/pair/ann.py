"""Nearest neighbours in a bank of any size: exact while it is small, approximate beyond.

:func:`open_search` builds what :class:`.RetrievalSettings` asks for, once; its ``top`` may then
be asked again and again, for other queries or a larger ``k``. :func:`nearest` is both in one
call. Every kind proposes candidates and computes their cosines again in float64 from the bank,
ties by position; they differ only in what they propose:

- exact: everything (:mod:`.index`);
- ivf: the rows of the lists nearest to the query (:mod:`.ivf`);
- hnsw: what a walk over the graph of neighbours meets (:mod:`.hnsw`).

The answer to a query does not depend on the queries beside it, the number of threads or the
BLAS library: approximate search runs on whole numbers (:mod:`.whole`), where sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.pair.hnsw import HnswSearch
from s2v.datapipe.pair.index import Cosines, Positions, Vectors, exact_top, same_width
from s2v.datapipe.pair.ivf import IvfSearch
from s2v.datapipe.pair.settings import RetrievalSettings

Bank = npt.NDArray[np.floating[Any]]
WORTHWHILE: Final = 0.25  # of the lists
BUILD_VERSION: Final = 1  # of what is kept in a `built` folder
_NORM_TOLERANCE: Final = 5e-3  # float16 rows are off by up to 1e-3
_CHECKED: Final = 16_384


class Search(Protocol):
    """A bank ready to be asked."""

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        """The ``k`` nearest of each query.

        Args:
            queries: ``[q, d]``, L2-normalised float32.
            k: neighbours per query, at least 1, capped at the bank's size.

        Returns:
            Different positions in the bank and their cosines, rounded to 6 digits, both
            ``[q, min(k, n)]``, by descending cosine, ties by position.

        Raises:
            ValueError: another width, values that are not finite, rows that are not of length
                one, or ``k`` below 1.
        """
        ...


class Opener(Protocol):
    """Makes a bank ready whose vectors need not be in memory all at once."""

    def __call__(
        self, rows: int, vectors: Callable[[Positions], Vectors], settings: RetrievalSettings
    ) -> AbstractContextManager[Search]:
        """Open it; what it takes is given back at the end of the context.

        Args:
            rows: how many vectors there are.
            vectors: those of given positions, ``[n, d]``, L2-normalised.
            settings: which index, and its sizes.
        """
        ...


@contextmanager
def in_memory(
    rows: int, vectors: Callable[[Positions], Vectors], settings: RetrievalSettings
) -> Iterator[Search]:
    """An :class:`Opener` that holds the bank."""
    yield open_search(vectors(np.arange(rows)), settings)


def nearest(
    queries: Vectors, bank: Bank, k: int, settings: RetrievalSettings
) -> tuple[Positions, Cosines]:
    """:func:`open_search` asked once."""
    return open_search(bank, settings).top(queries, k)


def open_search(bank: Bank, settings: RetrievalSettings, built: Path | None = None) -> Search:
    """Make a bank ready to be asked.

    Args:
        bank: ``[n, d]``, L2-normalised float32 or float16; may be memory-mapped. It is kept,
            not copied.
        settings: which index, and its sizes.
        built: a folder of this bank and of :func:`build_name`, where what takes long to build is
            looked for and else left: centroids and lists, or the graph.

    Raises:
        ValueError: an empty bank, values that are not finite, rows that are not of length one,
            or HNSW asked for without FAISS.
    """
    check(bank, "bank")
    kind = kind_of(len(bank), settings)
    if kind == "ivf":
        lists = IvfSearch(bank, settings, built)
        if settings.index == "ivf" or lists.nprobe <= WORTHWHILE * lists.nlist:
            return _Checked(lists, bank)
    if kind == "hnsw":
        return _Checked(HnswSearch(bank, settings, built), bank)
    return _Checked(_Exact(bank, settings), bank)


def kind_of(n: int, settings: RetrievalSettings) -> str:
    """Which index a bank of ``n`` vectors gets: ``exact``, ``ivf`` or ``hnsw``.

    Where ``auto`` says ``ivf``, vectors that need more than ``WORTHWHILE`` of the lists for the
    recall asked for are searched exactly all the same: that is faster then (docs/scale.md).
    """
    if settings.index == "auto":
        return "exact" if n < settings.exact_below else "ivf"
    return settings.index


def build_name(settings: RetrievalSettings) -> str:
    """A name for everything that an index depends on besides its bank."""
    sizes = (settings.nlist, settings.seed, settings.hnsw_m, settings.hnsw_ef_construction)
    return stable_hash([str(value) for value in (BUILD_VERSION, *sizes)], 12)


def check(vectors: npt.NDArray[Any], name: str) -> None:
    """Refuse what is no bank of L2-normalised rows, naming the first bad row.

    Raises:
        ValueError: not two-dimensional, empty, not finite, or not of length one.
    """
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            f"the {name} has shape {vectors.shape}; a search needs at least one row and one column"
        )
    for begin in range(0, len(vectors), _CHECKED):
        block = vectors[begin : begin + _CHECKED]
        wide = np.asarray(block, np.float32)
        squares = np.einsum("nd,nd->n", wide, wide)
        bad = ~(np.abs(squares - 1) <= 2 * _NORM_TOLERANCE)  # NaN too
        if bad.any():
            row = begin + int(np.flatnonzero(bad)[0])
            length = float(np.linalg.norm(vectors[row].astype(np.float64)))
            raise ValueError(
                f"row {row} of the {name} has length {length:.4g}; embeddings are stored "
                "L2-normalised, so it is damaged: measure it again or drop it"
            )


class _Exact:
    def __init__(self, bank: Bank, settings: RetrievalSettings) -> None:
        self._bank, self._backend = bank, settings.backend

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        return exact_top(queries, self._bank, k, self._backend)


class _Checked:
    """What every kind asks of its queries."""

    def __init__(self, search: Search, bank: Bank) -> None:
        self._search, self._bank = search, bank

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one neighbour")
        same_width(queries, self._bank)
        if len(queries) == 0:
            k = min(k, len(self._bank))
            return np.empty((0, k), np.int64), np.empty((0, k), np.float64)
        check(queries, "queries")
        return self._search.top(np.ascontiguousarray(queries, np.float32), min(k, len(self._bank)))
