"""Fetched and unpacked bytes on one machine: whole files, a bound, no file taken away in use.

Each entry has two lock files. Who fills an entry holds its ``fill`` lock alone, so that many
processes fetch it once. Who was handed its path holds its ``use`` lock shared until it has asked
for ``PINS`` further paths, and an entry in use is not evicted. Locks end with their process,
however it ends.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from s2v.datapipe.base import atomic

PINS: Final = 8
"""Paths that a process holds at once: it decodes one per thread, right after asking for it."""

_SCANS_PER_BOUND: Final = 50


class _Entry(NamedTuple):
    used_ns: int
    size: int
    path: Path


class Cache:
    """A folder of files by key."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Name the folder and its bound; makes nothing yet."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._pins: OrderedDict[Path, int] = OrderedDict()
        self._mutex = threading.Lock()
        self._since_scan = limit_bytes  # the first fill looks

    def get(
        self, key: str, suffix: str, fill: Callable[[Path], None], expected_bytes: int | None = None
    ) -> Path:
        """Path of the entry's file; ``fill`` writes it first where it is not there.

        Args:
            key: hex; names the content.
            suffix: of the file, like ``.mp4``.
            fill: writes the content to a temporary path; what it raises comes through, and
                nothing is kept.
            expected_bytes: size of the content if it is known; a file of another size is filled
                anew.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.folder / key[:2] / f"{key}{suffix}"
        while True:
            if self._held(path, expected_bytes):
                return path
            with self._locked(f"{key}.fill"):
                if not _whole(path, expected_bytes):
                    for left_over in (path, *path.parent.glob(f".{path.name}.*.tmp")):
                        left_over.unlink(missing_ok=True)
                    self._make_room(expected_bytes or 0)
                    with atomic.replacing(path) as temporary:
                        fill(temporary)
                        self._since_scan += temporary.stat().st_size

    def _held(self, path: Path, expected_bytes: int | None) -> bool:
        """Hold a shared lock on the file if it is there and whole."""
        with self._mutex:
            if path in self._pins:
                self._pins.move_to_end(path)
                if _whole(path, expected_bytes):
                    return True
                os.close(self._pins.pop(path))
            if not _whole(path, expected_bytes):
                return False
        handle = self._lock(f"{_key(path)}.use", fcntl.LOCK_SH)
        try:
            os.utime(path)
        except FileNotFoundError:  # evicted before the lock was ours
            os.close(handle)
            return False
        with self._mutex:
            if path in self._pins:
                os.close(handle)
            else:
                self._pins[path] = handle
            while len(self._pins) > PINS:
                os.close(self._pins.popitem(last=False)[1])
        return True

    def release(self) -> None:
        """Let go of all paths that were handed out."""
        with self._mutex:
            while self._pins:
                os.close(self._pins.popitem()[1])

    @contextmanager
    def slot(self, name: str, places: int) -> Iterator[None]:
        """Hold one of ``places`` places of the whole machine, waiting for one if need be."""
        folder = self.folder / "slots"
        folder.mkdir(parents=True, exist_ok=True)
        handle = self._free_slot(folder, name, places)
        try:
            yield
        finally:
            os.close(handle)

    def _free_slot(self, folder: Path, name: str, places: int) -> int:
        for place in range(places):
            handle = os.open(folder / f"{name}.{place}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            return handle
        # All taken: queue at one of them, different processes at different ones.
        place = (os.getpid() + threading.get_ident()) % places
        handle = os.open(folder / f"{name}.{place}", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return handle

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        handle = self._lock(name, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(handle)

    def _lock(self, name: str, how: int) -> int:
        """Lock a file; eviction removes lock files, so it must still be the named one."""
        path = self._lock_path(name)
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, how)
                if path.stat().st_ino == os.fstat(handle).st_ino:
                    return handle
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def _lock_path(self, name: str) -> Path:
        return self.folder / "locks" / name[:2] / name

    def _make_room(self, coming: int) -> None:
        """Evict what was not used for longest until the bound holds, files in use excepted."""
        self._since_scan += coming
        if self._since_scan < self.limit_bytes // _SCANS_PER_BOUND:
            return
        self._since_scan = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / ".evicting", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._evict(coming)
        except BlockingIOError:
            pass  # another process is at it
        finally:
            os.close(handle)

    def _evict(self, coming: int) -> None:
        entries = sorted(self._entries())
        total = sum(entry.size for entry in entries) + coming
        for entry in entries:
            # A temporary that nobody fills was left by a process that was killed.
            left_over = entry.path.name.startswith(".")
            if total <= self.limit_bytes and not left_over:
                continue
            lock = f"{_key(entry.path)}.{'fill' if left_over else 'use'}"
            if self._evict_one(entry.path, lock):
                total -= entry.size

    def _evict_one(self, path: Path, lock: str) -> bool:
        try:
            handle = self._lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # being filled, or in use
        try:
            path.unlink(missing_ok=True)
            self._lock_path(lock).unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True

    def _entries(self) -> Iterator[_Entry]:
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for found in sorted(os.scandir(folder), key=lambda item: item.name):
                with suppress(FileNotFoundError):
                    state = found.stat()
                    yield _Entry(state.st_mtime_ns, state.st_size, Path(found.path))


def _key(path: Path) -> str:
    """Key of a file or of its temporary ``.<key><suffix>.<pid>.tmp``."""
    return path.name.removeprefix(".").partition(".")[0]


def _whole(path: Path, expected_bytes: int | None) -> bool:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    return expected_bytes is None or size == expected_bytes
