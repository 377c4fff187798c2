"""Safetensors written one tensor after the other, so that no model is held twice in memory.

The library's own writer takes all tensors at once. The bytes are a function of the tensors alone:
sorted by size of their type and by name, the header's keys sorted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from s2v.datapipe.base.atomic import replacing, sha256_file, write_json
from s2v.model.checkpoints.safetensors_file import CODES, Entry

SHARD_BYTES: Final = 5_000_000_000  # what hubs and diffusers use


@dataclass(frozen=True)
class Stored:
    """A tensor to be written: what it will be, and how to get it.

    Attributes:
        entry: type and shape in the file.
        read: gives the tensor; called once, when its turn comes.
    """

    entry: Entry
    read: Callable[[], Tensor]


def write_file(path: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> None:
    """Write one file, atomically.

    Args:
        path: the file.
        tensors: by name.
        metadata: strings for the header; one key keeps the bytes the same for other readers too.
    """
    order, head = header({name: stored.entry for name, stored in tensors.items()}, metadata)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        handle.write(head)
        for name in order:
            entry = tensors[name].entry
            tensor = tensors[name].read().detach().to("cpu", getattr(torch, entry.dtype))
            if tuple(tensor.shape) != entry.shape:
                raise ValueError(f"{name}: {tuple(tensor.shape)} came where {entry.shape} was said")
            handle.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def header(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """What a file begins with.

    Args:
        entries: type and shape of each tensor, by name.
        metadata: strings.

    Returns:
        ``(names in the order of their bytes, length and header)``.
    """
    order = sorted(entries, key=lambda n: (-_width(entries[n]), n))
    said: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        entry = entries[name]
        said[name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.nbytes],
        }
        at += entry.nbytes
    raw = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return order, len(raw).to_bytes(8, "little") + raw


def write_shards(
    folder: Path,
    base: str,
    tensors: Mapping[str, Stored],
    metadata: Mapping[str, str],
    limit: int = SHARD_BYTES,
) -> list[Path]:
    """Write ``base.safetensors``, or shards and their index where it would pass ``limit`` bytes.

    Returns:
        What was written, the index last.
    """
    parts = _parts(tensors, limit)
    if len(parts) == 1:
        write_file(folder / f"{base}.safetensors", tensors, metadata)
        return [folder / f"{base}.safetensors"]
    names = [f"{base}-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        write_file(folder / name, {n: tensors[n] for n in part}, metadata)
    index = folder / f"{base}.safetensors.index.json"
    where = {n: name for name, part in zip(names, parts, strict=True) for n in part}
    total = sum(t.entry.nbytes for t in tensors.values())
    write_json(index, {"metadata": {"total_size": total}, "weight_map": where})
    return [*(folder / name for name in names), index]


def _parts(tensors: Mapping[str, Stored], limit: int) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        size = tensors[name].entry.nbytes
        if parts[-1] and filled + size > limit:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _width(entry: Entry) -> int:
    return int(getattr(torch, entry.dtype).itemsize)


def digests(files: Sequence[Path]) -> dict[str, str]:
    """Hex sha256 by file name."""
    return {path.name: sha256_file(path) for path in files}
