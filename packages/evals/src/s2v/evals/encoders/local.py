"""Weights that a user has on disk, named in one file with the digests they must have.

    [buffalo_l]
    path = "models/buffalo_l"
    sha256 = { "det_10g.onnx" = "5838...", "w600k_r50.onnx" = "4c06..." }

    [ir101]
    path = "models/glint360k_curricular_face_r101_backbone.bin"
    sha256 = "aa54..."

Nothing is downloaded. A file whose digest is another one is refused before it is opened. A number
belongs to its weights: unless every file is known to be the published one, the protocol id carries
the first digits of their digest (``facesim.cur@ir101~1f2e3d4c``), so that two numbers of
different weights are never compared.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.assets.extract import sha256_of
from s2v.datapipe.base.settings import parse
from s2v.evals.errors import EvalError

_SCRFD: Final = "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"
PUBLISHED: Final[Mapping[str, Mapping[str, str]]] = {
    "buffalo_l": {
        "det_10g.onnx": _SCRFD,
        "w600k_r50.onnx": "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    },
    "antelopev2": {
        "scrfd_10g_bnkps.onnx": _SCRFD,
        "glintr100.onnx": "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    },
    "ir101": {"": "aa54ae6dc9f7ac6e262809f1a81d6108e221952bf836aee4cb677ef19246c6ec"},
}
"""Digests of the files behind published numbers, as far as anybody printed them; a folder's are
those of the files that are read. AuraFace is given away under the name ``glintr100.onnx``, too."""

_NAMES: Final = (
    "buffalo_l, antelopev2 (folders of an insightface pack), ir101, viclip, open_clip, dinov2, "
    "dino, clip_l14, clip_b32, aesthetic_mlp, aesthetic_linear, musiq, raft, gme"
)


class LocalWeights(BaseModel):
    """One entry of the weights file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="file or folder; relative paths start at the weights file")
    sha256: str | dict[str, str] = Field(
        description="of the file; for a folder, of each file of it that is read"
    )
    model: str | None = Field(
        default=None, description="open_clip's architecture name or configuration file"
    )


@dataclass(frozen=True)
class Weights:
    """The entries of a weights file, by name.

    Attributes:
        folder: where relative paths start.
        entries: as written.
    """

    folder: Path = Path()
    entries: Mapping[str, LocalWeights] | None = None

    @classmethod
    def read(cls, path: str | Path) -> Weights:
        """Read a weights file; no weights are opened.

        Raises:
            EvalError: unreadable, no TOML, an unknown name or key.
        """
        file = Path(path)
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise EvalError(f"{file}: cannot read the weights file: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EvalError(f"{file}: not a TOML file: {error}") from error
        known = {name.split()[0] for name in _NAMES.split(", ")}
        entries = {}
        for name, value in sorted(data.items()):
            if name not in known:
                raise EvalError(f"{file}: no weights are called {name!r}; known: {_NAMES}")
            if not isinstance(value, dict):
                raise EvalError(f"{file}: {name} must be a table with path and sha256")
            try:
                entries[name] = parse(LocalWeights, value, name)
            except ValueError as error:
                raise EvalError(f"{file}: {error}") from error
        return cls(file.resolve().parent, entries)

    def __contains__(self, name: object) -> bool:
        return name in (self.entries or {})

    def entry(self, name: str) -> LocalWeights:
        """One entry.

        Raises:
            EvalError: there is none; the message shows what to write.
        """
        if name not in self:
            raise EvalError(
                f"the weights {name!r} are not named; write [{name}] with path and sha256 into a "
                "file and give it as --weights"
            )
        return (self.entries or {})[name]

    def path(self, name: str) -> Path:
        """Where the weights lie, with every digest checked once per process.

        Raises:
            EvalError: no such entry or file, or another digest.
        """
        entry = self.entry(name)
        where = (self.folder / Path(entry.path).expanduser()).resolve()
        for part, wanted in self.files(name).items():
            _check(where / part if part else where, wanted, name)
        return where

    def files(self, name: str) -> dict[str, str]:
        """File name (empty for a single file) -> its sha256, as the entry states them."""
        entry = self.entry(name)
        stated = {"": entry.sha256} if isinstance(entry.sha256, str) else dict(entry.sha256)
        if not stated:
            raise EvalError(f"{name}.sha256 names no file")
        for part, value in stated.items():
            if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
                raise EvalError(f"{name}.sha256 {part}: {value!r} is not 64 lower-case hex digits")
            if part and (Path(part).is_absolute() or ".." in Path(part).parts):
                raise EvalError(f"{name}.sha256: {part!r} must lie inside the folder")
        return dict(sorted(stated.items()))

    def digests(self, names: tuple[str, ...]) -> dict[str, str]:
        """``name/file`` -> sha256 of everything these weights are made of, and the model's name."""
        found: dict[str, str] = {}
        for name in sorted(names):
            found |= {f"{name}/{part}".rstrip("/"): sha for part, sha in self.files(name).items()}
            if model := self.entry(name).model:
                path = self.folder / model
                text = path.read_bytes() if model.endswith(".json") else model.encode()
                found[f"{name}#model"] = hashlib.sha256(text).hexdigest()
        return found

    def mark(self, names: tuple[str, ...]) -> str:
        """What the protocol id says of these weights: nothing where they are the published ones."""
        if all(_is_published(name, self.files(name)) for name in names):
            return ""
        text = "\n".join(f"{k} {v}" for k, v in sorted(self.digests(names).items()))
        return "~" + hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_published(name: str, files: Mapping[str, str]) -> bool:
    known = PUBLISHED.get(name)
    return known is not None and dict(known) == dict(files)


@lru_cache(maxsize=256)
def _check(path: Path, wanted: str, name: str) -> None:
    if not path.is_file():
        raise EvalError(f"{path}: no such file; the weights file names it under [{name}]")
    found = sha256_of(path)
    if found != wanted:
        raise EvalError(
            f"{path}: sha256 is {found}, the weights file says {wanted}; fetch the right file or "
            "state the digest of the one you mean"
        )
