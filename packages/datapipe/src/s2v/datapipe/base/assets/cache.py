"""The asset cache: where files lie, whether they are the pinned ones, and what is missing.

A file's sha256 is computed once, when it arrives or is first met; a stamp then records its size and
modification time, and later look-ups compare just those. `verify` computes every digest again.
Files may also be put into the cache by hand (a machine without network): they are hashed when first
asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s2v.datapipe.base.assets.errors import AssetCorrupt, AssetError, AssetMissing
from s2v.datapipe.base.assets.extract import sha256_of
from s2v.datapipe.base.assets.manifest import Asset, Member, lookup, select

_STAMPS = ".stamps"
_Stamp = dict[str, list[str | int]]


@dataclass(frozen=True)
class Listing:
    """One row of `s2v-data assets list`; `size` in bytes."""

    name: str
    role: str
    kind: str
    licence: str
    size: int
    present: bool
    path: Path


def cache_root() -> Path:
    """Returns the cache folder: `$S2V_ASSETS`, or `~/.cache/s2v/assets`. It need not exist."""
    given = os.environ.get("S2V_ASSETS")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "s2v" / "assets"


def location(asset: Asset, root: Path | None = None) -> Path:
    """Returns where an asset lies or would lie: a file, or a folder if it has several files."""
    folder = (root or cache_root()) / asset.name
    return folder if asset.is_folder else folder / asset.files[0].path


def asset(name: str) -> Path:
    """Returns the path of an asset that is in the cache and is the pinned one.

    Never uses the network. Cheap after the first call for a file (see the module's text).

    Args:
        name: Name in the manifest, for example `yunet`.

    Raises:
        AssetUnknown: If the manifest has no such name.
        AssetMissing: If a file is absent; the message has the command that fetches it.
        AssetCorrupt: If a file differs from its pin; likewise.
    """
    entry = lookup(name)
    check(entry)
    return location(entry)


def check(entry: Asset, *, full: bool = False, root: Path | None = None) -> None:
    """Checks that every file of an asset is there and right.

    Args:
        entry: The asset.
        full: Compute every sha256 again instead of trusting the stamp.
        root: Cache folder; by default `cache_root()`.

    Raises:
        AssetMissing: If a file is absent.
        AssetCorrupt: If a size or digest differs.
    """
    root = root or cache_root()
    stamp = {} if full else _read_stamp(root, entry)
    fresh: _Stamp = {}
    for file in entry.files:
        path = root / entry.name / file.path
        try:
            state = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise AssetMissing(_missing(entry, file, path)) from None
        if state.st_size != file.size:
            raise AssetCorrupt(
                _corrupt(entry, path, f"{state.st_size} bytes, expected {file.size}")
            )
        mark: list[str | int] = [file.sha256, state.st_size, state.st_mtime_ns]
        if stamp.get(file.path) != mark:
            found = sha256_of(path)
            if found != file.sha256:
                detail = f"sha256 {found[:12]}…, expected {file.sha256[:12]}…"
                raise AssetCorrupt(_corrupt(entry, path, detail))
        fresh[file.path] = mark
    if fresh != stamp:
        _write_stamp(root, entry, fresh)


def is_present(entry: Asset, root: Path | None = None) -> bool:
    """Whether every file of an asset is there and right (cheap check)."""
    try:
        check(entry, root=root)
    except AssetError:
        return False
    return True


def verify(names: str | Iterable[str] = "all") -> list[AssetError]:
    """Computes the sha256 of every selected file again.

    Args:
        names: Assets or groups. Optional assets that are absent are not an error unless named.

    Returns:
        One error per asset that is missing or corrupt; empty if all is well.
    """
    named = {names} if isinstance(names, str) else set(names)
    problems: list[AssetError] = []
    for entry in select(named):
        try:
            check(entry, full=True)
        except AssetMissing as error:
            if not entry.optional or entry.name in named:
                problems.append(error)
        except AssetError as error:
            problems.append(error)
    return problems


def listing(names: str | Iterable[str] = "all") -> list[Listing]:
    """Returns name, role, licence, size and presence of the selected assets."""
    return [
        Listing(
            name=entry.name,
            role=entry.role,
            kind=entry.kind,
            licence=entry.licence,
            size=entry.size,
            present=is_present(entry),
            path=location(entry),
        )
        for entry in select(names)
    ]


def forget_stamp(entry: Asset, root: Path) -> None:
    """Removes the record of an earlier check, before a file is replaced."""
    (root / _STAMPS / f"{entry.name}.json").unlink(missing_ok=True)


def _read_stamp(root: Path, entry: Asset) -> _Stamp:
    try:
        stamp = json.loads((root / _STAMPS / f"{entry.name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(root: Path, entry: Asset, stamp: _Stamp) -> None:
    # A read-only cache (an image layer, a shared mount) works too: it is hashed at each look-up.
    with contextlib.suppress(OSError):
        folder = root / _STAMPS
        folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as handle:
            json.dump(stamp, handle, sort_keys=True)
        Path(handle.name).replace(folder / f"{entry.name}.json")


def _missing(entry: Asset, file: Member, path: Path) -> str:
    return (
        f"asset {entry.name!r} is missing its file {file.path} (role: {entry.role}); "
        f"looked for {path}; fetch it with `s2v-data assets fetch {entry.name}`"
    )


def _corrupt(entry: Asset, path: Path, detail: str) -> str:
    return (
        f"asset {entry.name!r} is damaged: {path} has {detail} (role: {entry.role}); "
        f"replace it with `s2v-data assets fetch {entry.name}`"
    )
