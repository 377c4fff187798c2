"""Typed configuration from TOML: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

S = TypeVar("S", bound=BaseModel)


class SettingsError(ValueError):
    """A configuration that cannot be used; the message names file, key and way out."""


def load(kind: type[S], path: Path | None, overrides: Sequence[str] = ()) -> S:
    """Read a TOML file into ``kind``, then apply ``a.b=value`` overrides.

    Args:
        kind: a pydantic model with ``extra="forbid"``.
        path: the file, or ``None`` to start from the defaults.
        overrides: ``key.path=value``; the value is read as TOML, else taken as a string.

    Raises:
        SettingsError: missing or unreadable file, unknown key, value of the wrong kind.
    """
    data = read(path) if path is not None else {}
    apply(data, overrides)
    return parse(kind, data, str(path) if path else "defaults")


def read(path: Path) -> dict[str, Any]:
    """The nested mapping of a TOML file.

    Raises:
        SettingsError: missing or unreadable.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise SettingsError(f"{path}: is a folder, not a configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def apply(data: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put ``a.b=value`` overrides into a nested mapping.

    Raises:
        SettingsError: an override that is none.
    """
    for override in overrides:
        _apply(data, override)


def check_keys(kind: type[BaseModel], data: dict[str, Any], where: str) -> None:
    """Refuse unknown keys of one part of a configuration, which need not be whole or valid.

    Raises:
        SettingsError: an unknown key; the nearest known one is named.
    """
    try:
        kind.model_validate(data)
    except ValidationError as error:
        unknown = [e for e in error.errors() if e["type"] == "extra_forbidden"]
        if unknown:
            raise SettingsError("; ".join(_explain(kind, e, where) for e in unknown)) from None


def parse(kind: type[S], data: dict[str, Any], where: str) -> S:
    """Validate ``data`` as ``kind``; ``where`` names its origin in errors."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(kind, e, where) for e in error.errors())) from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, sign, raw = override.partition("=")
    if not sign or not key.strip():
        raise SettingsError(f"--set {override!r}: expected key.path=value")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except tomllib.TOMLDecodeError:
        value = raw
    *parents, last = key.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise SettingsError(f"--set {override!r}: {parent!r} is a value, not a section")
    data[last] = value


def _explain(kind: type[BaseModel], error: Any, where: str) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        given = error.get("input")
        shown = f" (given: {given!r})" if not isinstance(given, dict) else ""
        return f"{where}: {path}: {error['msg']}{shown}"
    known = sorted(_keys(kind, error["loc"][:-1]))
    nearest = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(known)}"
    return f"{where}: unknown key {path!r}; {hint}"


def _keys(kind: type[BaseModel], loc: tuple[Any, ...]) -> set[str]:
    models: list[type[BaseModel]] = [kind]
    for part in loc:
        if isinstance(part, int):
            continue
        models = [
            inner
            for model in models
            if part in model.model_fields
            for inner in _models(model.model_fields[part].annotation)
        ]
    return {name for model in models for name in model.model_fields}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
