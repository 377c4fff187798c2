"""A bank of vectors on disk, cut into shards by position, larger than any memory.

    bank.json              rows, width, rows per shard, dtype
    vectors-00000.npy      [rows of the shard, width], read through a memory map
    built/<sizes>/00000/   what an index of shard 0 has learnt (:mod:`.ann`), made once

Shards are cut by position and by nothing else, so an answer never depends on how many workers
there are. ``bank.json`` is written last: a bank without it is one that was not finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.atomic import replacing, write_json
from s2v.datapipe.pair.ann import check

Storage = Literal["float32", "float16"]
FORMAT: Final = 1
SHARD_ROWS: Final = 131_072


class BankError(ValueError):
    """A folder that is no bank, or a damaged one; says which file and the way out."""


@dataclass(frozen=True)
class VectorBank:
    """An opened bank.

    Attributes:
        folder: where it is.
        rows: vectors in all.
        width: of each.
        shard_rows: rows of every shard but the last.
        storage: of the files.
    """

    folder: Path
    rows: int
    width: int
    shard_rows: int
    storage: Storage

    @property
    def shards(self) -> int:
        """How many files."""
        return -(-self.rows // self.shard_rows)

    def shard(self, number: int) -> npt.NDArray[np.floating[Any]]:
        """One shard, memory-mapped, ``[rows, width]``.

        Raises:
            BankError: the file is missing, damaged or of another shape.
        """
        path = self.folder / f"vectors-{number:05d}.npy"
        rows = min(self.shard_rows, self.rows - number * self.shard_rows)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError) as error:
            raise BankError(f"{path}: {error}; write the bank again") from error
        if found.shape != (rows, self.width) or found.dtype != self.storage:
            raise BankError(
                f"{path} holds {found.dtype}{list(found.shape)} and not "
                f"{self.storage}{[rows, self.width]}; write the bank again"
            )
        mapped: npt.NDArray[np.floating[Any]] = found
        return mapped


def write_bank(
    folder: Path,
    blocks: Iterable[npt.NDArray[np.floating[Any]]],
    *,
    shard_rows: int = SHARD_ROWS,
    storage: Storage = "float32",
) -> VectorBank:
    """Write vectors that need not fit the memory; one shard is held at a time.

    Args:
        folder: an empty or new folder.
        blocks: ``[any, d]`` each, L2-normalised, in the order of their positions.
        shard_rows: rows per file.
        storage: ``float16`` halves the files; cosines are then those of the rounded vectors,
            off by up to 1e-3 at the very most and 1e-5 as a rule.

    Raises:
        BankError: the folder holds a bank already.
        ValueError: no vectors, or some that are not finite or not of length one.
    """
    if (folder / "bank.json").exists():
        raise BankError(f"{folder} holds a bank already; give another folder or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    waiting: list[npt.NDArray[np.floating[Any]]] = []
    held = rows = width = shards = 0
    for block in blocks:
        check(block, f"block of vectors from position {rows}")
        if width not in (0, block.shape[1]):
            raise ValueError(
                f"vectors from position {rows} have {block.shape[1]} dimensions and those before "
                f"{width}; they come from different embedders"
            )
        width, rows, held = block.shape[1], rows + len(block), held + len(block)
        waiting.append(block)
        while held >= shard_rows:
            whole = np.concatenate(waiting)
            _save(folder, shards, whole[:shard_rows], storage)
            waiting, held, shards = [whole[shard_rows:]], held - shard_rows, shards + 1
    if rows == 0:
        raise ValueError(f"no vectors for the bank {folder}; a search needs at least one")
    if held:
        _save(folder, shards, np.concatenate(waiting), storage)
    write_json(
        folder / "bank.json",
        {
            "format": FORMAT,
            "rows": rows,
            "width": width,
            "shard_rows": shard_rows,
            "storage": storage,
        },
    )
    return open_bank(folder)


def open_bank(folder: Path) -> VectorBank:
    """Open what :func:`write_bank` wrote.

    Raises:
        BankError: no bank, an unfinished one, or one of another format.
    """
    path = folder / "bank.json"
    try:
        found = json.loads(path.read_text())
        rows, width, shard_rows = (int(found[name]) for name in ("rows", "width", "shard_rows"))
        if found["format"] != FORMAT or min(rows, width, shard_rows) < 1:
            raise ValueError(f"format {found['format']}, {rows} rows of {width}")
        if found["storage"] not in ("float32", "float16"):
            raise ValueError(f"storage {found['storage']!r}")
    except FileNotFoundError:
        raise BankError(
            f"{path} is missing: no bank, or one not finished; write it again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise BankError(f"{path}: {error}; this version reads format {FORMAT}") from error
    return VectorBank(folder, rows, width, shard_rows, found["storage"])


def _save(folder: Path, number: int, rows: npt.NDArray[np.floating[Any]], storage: Storage) -> None:
    with replacing(folder / f"vectors-{number:05d}.npy") as temporary, temporary.open("wb") as out:
        np.save(out, rows.astype(storage), allow_pickle=False)
