"""Recipes: TOML files that state what differs from the defaults, or from another recipe.

``base = "name"`` or ``base = ["name", "file.toml"]`` says what a file is laid over. On a command
line ``a+b`` lays ``b`` over ``a``, without what ``b`` is based on: an ablation is a recipe of its
own and a change to any other.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from s2v.datapipe.base import settings
from s2v.datapipe.base.settings import SettingsError


def names() -> list[str]:
    """Of the recipes that come with the package."""
    folder = resources.files("s2v.model") / "recipes"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def gather(recipe: str, kind: type[BaseModel]) -> tuple[dict[str, Any], str]:
    """All that a recipe says, its bases' below it.

    Args:
        recipe: a name, a path, or several joined by ``+``.
        kind: the configuration: where a value is a section, the keys inside are laid over; any
            other value is replaced whole.

    Returns:
        The nested mapping, and what to call it in errors.

    Raises:
        SettingsError: no such recipe, broken TOML, an unknown key, a base of itself.
    """
    if Path(recipe).is_file():
        return _read(recipe, None, kind, ()), recipe
    first, *others = recipe.split("+")
    data = _read(first, None, kind, ())
    for other in others:
        data = merged(kind, data, _file(_find(other, None), kind)[0])
    return data, recipe


def merged(
    kind: type[BaseModel], below: Mapping[str, Any], above: Mapping[str, Any]
) -> dict[str, Any]:
    """``above`` laid over ``below``: section by section, values whole.

    A mixture is a value: ``mix = { in = 1.0 }`` leaves nothing of the one below.
    """
    out = dict(below)
    for key, value in above.items():
        field = kind.model_fields.get(key)
        section = field.annotation if field is not None else None
        inner = out.get(key)
        if _is_section(section) and isinstance(inner, Mapping) and isinstance(value, Mapping):
            out[key] = merged(section, inner, value)  # type: ignore[arg-type]  # checked
        else:
            out[key] = value
    return out


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _read(
    recipe: str, folder: Path | None, kind: type[BaseModel], seen: tuple[Path, ...]
) -> dict[str, Any]:
    """One file over its bases."""
    path = _find(recipe, folder)
    if path in seen:
        chain = " -> ".join(str(p.name) for p in (*seen, path))
        raise SettingsError(f"{path}: base goes in a circle: {chain}")
    own, bases = _file(path, kind)
    data: dict[str, Any] = {}
    for base in bases:
        data = merged(kind, data, _read(base, path.parent, kind, (*seen, path)))
    return merged(kind, data, own)


def _file(path: Path, kind: type[BaseModel]) -> tuple[dict[str, Any], list[str]]:
    """What a file says itself, and its bases."""
    own = settings.read(path)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise SettingsError(f"{path}: base: a name or a list of names (given: {bases!r})")
    settings.check_keys(kind, own, str(path))
    return own, bases


def _find(recipe: str, folder: Path | None) -> Path:
    """The file of a name, or a path: of a base, beside the file that names it."""
    if recipe in names():
        # Packages are installed as files; a zipped one has no other way to be read twice.
        with resources.as_file(resources.files("s2v.model") / "recipes" / f"{recipe}.toml") as path:
            return Path(path).resolve()
    path = (folder or Path()) / recipe
    if path.is_file():
        return path.resolve()
    near = difflib.get_close_matches(recipe, names(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"recipes: {', '.join(names())}"
    raise SettingsError(f"{recipe}: no such recipe or file; {hint}")
