"""Columns of Arrow tables as numpy arrays: codes for strings, numbers for hashes.

A million subjects are not looped over in Python. Strings are compared as codes, perceptual
hashes as 64-bit numbers, vectors stay where they lie until a search asks for some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base.stored import StoredTable, rows_of_vectors

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]
Column: TypeAlias = "pa.ChunkedArray | pa.Array"

_DIGITS: Final = 16
_NIBBLE = np.full(256, 255, np.uint8)
_NIBBLE[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_NIBBLE[np.frombuffer(b"abcdef", np.uint8)] = np.arange(10, 16)
_NIBBLE[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


class Names(Sequence[str]):
    """Strings by code, read like a list of strings without being one.

    Args:
        known: every string there is.
        at: ``[n]`` which of them each place holds.
    """

    def __init__(self, known: pa.Array, at: npt.NDArray[np.integer]) -> None:
        self.known = known
        self.at = at

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, n: int | np.integer) -> str:  # type: ignore[override]  # no slices
        return str(self.known[int(self.at[n])].as_py())

    def __iter__(self) -> Iterator[str]:
        return iter(self.known.take(pa.array(self.at)).to_pylist())

    def take(self, at: npt.NDArray[np.integer] | Flags) -> Self:
        """Those at the places ``at``."""
        return type(self)(self.known, self.at[at])


def whole(column: Column) -> pa.Array:
    """A column in one piece."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def codes(column: Column) -> tuple[Places, pa.Array]:
    """A code for every value, ``-1`` for null, and the values by code."""
    encoded = whole(column)
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    found = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.int32), encoded.dictionary


def floats(column: Column) -> Floats:
    """Numbers, NaN for null."""
    found = whole(pc.cast(column, pa.float64())).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.float64)


def ints(column: Column, missing: int) -> Ints:
    """Whole numbers, ``missing`` for null."""
    found = whole(pc.fill_null(column, missing)).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.int64)


def there(column: Column) -> Flags:
    """Where a column has a value."""
    return np.asarray(whole(pc.is_valid(column)).to_numpy(zero_copy_only=False), np.bool_)


def hashes(column: Column) -> tuple[Hashes, Flags]:
    """64-bit perceptual hashes of 16 hex digits, ``0`` for null, and where there is one.

    Raises:
        ValueError: anything else.
    """
    valid = there(column)
    texts = whole(column).drop_null()
    found = np.zeros(len(valid), np.uint64)
    if not len(texts):
        return found, valid
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    if wrong := np.flatnonzero(lengths != _DIGITS).tolist():
        text = texts[wrong[0]].as_py()
        raise ValueError(f"perceptual hash {text!r} has {len(text)} hex digits; 16 are expected")
    joined = "".join(texts.to_pylist()).encode("utf-8", "replace")
    digits = _NIBBLE[np.frombuffer(joined, np.uint8)].reshape(len(texts), -1)
    if (digits > 15).any():
        row = int(np.flatnonzero((digits > 15).any(axis=1))[0])
        raise ValueError(f"perceptual hash {texts[row].as_py()!r} is not hexadecimal")
    packed = (digits[:, 0::2] << 4) | digits[:, 1::2]
    found[valid] = np.ascontiguousarray(packed).view(">u8").ravel().astype(np.uint64)
    return found, valid


def positions(wanted: Column, known: Column) -> Ints:
    """Where each value of ``wanted`` stands in ``known``, ``-1`` where it does not."""
    found = pc.index_in(whole(wanted), value_set=whole(known), skip_nulls=True)
    return ints(found, -1)


def runs(*keys: npt.NDArray[np.generic]) -> Ints:
    """Where a new run of equal keys begins, of arrays sorted by them; the end is last."""
    if not len(keys[0]):
        return np.zeros(1, np.int64)
    fresh = np.zeros(len(keys[0]), np.bool_)
    fresh[0] = True
    for key in keys:
        fresh[1:] |= key[1:] != key[:-1]
    return np.append(np.flatnonzero(fresh), len(fresh))


def groups(keys: Sequence[npt.NDArray[np.integer]], among: Ints) -> list[Ints]:
    """``among`` split by equal keys, each part ascending."""
    if not len(among):
        return []
    order = among[np.lexsort((among, *(key[among] for key in reversed(keys))))]
    edges = runs(*(key[order] for key in keys))
    return [order[a:b] for a, b in pairwise(edges)]


def ordinals(starts: Ints, count: int) -> Ints:
    """Number of each place within its run, from 0; ``starts`` as of :func:`runs`."""
    return np.arange(count) - np.repeat(starts[:-1], np.diff(starts))


class VectorColumn:
    """A column of embeddings, read where it lies: no row of Python, no copy of the whole.

    Args:
        column: lists of float32; null where there is no vector.
    """

    def __init__(self, column: Column) -> None:
        self._column = column

    def take(self, rows: Ints) -> Vectors:
        """Vectors of the rows ``rows``, ``[n, d]``; all of them must be there.

        Raises:
            ValueError: a vector is missing, or they differ in length.
        """
        return rows_of_vectors(self._column, rows)


class SpooledColumn:
    """The same of a table on disk: the rows that will be wanted are spooled to a mapped file.

    Args:
        table: where the column is.
        column: its name.
        wanted: rows that have a vector and may be asked for, ascending.
    """

    def __init__(self, table: StoredTable, column: str, wanted: Ints) -> None:
        self._wanted = wanted
        self._vectors = table.vectors(column, wanted)

    def take(self, rows: Ints) -> Vectors:
        """As :meth:`VectorColumn.take`."""
        at = np.searchsorted(self._wanted, rows)
        if len(rows) and not np.array_equal(self._wanted[at.clip(0, len(self._wanted) - 1)], rows):
            raise ValueError("vectors of rows that were not spooled, as nobody wanted them")
        return np.asarray(self._vectors[at], np.float32)
