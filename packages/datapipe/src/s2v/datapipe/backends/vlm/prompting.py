"""Prompts are files with an id and a version; what depends on them depends on their digest.

A prompt file is TOML with ``id``, ``version``, ``system``, ``user`` and ``schema`` (JSON schema as
text). ``{name}`` in ``user`` stands for what is filled in.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.settings import SettingsError, parse

_FIELD = re.compile(r"\{([a-z_]+)\}")
_MAX_BYTES = 1 << 18


class Prompt(BaseModel):
    """A prompt as its file states it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    version: int = Field(ge=1)
    system: str = ""
    user: str = Field(min_length=1)
    schema_text: str = Field(alias="schema")

    @property
    def schema_(self) -> dict[str, Any]:
        """The schema of the answer."""
        found: dict[str, Any] = json.loads(self.schema_text)
        return found

    def fill(self, fields: Mapping[str, str]) -> str:
        """The user's message; what is filled in is not searched for fields again."""
        return _FIELD.sub(lambda found: fields[found[1]], self.user)

    def digest(self, asked: Mapping[str, Any]) -> str:
        """sha256 over the prompt, its schema and how it is asked (sampling, pictures)."""
        stated = {**self.model_dump(by_alias=True), "schema": self.schema_}
        whole = json.dumps({"prompt": stated, "asked": asked}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(whole.encode()).hexdigest()


@dataclass(frozen=True)
class Slot:
    """A prompt that comes with the package, and what can be filled in."""

    name: str
    fields: frozenset[str] = frozenset()


def load(slot: Slot, own: str | None, where: str, key: str = "prompt") -> Prompt:
    """Read the package's prompt, or the user's own in its place, named by option ``key``.

    A user's file may leave out the schema, which is then the package's: answers are validated
    against what the role needs, whatever the file says.

    Raises:
        SettingsError: no such file, unknown keys or fields, or a schema that is no JSON object.
    """
    built_in = resources.files(__package__).joinpath("prompts", f"{slot.name}.toml")
    data = tomllib.loads(built_in.read_text(encoding="utf-8"))
    if own is not None:
        data = {"schema": data["schema"], **_read(Path(own).expanduser(), f"{where}.{key}")}
    prompt = parse(Prompt, data, f"{where}.{key} ({own or slot.name})")
    if unknown := set(_FIELD.findall(prompt.user)) - slot.fields:
        known = ", ".join(f"{{{name}}}" for name in sorted(slot.fields)) or "none"
        raise SettingsError(
            f"{where}.{key}: {own}: unknown field {{{min(unknown)}}} in user; known: {known}"
        )
    if missing := slot.fields - set(_FIELD.findall(prompt.user)):
        raise SettingsError(f"{where}.{key}: {own}: user lacks the field {{{min(missing)}}}")
    try:
        schema = prompt.schema_
    except ValueError as error:
        raise SettingsError(f"{where}.{key}: {own}: schema is not JSON: {error}") from None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise SettingsError(f"{where}.{key}: {own}: schema must be of an object")
    return prompt


def _read(path: Path, where: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SettingsError(f"{where}: {path}: longer than {_MAX_BYTES} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{where}: {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where}: {path}: not valid TOML: {error}") from None
