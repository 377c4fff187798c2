"""A pool of references and prompts from which a suite is drawn."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from s2v.evals.errors import EvalError
from s2v.evals.manifest import MAX_BYTES, Reference, explain, read_text


class Entry(BaseModel):
    """One subject, or one group of subjects, with what may be asked of it.

    Attributes:
        reference_id: cluster of its videos; part of their sample ids.
        category: stratum, as human, animal, product, environment, clothing; the samples' scenario.
        refs: reference images, in the order a model is given them.
        prompts: different ones, each naming the subjects.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    reference_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")
    category: str = Field(min_length=1)
    refs: tuple[Reference, ...] = Field(strict=False, min_length=1)
    prompts: tuple[str, ...] = Field(strict=False, min_length=1)

    @field_validator("prompts")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not one.strip() for one in value):
            raise ValueError("a prompt is empty")
        if len(set(value)) != len(value):
            raise ValueError("a prompt is there twice")
        return value

    @property
    def faces(self) -> tuple[Reference, ...]:
        """References that show a face to be kept."""
        return tuple(ref for ref in self.refs if ref.is_face)


@dataclass(frozen=True)
class Pool:
    """A parsed pool.

    Attributes:
        path: the file.
        sha256: of it.
        entries: by ``reference_id``.
    """

    path: Path
    sha256: str
    entries: tuple[Entry, ...]

    def resolve(self, name: str) -> Path:
        """Absolute path of a file named in the pool."""
        return Path(os.path.realpath(self.path.parent / name))  # links may go in a circle


def load_pool(path: str | Path) -> Pool:
    """Read a pool of JSON lines.

    Raises:
        EvalError: naming file, line and field: unreadable, a wrong line, an id twice, no entry.
    """
    file = Path(path)
    raw, text = read_text(file, "pool", MAX_BYTES)
    entries: dict[str, Entry] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError as error:
            raise EvalError(f"{file} line {number}: {explain(error)}") from error
        if entry.reference_id in entries:
            raise EvalError(f"{file} line {number}: {entry.reference_id!r} is there twice")
        entries[entry.reference_id] = entry
    if not entries:
        raise EvalError(f"{file}: no entry in the pool (one JSON object per line expected)")
    ordered = tuple(entries[name] for name in sorted(entries))
    return Pool(file.resolve(), hashlib.sha256(raw).hexdigest(), ordered)
