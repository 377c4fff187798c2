"""The user's own videos: found by the names of a dataset, never by its paths.

Datasets of this kind ship no pixels, so the user says where the videos are: a folder, or a
table of names and files. A path in a stranger's file is only looked up among what is there, so
that it can lead nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final

from s2v.datapipe.base.media import isolated
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.probe import VideoProbe
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.manifest import manifest_rows
from s2v.datapipe.sources.spec import MANIFEST_SUFFIXES, VIDEO_SUFFIXES
from s2v.datapipe.sources.stores import Stores

_KEPT: Final = 256  # films whose facts are remembered


@dataclass(frozen=True)
class Film:
    """A video file of the user's.

    Attributes:
        path: the file.
        facts: its probe.
    """

    path: Path
    facts: VideoProbe

    def times(self) -> list[int]:
        """Microseconds of every frame, by number.

        Raises:
            RowError: the file has no usable times.
        """
        return list(_times(self.path))


class Videos:
    """A folder of videos, or a table that names them."""

    def __init__(self, place: Path) -> None:
        """List what is there; no video is opened.

        Args:
            place: a folder, searched deep; or a CSV, JSONL or Parquet with columns ``name`` and
                ``file``, the latter relative to the table.

        Raises:
            InteropError: neither, or without videos.
        """
        self.place = place
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[Path]] = {}
        self._by_file: dict[str, list[str]] = {}
        if place.is_dir():
            self._walk()
        elif place.is_file() and place.suffix in MANIFEST_SUFFIXES:
            self._read()
        else:
            raise InteropError(
                f"{place}: no folder of videos, and no table ({', '.join(MANIFEST_SUFFIXES)}) "
                "with columns name and file"
            )
        if not self._by_name:
            raise InteropError(
                f"{place}: holds no video; suffixes read are {', '.join(sorted(VIDEO_SUFFIXES))}"
            )

    def _walk(self) -> None:
        def unreadable(error: OSError) -> None:
            raise InteropError(f"{error.filename}: cannot be read ({error.strerror})")

        for parent, folders, names in os.walk(self.place, onerror=unreadable):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                if path.suffix.lower() in VIDEO_SUFFIXES:
                    self._add(path.relative_to(self.place).as_posix(), path.stem, path)

    def _read(self) -> None:
        try:
            for where, row in manifest_rows(str(self.place), Stores()):
                name, file = row.get("name"), row.get("file")
                if not isinstance(name, str) or not isinstance(file, str):
                    raise InteropError(f"{where}: needs a name and a file, has {sorted(row)}")
                self._add(name, name, self.place.parent / file)
        except SourceError as error:
            raise InteropError(str(error)) from None

    def _add(self, relative: str, name: str, path: Path) -> None:
        self._by_path[relative] = path
        self._by_name.setdefault(name, []).append(path)
        self._by_file.setdefault(relative.rpartition("/")[2], []).append(relative)

    def named(self, names: Iterable[str]) -> Path | None:
        """The file of the first name that is there, without its suffix or as a path.

        Raises:
            RowError: several files have that name.
        """
        for name in names:
            if (path := self._by_path.get(name)) is not None:
                return path
            if found := self._by_name.get(name):
                if len(found) > 1:
                    raise RowError(
                        "video not found", f"{name!r} is both {found[0]} and {found[1]}; rename one"
                    )
                return found[0]
        return None

    def at(self, path: str) -> Path:
        """The file at a path that a dataset gives, below the folder.

        The path may begin further down than the folder does, or further up: users unpack the
        parts of a dataset beside or below each other.

        Raises:
            RowError: there is none, or several, or the path leads out of the folder.
        """
        asked = PurePosixPath(path)
        if asked.is_absolute() or ".." in asked.parts or "\\" in path or "\0" in path:
            raise RowError("video not found", f"{path[:200]!r} leads out of the folder of videos")
        there = self._by_file.get(asked.name, [])
        for first in range(len(asked.parts)):
            ending = "/".join(asked.parts[first:])
            found = [name for name in there if name == ending or name.endswith(f"/{ending}")]
            if ending in found or len(found) == 1:
                return self._by_path[ending if ending in found else found[0]]
            if found:
                raise RowError(
                    "video not found", f"{path[:200]!r} is both {found[0]!r} and {found[1]!r}"
                )
        raise RowError("video not found", f"{path[:200]!r} is not below {self.place}")


def film(path: Path) -> Film:
    """Probe a file, in a child process; the answer is remembered.

    Raises:
        RowError: it is no usable video.
        MediaError: only what may pass (disk full, a mount that is gone).
    """
    return Film(path, _probe(path))


def unusable(error: MediaError) -> RowError:
    """A media error as the reason of a row; one that may pass is raised as it is."""
    if error.transient:
        raise error
    return RowError("video unusable", str(error))


@lru_cache(maxsize=_KEPT)
def _probe(path: Path) -> VideoProbe:
    try:
        return isolated.probe(path)
    except MediaError as error:
        raise unusable(error) from None


@lru_cache(maxsize=_KEPT)
def _times(path: Path) -> tuple[int, ...]:
    try:
        return tuple(isolated.frame_times(path))
    except MediaError as error:
        raise unusable(error) from None
