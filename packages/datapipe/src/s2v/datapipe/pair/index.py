"""Exact nearest neighbours by inner product, the same with and without FAISS.

The engine only proposes: it fetches a superset, and similarities are computed again in
float64, rounded, and ordered with ties by position. So the answer depends neither on the
library nor on how the queries were batched. The bank is read block by block, so it may be a
memory-mapped file, of float32 or float16, larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]
Cosines = npt.NDArray[np.float64]
Backend = Literal["auto", "faiss", "numpy"]
DECIMALS = 6
_SLACK = 1e-4  # far above float32's error on unit vectors, far below any bound's meaning
_CHUNK = 1024  # queries at once
_NUMPY_CHUNK = 128  # of them at once in numpy, which holds all scores
_BLOCK = 65_536  # bank rows at once
_SCORES = 1 << 26  # scores held at once where many rivals tie: 0.75 GB with their positions


def exact_top(
    queries: Vectors, bank: npt.NDArray[np.floating[Any]], k: int, backend: Backend = "auto"
) -> tuple[Positions, Cosines]:
    """The ``k`` most similar vectors of ``bank`` for each query.

    Args:
        queries: ``[q, d]``, L2-normalised.
        bank: ``[n, d]``, L2-normalised, float32 or float16; may be memory-mapped.
        k: neighbours per query, capped at ``n``.
        backend: ``faiss`` (flat inner product), ``numpy``, or FAISS where it is installed.

    Returns:
        Positions in ``bank`` and cosines rounded to 6 digits, both ``[q, min(k, n)]``, by
        descending cosine; ties by position.

    Raises:
        ValueError: vectors of different width, or ``faiss`` asked for and not installed.
    """
    same_width(queries, bank)
    k = min(k, len(bank))
    search = _engine(backend)
    positions = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float64)
    if k == 0:
        return positions, similarities
    for at in range(0, len(queries), _CHUNK):
        chunk = np.ascontiguousarray(queries[at : at + _CHUNK], np.float32)
        parts = []
        for begin in range(0, len(bank), _BLOCK):
            block = np.ascontiguousarray(bank[begin : begin + _BLOCK], np.float32)
            near, cosines = _block_top(search, chunk, block, min(k, len(block)))
            parts.append((near + begin, cosines))
        end = at + len(chunk)
        positions[at:end], similarities[at:end] = merge(parts, k)
    return positions, similarities


def merge(parts: Iterable[tuple[Positions, Cosines]], k: int) -> tuple[Positions, Cosines]:
    """The best ``k`` of several answers to the same queries; parts have no position in common.

    The exact answers of a bank's blocks merge to the exact answer of the bank.
    """
    near, cosines = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    order = np.lexsort((near, -cosines), axis=1)[:, :k]
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def rerank(
    queries: Vectors, bank: npt.NDArray[np.floating[Any]], near: Iterable[Positions], k: int
) -> tuple[Positions, Cosines]:
    """Order each query's candidates by their true cosine and keep ``k``.

    Args:
        queries: ``[q, d]``, L2-normalised.
        bank: ``[n, d]``, L2-normalised.
        near: per query at least ``k`` different positions, in any order.
        k: how many to keep.

    Returns:
        As :func:`exact_top`, both ``[q, k]``.
    """
    positions = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float64)
    for row, (query, candidates) in enumerate(zip(queries, near, strict=True)):
        exact = cosine(query[None], bank[candidates])
        order = np.lexsort((candidates, -exact))[:k]
        positions[row], similarities[row] = candidates[order], exact[order]
    return positions, similarities


def cosine(
    a: npt.NDArray[np.floating[Any]], b: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Cosines of L2-normalised rows, ``[n]``, in float64 and rounded to 6 digits."""
    found = np.einsum("nd,nd->n", *np.broadcast_arrays(a.astype(np.float64), b.astype(np.float64)))
    rounded: npt.NDArray[np.float64] = np.round(found, DECIMALS)
    return rounded


def same_width(queries: npt.NDArray[Any], bank: npt.NDArray[Any]) -> None:
    """Refuse vectors that cannot be of one embedder."""
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[-1]} dimensions and the bank {bank.shape[-1]}, in shapes "
            f"{queries.shape} and {bank.shape}; they come from different embedders"
        )


@cache
def faiss_if_installed() -> Any | None:
    """The FAISS module, or ``None``."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _engine(backend: Backend) -> Any:
    faiss = faiss_if_installed() if backend != "numpy" else None
    if faiss is None:
        if backend == "faiss":
            raise ValueError("backend 'faiss' needs faiss-cpu; install it or set 'auto'")
        return _numpy_top

    def search(queries: Vectors, block: Vectors, fetch: int) -> tuple[Any, Any]:
        similarities, found = faiss.knn(queries, block, fetch, metric=faiss.METRIC_INNER_PRODUCT)
        return found, similarities

    return search


def _block_top(search: Any, queries: Vectors, block: Vectors, k: int) -> tuple[Positions, Cosines]:
    """Exact answers within a block that fits the memory."""
    near: list[Positions] = [np.empty(0, np.int64)] * len(queries)
    open_rows, fetch = np.arange(len(queries)), min(len(block), k + 16)
    while len(open_rows):
        step, again = max(1, _SCORES // fetch), []
        for begin in range(0, len(open_rows), step):
            rows = open_rows[begin : begin + step]
            found, rough = search(queries[rows], block, fetch)
            # Rivals of the k-th closer than float32 can tell must be fetched too.
            tied = (rough[:, k - 1] - rough[:, -1] < _SLACK) & (fetch < len(block))
            again.append(rows[tied])
            for row, candidates in zip(rows[~tied], found[~tied], strict=True):
                near[row] = candidates
        open_rows, fetch = np.concatenate(again), min(len(block), fetch * 2)
    return rerank(queries, block, near, k)


def _numpy_top(queries: Vectors, block: Vectors, fetch: int) -> tuple[Positions, Vectors]:
    near = np.empty((len(queries), fetch), np.int64)
    rough = np.empty((len(queries), fetch), np.float32)
    for at in range(0, len(queries), _NUMPY_CHUNK):
        scores = queries[at : at + _NUMPY_CHUNK] @ block.T
        if fetch < len(block):
            found = np.argpartition(-scores, fetch - 1, axis=1)[:, :fetch]
        else:
            found = np.broadcast_to(np.arange(len(block)), scores.shape)
        kept = np.take_along_axis(scores, found, axis=1)
        order = np.argsort(-kept, axis=1, kind="stable")
        near[at : at + _NUMPY_CHUNK] = np.take_along_axis(found, order, axis=1)
        rough[at : at + _NUMPY_CHUNK] = np.take_along_axis(kept, order, axis=1)
    return near, rough
