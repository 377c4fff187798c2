"""One file, a set of shards or a folder, as one mapping of names to tensors.

Nothing is read but names, types and shapes until a tensor is asked for, so a model of 57 GB is
looked at in milliseconds and loaded with no second copy of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from torch import Tensor

from s2v.model.checkpoints.safetensors_file import Entry, SafetensorsFile
from s2v.model.checkpoints.sniff import SUFFIXES, container
from s2v.model.checkpoints.torch_file import TorchFile
from s2v.model.errors import ModelError

INDEX_LIMIT: Final = 32 << 20  # bytes of JSON
_SHARD: Final = re.compile(r"^(?P<base>.+)-(?P<n>\d{5})-of-(?P<of>\d{5})(?P<suffix>\.\w+)$")


class _File(Protocol):
    path: Path
    metadata: dict[str, str]
    entries: dict[str, Entry]

    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Weights:
    """Tensors by name.

    Attributes:
        path: what was asked for; names it in errors.
        container: ``safetensors``, ``sharded safetensors``, ``torch``, ``sharded torch``.
        files: all files, in order.
        entries: type and shape of each tensor, by name, sorted.
        metadata: strings stored beside them (safetensors only).
    """

    path: Path
    container: str
    files: tuple[Path, ...]
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    _where: Mapping[str, _File] = field(repr=False)

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from its file where the format allows."""
        return self._where[name].read(name)

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(entry.numel for entry in self.entries.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of tensors of each type."""
        found: dict[str, int] = {}
        for entry in self.entries.values():
            found[entry.dtype] = found.get(entry.dtype, 0) + 1
        return dict(sorted(found.items()))


def open_weights(path: Path) -> Weights:
    """Open a file of weights, or the index of its shards.

    Args:
        path: ``.safetensors``, a file of ``torch.save`` or ``*.index.json``. A shard opens alone.

    Raises:
        ModelError: what :mod:`sniff` and the readers refuse; a folder (see :func:`in_folder`).
    """
    if path.is_dir():
        raise ModelError(f"{path}: a folder; name the file, or use what reads folders")
    if path.name.endswith(".index.json"):
        return _of_index(path)
    return _joined(path, [path])


def in_folder(folder: Path) -> list[Weights]:
    """All weights that lie in a folder, not below it: each file or set of shards once.

    Raises:
        ModelError: a file is broken, or a shard of a set is missing.
    """
    return [of_group(group) for group in groups(folder)]


def groups(folder: Path) -> list[tuple[Path, ...]]:
    """The sets of files in a folder that belong together: ``(index,)``, shards, or one file."""
    names = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    indices = [p for p in names if p.name.endswith(".index.json") and not p.is_dir()]
    taken = {name for index in indices for name in _weight_map(index).values()}
    rest = [p for p in names if p.suffix in SUFFIXES and p.name not in taken and not p.is_dir()]
    shards: dict[tuple[str, str, str], list[Path]] = {}
    single = []
    for path in rest:
        match = _SHARD.match(path.name)
        if match:
            shards.setdefault((match["base"], match["of"], match["suffix"]), []).append(path)
        else:
            single.append(path)
    found = [(p,) for p in indices] + [tuple(g) for g in shards.values()]
    return sorted([*found, *((p,) for p in single)])


def of_group(group: Sequence[Path]) -> Weights:
    """One of :func:`groups`.

    Raises:
        ModelError: a file is broken, or a shard is missing.
    """
    if len(group) == 1 and not _SHARD.match(group[0].name):
        return open_weights(group[0])
    match = _SHARD.match(group[0].name)
    assert match is not None  # noqa: S101 - groups() made it so
    have, of = {int(m["n"]) for p in group if (m := _SHARD.match(p.name))}, int(match["of"])
    missing = sorted(set(range(1, of + 1)) - have)
    if missing:
        raise ModelError(
            f"{group[0].parent}: of {match['base']} only {len(have)} of {of} shards are there; "
            f"number {missing[0]} is missing"
        )
    return _joined(group[0].parent / f"{match['base']}{match['suffix']}", group)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor to file name, checked: plain names only, so that an index cannot point elsewhere."""
    try:
        if index.stat().st_size > INDEX_LIMIT:
            raise ModelError(f"{index}: larger than {INDEX_LIMIT} bytes; not an index of shards")
        said = json.loads(index.read_bytes())
    except OSError as error:
        raise ModelError(f"{index}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{index}: broken JSON ({error}); download it again") from None
    found = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{index}: no weight_map in it; not an index of shards")
    for name in sorted(set(map(str, found.values()))):
        # Names are checked, not where links lead: hub caches are folders of links.
        if Path(name).name != name or name in {".", ".."} or "\\" in name:
            raise ModelError(
                f"{index}: names the file {name!r} outside its folder; such an index is not used"
            )
        if Path(name).suffix not in SUFFIXES:
            raise ModelError(f"{index}: names {name!r}, which is no file of weights")
    return {str(k): str(v) for k, v in found.items()}


def _of_index(index: Path) -> Weights:
    where = _weight_map(index)
    names = sorted(set(where.values()))
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise ModelError(
            f"{index}: {len(absent)} of its {len(names)} shards are not beside it, "
            f"the first is {absent[0]}; download them too"
        )
    joined = _joined(index, [index.parent / name for name in names])
    lost = [k for k in sorted(where) if k not in joined.entries]
    if lost:
        raise ModelError(
            f"{index}: names {lost[0]} and {len(lost) - 1} more that no shard holds; "
            "index and shards are of different files"
        )
    return joined


def _joined(path: Path, files: Sequence[Path]) -> Weights:
    where: dict[str, _File] = {}
    metadata: dict[str, str] = {}
    kinds = set()
    for opened in _opened(files):
        kinds.add("safetensors" if isinstance(opened, SafetensorsFile) else "torch")
        double = sorted(where.keys() & opened.entries.keys())
        if double:
            raise ModelError(f"{opened.path}: {double[0]} is also in {where[double[0]].path.name}")
        where |= dict.fromkeys(opened.entries, opened)
        metadata |= opened.metadata
    if not where:
        raise ModelError(f"{path}: holds no tensor")
    kind = " and ".join(sorted(kinds))
    sharded = len(files) > 1 or path.name.endswith(".index.json")
    return Weights(
        path=path,
        container=f"sharded {kind}" if sharded else kind,
        files=tuple(files),
        entries={name: where[name].entries[name] for name in sorted(where)},
        metadata=metadata,
        _where=where,
    )


def _opened(files: Sequence[Path]) -> Iterator[_File]:
    for path in files:
        kind = container(path)
        if kind == "safetensors":
            yield _whole(SafetensorsFile(path))
        else:
            yield TorchFile(path, zipped=kind == "torch zip")


def _whole(file: SafetensorsFile) -> SafetensorsFile:
    """Refuse one process's share of a training checkpoint: its tensors are pieces."""
    try:
        said = json.loads(file.metadata.get("DCP_SHARDING_INFO", "{}"))
        shapes = {name: facts.get("global_shape") for name, facts in said.items()}
    except (ValueError, AttributeError, RecursionError):
        shapes = {}
    for name, entry in file.entries.items():
        whole = shapes.get(name)
        if whole is not None and whole != list(entry.shape):
            raise ModelError(
                f"{file.path}: the share of one process: of {name} {whole} it holds {entry.shape}; "
                "name the checkpoint's folder"
            )
    return file


def read_json(path: Path, limit: int = 1 << 20) -> dict[str, Any]:
    """A small JSON object of a stranger's folder.

    Raises:
        ModelError: too large, broken or no object.
    """
    try:
        if path.stat().st_size > limit:
            raise ModelError(f"{path}: larger than {limit} bytes")
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: broken JSON ({error})") from None
    if not isinstance(said, dict):
        raise ModelError(f"{path}: no JSON object")
    return said
