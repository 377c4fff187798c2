"""Results of the selection's steps in the run folder: ``select/<name>-<fingerprint>.parquet``.

A fingerprint covers everything that a result depends on: the measured rows, the settings that
its step reads, the results it builds on, and the code. So a file is right or it is not looked
at. All of them may be deleted at any time; the next selection makes them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic

_KEPT: Final = 3  # results of one step with other settings that are kept beside the newest
_DIGEST: Final = b"s2v.digest"
_NOTE: Final = b"s2v.note"


def fingerprint(step: str, *parts: object) -> str:
    """16 hex digits over the code, the step and JSON-like ``parts``."""
    text = json.dumps([code_digest(), step, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_digest() -> str:
    """Digest of the code that makes the results: another version makes its own.

    All of the package and not just this room: the tables that a selection is given are put
    together elsewhere, by code that no commit knows of.
    """
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for path in sorted(p for suffix in ("py", "toml") for p in package.rglob(f"*.{suffix}")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def digest_of(table: pa.Table) -> str:
    """Digest of what a table says, whatever pieces it is in."""
    hasher = hashlib.sha256()
    whole = table.combine_chunks().replace_schema_metadata(None)
    with pa.ipc.new_stream(_Hashing(hasher.update), whole.schema) as writer:
        writer.write_table(whole, max_chunksize=1 << 16)
    return hasher.hexdigest()[:16]


class _Hashing:
    """A file that only hashes what is written to it."""

    closed = False

    def __init__(self, update: Callable[[bytes], None]) -> None:
        self._update = update

    def write(self, data: bytes) -> int:
        self._update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is open."""


class StepStore:
    """The folder ``select`` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, name: str, key: str, table: pa.Table, note: object = None) -> None:
        """Write a table whole or not at all, with its digest and a JSON note."""
        said = {_DIGEST: digest_of(table).encode(), _NOTE: json.dumps(note).encode()}
        table = table.replace_schema_metadata(said)
        plain = [field.name for field in table.schema if not _wordy(field.type)]
        with atomic.replacing(self._path(name, key)) as path:
            pq.write_table(
                table,
                path,
                compression="lz4",
                use_dictionary=[n for n in table.schema.names if n not in plain],
                write_page_checksum=True,
            )
        self._prune(name, ".parquet")

    def load(self, name: str, key: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """A table as it was saved, or ``None``; a damaged file is none."""
        try:
            # Not pq.read_table: that imports what reads data sets, two seconds of a selection.
            with pq.ParquetFile(
                self._path(name, key), page_checksum_verification=True, pre_buffer=False
            ) as file:
                table = file.read(columns=columns)
        except (FileNotFoundError, OSError, pa.ArrowInvalid):
            return None
        return table.replace_schema_metadata(None)

    def about(self, name: str, key: str) -> tuple[str, Any] | None:
        """Digest and note of a table, without reading it; ``None`` where there is none."""
        path = self._path(name, key)
        try:
            said = pq.read_schema(path).metadata or {}
            path.touch()  # used: not to be pruned first
            return said[_DIGEST].decode(), json.loads(said[_NOTE])
        except (FileNotFoundError, OSError, pa.ArrowInvalid, KeyError, ValueError):
            return None

    def save_array(self, name: str, key: str, array: npt.NDArray[np.float32]) -> None:
        """Write an array whole or not at all."""
        with atomic.replacing(self._path(name, key, ".npy")) as path, path.open("wb") as handle:
            np.save(handle, array, allow_pickle=False)
        self._prune(name, ".npy")

    def load_array(self, name: str, key: str) -> npt.NDArray[np.float32] | None:
        """The array, mapped into memory and not read, or ``None``."""
        try:
            return np.asarray(
                np.load(self._path(name, key, ".npy"), mmap_mode="r", allow_pickle=False)
            )
        except (FileNotFoundError, OSError, ValueError, EOFError):
            return None

    def _path(self, name: str, key: str, suffix: str = ".parquet") -> Path:
        return self.folder / f"{name}-{key}{suffix}"

    def _prune(self, name: str, suffix: str) -> None:
        """Delete results not used for longest; nobody else looks at them."""
        found = [
            path
            for path in self.folder.glob(f"{name}-*{suffix}")
            if len(path.name) == len(self._path(name, "0" * 16, suffix).name)
        ]
        found.sort(key=lambda path: (-path.stat().st_mtime_ns, path.name))
        for path in found[_KEPT + 1 :]:
            path.unlink(missing_ok=True)


def _wordy(kind: pa.DataType) -> bool:
    """Whether values of a type repeat so much that a dictionary pays."""
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind))
