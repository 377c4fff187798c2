"""The tensors of one part of a checkpoint, whole again, whatever number of processes wrote them.

Every file's header says where its pieces stand in the whole tensor. A tensor that lies in one
piece is mapped from its file; one in several is put together when it is asked for, so that no
reader of weights needs the processes that trained them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from s2v.model.checkpointing.layout import FIRST, Described, check, damaged
from s2v.model.checkpoints.safetensors_file import Entry, SafetensorsFile
from s2v.model.checkpoints.weights import Weights
from s2v.model.errors import ModelError

#: Key and field of torch's ``HuggingFaceStorageReader``; the shape is ours, it guesses it.
SHARDING: Final = "DCP_SHARDING_INFO"
OFFSETS: Final = "saved_offsets"
SHAPE: Final = "global_shape"


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, in one file.

    Attributes:
        file: that holds it, under the tensor's name.
        offsets: where it begins, per dimension.
        sizes: how far it goes.
    """

    file: SafetensorsFile
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Part:
    """``model``, ``ema`` or ``optim`` of a checkpoint. Opening reads headers only.

    Attributes:
        path: the part's folder; names it in errors.
        entries: type and whole shape of each tensor, by name, sorted.
        pieces: where they lie.
        metadata: strings of the first file's header.
    """

    def __init__(self, path: Path, files: Iterable[Path]) -> None:
        self.path = path
        self.files = tuple(files)
        self.metadata: dict[str, str] = {}
        found: dict[str, Entry] = {}
        self.pieces: dict[str, list[Piece]] = {}
        for name in self.files:
            opened = SafetensorsFile(name)
            self.metadata = self.metadata or opened.metadata
            said = _sharding(opened)
            for tensor, entry in opened.entries.items():
                offsets, shape = _box(opened, tensor, entry, said)
                whole = Entry(entry.dtype, shape)
                if found.setdefault(tensor, whole) != whole:
                    raise ModelError(f"{name}: {tensor} is {whole}, elsewhere {found[tensor]}")
                piece = Piece(opened, offsets, entry.shape)
                self.pieces.setdefault(tensor, []).append(piece)
        self.entries: dict[str, Entry] = {name: found[name] for name in sorted(found)}
        for tensor, entry in self.entries.items():
            if not _tile(entry.shape, self.pieces[tensor]):
                raise ModelError(f"{path}: the pieces of {tensor} {entry.shape} do not add up")

    def read(self, name: str) -> Tensor:
        """The whole tensor, on the CPU: mapped where it lies in one piece, else put together."""
        entry, pieces = self.entries[name], self.pieces[name]
        if len(pieces) == 1:
            return pieces[0].file.read(name)
        out = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        for piece in pieces:
            box = tuple(slice(o, o + n) for o, n in zip(piece.offsets, piece.sizes, strict=True))
            out[box] = piece.file.read(name)
        return out


def open_part(described: Described, part: str, *, verify: bool = False) -> Part:
    """Open a part of a checkpoint.

    Args:
        described: the checkpoint.
        part: ``model``, ``ema`` or ``optim``.
        verify: also read its files whole and compare their digests.

    Raises:
        ModelError: a file is missing or not as it was written.
    """
    files = described.files[part]
    for file in files:
        path = described.path / file.name
        fault = check(described, file) if verify else None
        if fault is None and not path.is_file():
            fault = f"{path}: missing"
        if fault is not None:
            raise damaged(described.path, fault)
    flat = described.format == FIRST
    folder = described.path / (f"{part}.safetensors" if flat else part)
    return Part(folder, [described.path / file.name for file in files])


def weights(described: Described, part: str, *, verify: bool = False) -> Weights:
    """The part as :class:`Weights`, which exports and inspections read tensor by tensor.

    Raises:
        ModelError: as :func:`open_part`; the part holds no tensor.
    """
    opened = open_part(described, part, verify=verify)
    if not opened.entries:
        raise ModelError(f"{described.path}: holds no tensor of {part}")
    return Weights(
        path=opened.path,
        container="training checkpoint",
        files=opened.files,
        entries=opened.entries,
        metadata=opened.metadata,
        _where=dict.fromkeys(opened.entries, opened),
    )


def _sharding(file: SafetensorsFile) -> Mapping[str, Any]:
    try:
        said = json.loads(file.metadata.get(SHARDING, "{}"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ModelError(f"{file.path}: its header's {SHARDING} is no JSON object")
    return said


def _box(
    file: SafetensorsFile, name: str, entry: Entry, said: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and whole shape of a file's piece; a file without sharding holds whole tensors."""
    facts = said.get(name, {})
    offsets = facts.get(OFFSETS, [0] * len(entry.shape)) if isinstance(facts, dict) else None
    shape = facts.get(SHAPE, entry.shape) if isinstance(facts, dict) else None
    good = (
        isinstance(offsets, list)
        and isinstance(shape, list | tuple)
        and len(offsets) == len(shape) == len(entry.shape)
        and all(type(n) is int and n >= 0 for n in (*offsets, *shape))
        and all(o + n <= s for o, n, s in zip(offsets, entry.shape, shape, strict=True))
    )
    if not good:
        raise ModelError(f"{file.path}: its header says wrongly where {name} stands")
    return tuple(offsets or ()), tuple(shape or ())


def _tile(shape: Sequence[int], pieces: Sequence[Piece]) -> bool:
    """Whether the boxes fill the shape, each element once."""
    if sum(math.prod(p.sizes) for p in pieces) != math.prod(shape):
        return False
    if len(pieces) == 1:
        return True
    cut = [d for d in range(len(shape)) if any(p.sizes[d] != shape[d] for p in pieces)]
    if len(cut) == 1:  # slabs along one dimension, as FSDP cuts them
        d = cut[0]
        at = 0
        for offset, size in sorted((p.offsets[d], p.sizes[d]) for p in pieces):
            if offset != at:
                return False
            at += size
        return at == shape[d]
    return not any(_overlap(a, b) for a, b in combinations(pieces, 2))


def _overlap(a: Piece, b: Piece) -> bool:
    return all(
        p < q + n and q < p + m
        for p, m, q, n in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    )
