"""``state.json``: the counters of a checkpoint and the digests of its files. No pickle.

A checkpoint of W processes::

    step-00000100/
      state.json                         step, plan, counters, what it is of, digests of all files
      model/rank-00000.safetensors ...   what process 0 held of the weights, and so on
      ema/   optim/                      their moving average; the optimiser's state

Torch's own ``.metadata`` is a pickle, which runs code when it is read. What it says stands here
in the files' headers, under the names that torch's ``HuggingFaceStorageReader`` knows: that reader
takes each of the three folders as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.atomic import sha256_file, write_json
from s2v.model.checkpointing.names import STATE
from s2v.model.errors import ModelError

FORMAT: Final = "s2v-train-2"
FIRST: Final = "s2v-mmdit-1"  # one process; three files, no folders
PARTS: Final = ("model", "ema", "optim")
_LIMIT: Final = 256 << 20  # bytes of state.json


@dataclass(frozen=True)
class File:
    """One file of a checkpoint.

    Attributes:
        name: relative to the checkpoint, with ``/``.
        bytes: its size.
        sha256: of its content.
    """

    name: str
    bytes: int | None
    sha256: str


@dataclass(frozen=True)
class Described:
    """What ``state.json`` says; no tensor is read for it.

    Attributes:
        path: the checkpoint.
        format: of the files.
        step: finished steps.
        state: plan, counters; JSON values.
        about: network, widths of its inputs, fingerprint of the encoders.
        written_by: versions and number of processes; empty for the first format.
        files: of each part, sorted by name.
    """

    path: Path
    format: str
    step: int
    state: Mapping[str, Any]
    about: Mapping[str, Any]
    written_by: Mapping[str, Any]
    files: Mapping[str, tuple[File, ...]]

    def digest(self, part: str) -> str:
        """What identifies the content of a part: its file's sha256, or that of all of theirs."""
        files = self.files.get(part, ())
        if len(files) == 1:
            return files[0].sha256
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()


def write(folder: Path, head: Mapping[str, Any], files: Mapping[str, File]) -> None:
    """Write ``state.json`` into a checkpoint that is still hidden.

    Args:
        folder: the hidden checkpoint.
        head: ``step state about written_by``.
        files: all of its files.
    """
    listed = {n: {"bytes": files[n].bytes, "sha256": files[n].sha256} for n in sorted(files)}
    # As it will be read: JSON knows no tuples and no keys but strings.
    body = json.loads(json.dumps({"format": FORMAT, **head, "files": listed}))
    write_json(folder / STATE, {**body, "sha256": _digest(body)})


def describe(path: Path) -> Described:
    """Read ``state.json``.

    Raises:
        ModelError: no checkpoint, a broken one, or of another format.
    """
    said = _read(path)
    kind = said.get("format")
    if kind == FORMAT:
        body = {key: value for key, value in said.items() if key != "sha256"}
        if said.get("sha256") != _digest(body):
            raise _broken(path, "changed since it was written")
        listed, by = said.get("files"), said.get("written_by")
    elif kind == FIRST:
        digests = said.get("sha256")
        listed = {n: {"bytes": None, "sha256": d} for n, d in dict(digests or {}).items()}
        by = {}
    else:
        raise ModelError(
            f"{path}: format {kind!r}, expected {FORMAT!r}; it was written by another version"
        )
    try:
        files = [_file(name, facts) for name, facts in sorted(dict(listed or {}).items())]
        return Described(
            path=path,
            format=str(kind),
            step=int(said["step"]),
            state=dict(said["state"]),
            about=dict(said["about"]),
            written_by=dict(by or {}),
            files={p: tuple(f for f in files if _part(f.name) == p) for p in PARTS},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from None


def content(about: Mapping[str, Any]) -> str:
    """What a file's own header says it is, for who finds it alone."""
    return f"s2v-{dict(about.get('network', {})).get('kind', 'mmdit')}-2"


def check(described: Described, file: File) -> str | None:
    """What is wrong with a file, or None when it is as it was written."""
    path = described.path / file.name
    try:
        if file.bytes is not None and path.stat().st_size != file.bytes:
            return f"{path}: {path.stat().st_size} bytes, {file.bytes} were written"
        if sha256_file(path) == file.sha256:
            return None
    except OSError as error:
        return f"{path}: missing or unreadable ({error.strerror or error})"
    return f"{path}: changed since it was written"


def damaged(path: Path, what: str) -> ModelError:
    """The error for a checkpoint that is not as it was written."""
    return ModelError(f"{what}; remove {path} to go on from the checkpoint before it")


def _read(path: Path) -> dict[str, Any]:
    file = path / STATE
    try:
        if file.stat().st_size > _LIMIT:
            raise _broken(path, f"larger than {_LIMIT} bytes")
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"{path}: no checkpoint here ({STATE} is missing)") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(said, dict):
        raise _broken(path, "no JSON object")
    return said


def _broken(path: Path, why: str) -> ModelError:
    return damaged(path, f"{path / STATE}: broken ({why})")


def _file(name: str, facts: Mapping[str, Any]) -> File:
    pieces = name.split("/")
    if len(pieces) > 2 or any(p in {"", ".", ".."} or "\\" in p for p in pieces):
        raise ValueError(f"a file named {name!r}")
    size = facts["bytes"]
    return File(name, None if size is None else int(size), str(facts["sha256"]))


def _part(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".safetensors")


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
