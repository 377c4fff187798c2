"""How torch's distributed planners write and read our folders.

Torch decides who writes which piece, checks that the pieces cover every tensor, and brings an
error on any process to all of them. Here are the files: safetensors, synced, digested as they
are written, listed in ``state.json``, renamed at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from s2v.model.checkpointing import layout, names
from s2v.model.checkpointing.layout import File
from s2v.model.checkpointing.parts import OFFSETS, SHAPE, SHARDING, Part, Piece
from s2v.model.checkpoints.safetensors_file import Entry
from s2v.model.checkpoints.writing import header
from s2v.model.errors import ModelError


class Writer(StorageWriter):
    """Writes one checkpoint and gives it its name.

    Args:
        folder: of all checkpoints.
        rank: of this process.
        head: ``step state about written_by`` of ``state.json``.
        keep: newest checkpoints that stay.
    """

    def __init__(self, folder: Path, rank: int, head: Mapping[str, Any], keep: int) -> None:
        self.folder, self.rank, self.head, self.keep = folder, rank, head, keep
        self.step = int(head["step"])
        self.hidden, self.final = names.hidden(folder, self.step), names.final(folder, self.step)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: a writer serves one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: the first thing on the disk is the coordinator's, below."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Make the hidden folder: all processes have come here, and none writes before this."""
        shutil.rmtree(self.hidden, ignore_errors=True)
        for part in layout.PARTS:
            (self.hidden / part).mkdir(parents=True)
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's file of each part, whole and durable."""
        written = []
        for part in layout.PARTS:
            items = [i for i in plan.items if i.index.fqn.startswith(f"{part}/")]
            if items:
                written.append(self._write(part, items, planner))
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(MetadataIndex(f.name), f.bytes or 0, f) for f in written])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """List the files, rename, and only then let old ones go."""
        files = {r.storage_data.name: r.storage_data for of_one in results for r in of_one}
        for file in files.values():
            path = self.hidden / file.name
            if not path.is_file() or path.stat().st_size != file.bytes:
                raise ModelError(
                    f"{path}: written by another process, but not to be seen here; the run folder "
                    "must lie on a file system that all machines share"
                )
        layout.write(self.hidden, self.head, files)
        for part in layout.PARTS:
            names.sync(self.hidden / part)
        names.sync(self.hidden)
        names.publish(self.folder, self.step)
        names.retire(self.folder, self.keep)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders only."""
        return "://" not in str(checkpoint_id)

    def _write(self, part: str, items: Sequence[WriteItem], planner: SavePlanner) -> File:
        name = f"{part}/rank-{self.rank:05d}.safetensors"
        start = len(part) + 1
        by_name = {item.index.fqn[start:]: item for item in items}
        entries = {n: _entry(item) for n, item in by_name.items()}
        about = {"format": layout.content(self.head["about"]), **self.head["about"]}
        metadata = {
            SHARDING: json.dumps({n: _place(by_name[n]) for n in sorted(by_name)}),
            "s2v": json.dumps(about, sort_keys=True),
        }
        order, head = header(entries, metadata)
        digest, size = hashlib.sha256(head), len(head)
        with (self.hidden / name).open("xb") as handle:
            handle.write(head)
            for tensor in order:
                data = planner.resolve_data(by_name[tensor])
                raw = _bytes(data, entries[tensor])
                if raw.nbytes:
                    handle.write(raw)
                    digest.update(raw)
                    size += raw.nbytes
            handle.flush()
            os.fsync(handle.fileno())
        return File(name, size, digest.hexdigest())


class Reader(StorageReader):
    """Reads pieces of opened parts into tensors of any other world.

    Args:
        parts: by name.
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts
        self._pieces: dict[MetadataIndex, Piece] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing: a reader serves one checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the files' headers say, in torch's words."""
        tensors: dict[str, Any] = {}
        for part, opened in self._parts.items():
            for name, entry in opened.entries.items():
                fqn = f"{part}/{name}"
                chunks = []
                for piece in opened.pieces[name]:
                    offsets, sizes = torch.Size(piece.offsets), torch.Size(piece.sizes)
                    chunks.append(ChunkStorageMetadata(offsets, sizes))
                    self._pieces[MetadataIndex(fqn, offsets)] = piece
                kind = TensorProperties(dtype=getattr(torch, entry.dtype))
                tensors[fqn] = TensorStorageMetadata(kind, torch.Size(entry.shape), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the parts are open."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy every asked-for box; bytes that nobody asked for are not read."""
        for item in plan.items:
            index = item.storage_index
            piece = self._pieces[MetadataIndex(index.fqn, index.offset)]
            box = tuple(
                slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True)
            )
            target = planner.resolve_tensor(item).detach()
            target.copy_(piece.file.read(index.fqn.partition("/")[2])[box])
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Folders only."""
        return "://" not in str(checkpoint_id)


def _entry(item: WriteItem) -> Entry:
    data = item.tensor_data
    if data is None:
        raise TypeError(f"{item.index.fqn}: no tensor; such values stand in state.json")
    return Entry(str(data.properties.dtype).removeprefix("torch."), tuple(data.chunk.sizes))


def _place(item: WriteItem) -> dict[str, list[int]]:
    data = item.tensor_data
    if data is None:
        raise TypeError(f"{item.index.fqn}: no tensor")
    return {OFFSETS: list(data.chunk.offsets), SHAPE: list(data.size)}


def _bytes(tensor: Any, entry: Entry) -> memoryview:
    assert isinstance(tensor, Tensor)  # noqa: S101 - our planner gives nothing else
    if tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{tuple(tensor.shape)} came where {entry.shape} was planned")
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data
