"""The reading side: a sample's entry, or why there is none.

A lookup of forty bytes per entry stays in memory for every shard that was asked for; of the
files themselves a few dozen are open at a time, and only the rows of a step are read.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from s2v.datapipe.base.shards import Sample
from s2v.model.data.references import Form
from s2v.model.errors import ModelError
from s2v.model.latents import identity
from s2v.model.latents.container import LatentsFile, member_name
from s2v.model.latents.entry import FileIndex, Size, Want, content
from s2v.model.latents.stored import StoredFeatures
from s2v.model.mmdit import Widths

OPEN_FILES: Final = 64
NAME: Final = "latents"  # of the folder beside the shards
EMPTY: Final = "empty.safetensors"  # features of the empty caption


@dataclass(frozen=True)
class _Kind:
    """What entries have in common, stored once for all of them."""

    windows: tuple[tuple[int, int], ...]
    references: int
    forms: tuple[Form, ...]

    def has(self, wanted: Want) -> bool:
        return (
            self.windows[: len(wanted.windows)] == wanted.windows
            and self.references >= wanted.references
            and set(wanted.forms) <= set(self.forms)
        )


class Missing(NamedTuple):
    """Why a sample has no entry.

    Attributes:
        reason: in words, with the file.
        fault: encoding was tried, and the sample cannot be.
    """

    reason: str
    fault: bool = False


class _Lookup:
    """A file's index as columns, sorted by key."""

    def __init__(self, index: FileIndex, mark: tuple[int, int, int]) -> None:
        self.mark, self.fingerprint = mark, index.fingerprint
        kinds: dict[_Kind, int] = {}
        keys = np.array([_key(e.sample_id, e.size) for e in index.entries], np.uint64)
        order = np.argsort(keys, kind="stable")
        entries = [index.entries[int(n)] for n in order]
        self.keys: npt.NDArray[np.uint64] = keys[order]
        self.offsets = np.array([e.offset for e in entries], np.int64)
        self.sizes = np.array([e.bytes for e in entries], np.int64)
        self.contents = np.array([_number(e.content) for e in entries], np.uint64)
        said = [_Kind(e.windows, e.references, e.forms) for e in entries]
        self.kind = np.array([kinds.setdefault(k, len(kinds)) for k in said], np.int32)
        self.kinds = tuple(kinds)
        self.faults = {_key(f.sample_id, f.size): f.message for f in index.faults}

    def find(self, key: int) -> int | None:
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        return at if at < len(self.keys) and int(self.keys[at]) == key else None


class Latents:
    """Entries made by encoders of one fingerprint.

    Args:
        root: holds a folder per fingerprint, or is one.
        made_by: fields of the run's encoders, see :func:`.identity.fields`.

    Raises:
        ModelError: ``root`` is the folder of one fingerprint, and of another than the run's.
    """

    def __init__(self, root: Path, made_by: identity.Fields) -> None:
        self.root, self.made_by = root, made_by
        self.fingerprint = identity.fingerprint(made_by)
        self.folder = root / self.fingerprint
        if (root / identity.FILE).is_file():
            self.folder = root
            if other := self._other(root):
                raise ModelError(f"{other}; encode with these, or set latents.folder elsewhere")
        self._files: OrderedDict[str, LatentsFile] = OrderedDict()
        self._lookups: dict[str, _Lookup | None] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Open files do not travel to other processes."""
        return {"root": self.root, "made_by": self.made_by}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["made_by"])  # type: ignore[misc]  # as at first

    @property
    def exists(self) -> bool:
        """Whether anything was encoded with these encoders."""
        return (self.folder / identity.FILE).is_file()

    def widths(self) -> Widths | None:
        """Of what was encoded, None where nothing was or it is not told."""
        try:
            said = identity.read(self.folder)["about"]["widths"]
            return Widths(int(said["latent"]), int(said["text"]), int(said["image"]))
        except (ModelError, KeyError, TypeError, ValueError):
            return None

    def empty_text(self) -> Tensor | None:
        """Features of the empty caption, None where they are not there."""
        if not self.exists:
            return None
        try:
            return load_file(self.folder / EMPTY)["text"].float()
        except (SafetensorError, OSError, KeyError):
            return None

    def mismatch(self) -> str | None:
        """Which fields keep the run from what lies here; None where nothing else lies here."""
        if self.exists or not self.root.is_dir():
            return None
        found = [p for p in sorted(self.root.iterdir()) if (p / identity.FILE).is_file()]
        said = [other for folder in found if (other := self._other(folder))]
        return min(said, key=lambda s: (s.count(";"), s), default=None)

    def find(self, sample: Sample, wanted: Want) -> StoredFeatures | Missing:
        """The entry of a sample, or the reason why it has none.

        Raises:
            ModelError: its file is damaged.
        """
        shard = str(sample.row["shard"])
        look = self._lookup(shard)
        found = self._entry(look, sample, wanted)
        if look is None or isinstance(found, Missing):
            return found if isinstance(found, Missing) else Missing(shard)
        name = member_name(sample.id, wanted.size)
        offset, size = int(look.offsets[found]), int(look.sizes[found])
        forms = look.kinds[look.kind[found]].forms
        return StoredFeatures(self._open(shard), name, offset, size, wanted, forms)

    def lacks(self, sample: Sample, wanted: Want) -> Missing | None:
        """Why a sample has no entry, without reading it; None where it has one.

        Raises:
            ModelError: its file is damaged.
        """
        found = self._entry(self._lookup(str(sample.row["shard"])), sample, wanted)
        return found if isinstance(found, Missing) else None

    def _entry(self, look: _Lookup | None, sample: Sample, wanted: Want) -> int | Missing:
        where = f"{self.folder / str(sample.row['shard'])}"
        if look is None:
            return Missing(f"{where}: no such file")
        key = _key(sample.id, wanted.size)
        at = look.find(key)
        if at is None and key in look.faults:
            return Missing(f"{where}: could not be encoded: {look.faults[key]}", fault=True)
        if at is None:
            return Missing(f"{where}: {member_name(sample.id, wanted.size)} is not in it")
        if int(look.contents[at]) != _number(content(sample)):
            return Missing(f"{where}: was encoded before the sample changed")
        kind = look.kinds[look.kind[at]]
        if not kind.has(wanted):
            return Missing(
                f"{where}: has {len(kind.windows)} variants of windows {list(kind.windows)} and "
                f"{kind.references} references in {'/'.join(kind.forms)}; wanted are "
                f"{len(wanted.windows)} of {list(wanted.windows)} and {wanted.references} in "
                f"{'/'.join(wanted.forms)}"
            )
        return at

    def _lookup(self, shard: str) -> _Lookup | None:
        with self._lock:
            if shard in self._lookups:
                return self._lookups[shard]
        if not (self.folder / shard).is_file():
            with self._lock:
                self._lookups[shard] = None
            return None
        self._open(shard)
        with self._lock:
            return self._lookups[shard]

    def _open(self, shard: str) -> LatentsFile:
        """The open file, with its lookup made where it is new or another took its name."""
        with self._lock:
            if (file := self._files.get(shard)) is not None:
                self._files.move_to_end(shard)
                return file
        file = LatentsFile(self.folder / shard)
        with self._lock:
            look = self._lookups.get(shard)
        if look is None or look.mark != file.mark:
            if file.index.fingerprint != self.fingerprint or file.index.shard != shard:
                raise ModelError(
                    f"{file.path}: holds {file.index.shard} of fingerprint "
                    f"{file.index.fingerprint}; it does not belong here, delete it"
                )
            look = _Lookup(file.index, file.mark)
            file.forget()
        with self._lock:
            self._lookups[shard] = look
            self._files[shard] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)  # closed when its last reader is done
        return file

    def _other(self, folder: Path) -> str | None:
        try:
            there = identity.read(folder)
        except ModelError:
            return None
        if there["fingerprint"] == self.fingerprint:
            return None
        return (
            f"{folder}: made by other encoders ({there['fingerprint']}, the run's are "
            f"{self.fingerprint}): {identity.differences(self.made_by, there['made_by'])}"
        )


def _key(sample_id: str, size: Size) -> int:
    raw = member_name(sample_id, size).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")


def _number(hexadecimal: str) -> int:
    """The first 64 bits of a digest; 0 of what is none."""
    try:
        return int(hexadecimal[:16] or "0", 16)
    except ValueError:
        return 0
