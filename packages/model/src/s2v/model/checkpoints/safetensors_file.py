"""Safetensors: the header checked by ourselves, the tensors mapped from the file.

Read by hand because a stranger's header decides how much memory is asked for, because the message
has to say whether a file was cut short or is something else, and because the library maps the
whole file at once, which a machine with less memory than the file refuses.
"""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from s2v.model.errors import ModelError

HEADER_LIMIT: Final = 100_000_000  # bytes; the format's own limit
_NAMES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
CODES: Final = {name: code for code, name in _NAMES.items()}


@dataclass(frozen=True)
class Entry:
    """One stored tensor.

    Attributes:
        dtype: torch's name without ``torch.``; ``float8_e4m3fn`` and the like for quantised ones.
        shape: sizes.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.numel * int(getattr(torch, self.dtype).itemsize)


class SafetensorsFile:
    """One file. Opening reads the header only.

    Args:
        path: the file.

    Raises:
        ModelError: not safetensors, cut short, or a header that does not describe its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header, start = _header(path)
        self.metadata = _metadata(path, header.pop("__metadata__", {}))
        self.entries: dict[str, Entry] = {}
        self._at: dict[str, int] = {}
        end = 0
        for name in sorted(header):
            self.entries[name], stop = _entry(path, name, header[name])
            self._at[name] = start + stop - self.entries[name].nbytes
            end = max(end, stop)
        size = path.stat().st_size
        if start + end > size:
            raise ModelError(
                f"{path}: cut short: its header describes {start + end} bytes, the file has "
                f"{size}; download it again"
            )

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from the file: its bytes are read when they are used.

        Writing to it changes memory, never the file.
        """
        entry, at = self.entries[name], self._at[name]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        if not entry.nbytes:
            return torch.empty(entry.shape, dtype=dtype)
        page = at - at % mmap.ALLOCATIONGRANULARITY
        try:
            with self.path.open("rb") as handle:
                length = at - page + entry.nbytes
                mapped = mmap.mmap(handle.fileno(), length, access=mmap.ACCESS_COPY, offset=page)
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path}: {name} cannot be read ({error})") from None
        held: Any = mapped
        if at % dtype.itemsize:  # no writer of ours leaves a tensor unaligned, others may
            held, page = bytearray(mapped[at - page :]), at
        return torch.frombuffer(held, dtype=dtype, count=entry.numel, offset=at - page).reshape(
            entry.shape
        )


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        size = path.stat().st_size
        if length > HEADER_LIMIT or length < 2:
            raise ModelError(
                f"{path}: not safetensors: it declares a header of {length} bytes, "
                f"at most {HEADER_LIMIT} are allowed"
            )
        if 8 + length > size:
            raise ModelError(
                f"{path}: cut short: its header has {length} bytes, the file {size}; "
                "download it again"
            )
        raw = handle.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not safetensors: its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: not safetensors: its header is no JSON object")
    return header, 8 + length


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()):
        return dict(found)
    raise ModelError(f"{path}: not safetensors: its metadata is no mapping of strings")


def _entry(path: Path, name: str, said: Any) -> tuple[Entry, int]:
    try:
        code, shape, (start, stop) = said["dtype"], said["shape"], said["data_offsets"]
        good = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
        dtype = _NAMES.get(code)
    except (TypeError, KeyError, ValueError):
        good, code, dtype = False, None, None
    if not good:
        raise ModelError(f"{path}: not safetensors: its header describes {name!r} wrongly")
    if dtype is None:
        raise ModelError(
            f"{path}: {name} is stored as {code}, which is not supported; "
            "give bf16, fp16 or fp32 weights"
        )
    entry = Entry(dtype, tuple(shape))
    if stop - start != entry.nbytes:
        raise ModelError(
            f"{path}: not safetensors: {name} has {stop - start} bytes for shape {entry.shape}"
        )
    return entry, stop
