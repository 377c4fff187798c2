"""A graph of neighbours (HNSW, Malkov and Yashunin 2016), FAISS's.

Slower to build than inverted lists and larger, faster for single queries. Threads that insert
at the same time would link rows in the order in which they happen to come, so one thread inserts
them by position. FAISS keeps the rows as half floats; they are whole numbers
(:mod:`.whole`), so nothing is lost and distances are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.pair.index import (
    Cosines,
    Positions,
    Vectors,
    exact_top,
    faiss_if_installed,
    rerank,
)
from s2v.datapipe.pair.settings import RetrievalSettings
from s2v.datapipe.pair.whole import whole

_BLOCK: Final = 16_384
_GRAPH: Final = "graph.faiss"


class HnswSearch:
    """A graph in memory: ``2 n d`` bytes for the rows and about ``8 n m`` for the links.

    Args:
        bank: ``[n, d]``, L2-normalised; kept for the cosines, not copied.
        settings: ``hnsw_m``, ``hnsw_ef_construction``, ``hnsw_ef_search``, ``backend``.
        built: where the graph is kept between runs.

    Raises:
        ValueError: FAISS is not installed.
    """

    def __init__(
        self,
        bank: npt.NDArray[np.floating[Any]],
        settings: RetrievalSettings,
        built: Path | None = None,
    ) -> None:
        faiss = faiss_if_installed()
        if faiss is None:
            raise ValueError("index 'hnsw' needs faiss-cpu; install it or set 'ivf'")
        self._faiss, self._bank, self._backend = faiss, bank, settings.backend
        self._ef = settings.hnsw_ef_search
        self._index = _kept(faiss, built, bank.shape) or _build(faiss, bank, settings)
        if built is not None and not (built / _GRAPH).exists():
            with replacing(built / _GRAPH) as temporary:
                faiss.write_index(self._index, str(temporary))

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        """As :class:`.ann.Search`; a query whose walk met fewer than ``k`` is searched exactly."""
        fetch = min(len(self._bank), k + 16 + k // 4)
        parameters = self._faiss.SearchParametersHNSW(efSearch=max(self._ef, 2 * fetch))
        positions = np.empty((len(queries), k), np.int64)
        cosines = np.empty((len(queries), k), np.float64)
        _, found = self._index.search(whole(queries), fetch, params=parameters)
        enough = (found >= 0).sum(axis=1) >= k
        near = [row[row >= 0] for row in found[enough]]
        positions[enough], cosines[enough] = rerank(queries[enough], self._bank, near, k)
        if not enough.all():
            rest = exact_top(queries[~enough], self._bank, k, self._backend)
            positions[~enough], cosines[~enough] = rest
        return positions, cosines


def _build(faiss: Any, bank: npt.NDArray[np.floating[Any]], settings: RetrievalSettings) -> Any:
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(bank.shape[1], half, settings.hnsw_m, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = settings.hnsw_ef_construction
    index.is_trained = True  # half floats have nothing to learn
    with _one_thread(faiss):
        for at in range(0, len(bank), _BLOCK):
            index.add(whole(bank[at : at + _BLOCK]))
    return index


def _kept(faiss: Any, built: Path | None, shape: tuple[int, ...]) -> Any | None:
    """The graph that an earlier run left, if it is whole and of this size."""
    if built is None or not (built / _GRAPH).exists():
        return None
    try:
        index = faiss.read_index(str(built / _GRAPH))
    except RuntimeError:  # FAISS's word for a damaged file; the graph is built again
        (built / _GRAPH).unlink()
        return None
    return index if (index.ntotal, index.d) == shape else None


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
