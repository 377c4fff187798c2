"""Exact nearest neighbours by inner product, the same with and without FAISS.

The engine only proposes: it fetches a superset, and similarities are computed again in
float64, rounded, and ordered with ties by position. So the answer depends neither on the
library nor on how the queries were batched.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Backend = Literal["auto", "faiss", "numpy"]
DECIMALS = 6
_SLACK = 1e-4  # far above float32's error on unit vectors, far below any bound's meaning
_CHUNK = 2048


def exact_top(
    queries: Vectors, bank: Vectors, k: int, backend: Backend = "auto"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The ``k`` most similar vectors of ``bank`` for each query.

    Args:
        queries: ``[q, d]``, L2-normalised.
        bank: ``[n, d]``, L2-normalised.
        k: neighbours per query, capped at ``n``.
        backend: ``faiss`` (``IndexFlatIP``), ``numpy``, or FAISS where it is installed.

    Returns:
        Positions in ``bank`` and cosines rounded to 6 digits, both ``[q, min(k, n)]``, by
        descending cosine; ties by position.

    Raises:
        ValueError: vectors of different width, or ``faiss`` asked for and not installed.
    """
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and the bank {bank.shape[1]}; "
            "they come from different embedders"
        )
    k = min(k, len(bank))
    positions = np.empty((len(queries), k), np.int64)
    similarities = np.empty((len(queries), k), np.float64)
    if k == 0:
        return positions, similarities
    search = _engine(np.ascontiguousarray(bank, np.float32), backend)
    for at in range(0, len(queries), _CHUNK):
        chunk = np.ascontiguousarray(queries[at : at + _CHUNK], np.float32)
        fetch = min(len(bank), k + 16)
        found, rough = search(chunk, fetch)
        # Rivals of the k-th closer than float32 can tell must be fetched too.
        while fetch < len(bank) and (rough[:, k - 1] - rough[:, -1] < _SLACK).any():
            fetch = min(len(bank), fetch * 2)
            found, rough = search(chunk, fetch)
        for row, (query, near) in enumerate(zip(chunk, found, strict=True)):
            exact = cosine(query[None], bank[near])
            order = np.lexsort((near, -exact))[:k]
            positions[at + row], similarities[at + row] = near[order], exact[order]
    return positions, similarities


def cosine(a: Vectors, b: Vectors) -> npt.NDArray[np.float64]:
    """Cosines of L2-normalised rows, ``[n]``, in float64 and rounded to 6 digits."""
    found = np.einsum("nd,nd->n", *np.broadcast_arrays(a.astype(np.float64), b.astype(np.float64)))
    rounded: npt.NDArray[np.float64] = np.round(found, DECIMALS)
    return rounded


@cache
def _faiss() -> Any | None:
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _engine(bank: Vectors, backend: Backend) -> Any:
    faiss = _faiss() if backend != "numpy" else None
    if faiss is None:
        if backend == "faiss":
            raise ValueError("backend 'faiss' needs faiss-cpu; install it or set 'auto'")
        return lambda queries, fetch: _numpy_top(queries, bank, fetch)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)

    def search(queries: Vectors, fetch: int) -> tuple[Any, Any]:
        similarities, found = index.search(queries, fetch)
        return found, similarities

    return search


def _numpy_top(
    queries: Vectors, bank: Vectors, fetch: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    rough = queries @ bank.T
    if fetch < len(bank):
        found = np.argpartition(-rough, fetch - 1, axis=1)[:, :fetch]
    else:
        found = np.broadcast_to(np.arange(len(bank)), rough.shape)
    near = np.take_along_axis(rough, found, axis=1)
    order = np.argsort(-near, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(near, order, axis=1)
