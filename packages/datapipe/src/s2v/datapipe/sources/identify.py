"""What bytes are known by: sha256 of local files, etags of objects; each asked for once."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from s2v.datapipe.base import atomic
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.progress import track
from s2v.datapipe.sources.address import STORE_SCHEMES, scheme_of
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.ledger import Ledger
from s2v.datapipe.sources.stores import Stores

_HASHERS: Final = 4  # threads; a network disk answers several at once
_ASKERS: Final = 32  # threads waiting for a store's heads
_AT_ONCE: Final = 4096  # tasks handed to threads; each takes a kilobyte until it is done

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of bytes without, or before, having them.

    Attributes:
        sha256: of the bytes, where they were read.
        etag: of the object, or of the object that holds the archive.
        size: bytes.
        mtime_ns: of last change; only for the ledger.
    """

    sha256: str | None = None
    etag: str | None = None
    size: int | None = None
    mtime_ns: int = 0


class Identity:
    """Looks at places, through the ledger."""

    def __init__(self, ledger: Ledger, stores: Stores, *, quiet: bool) -> None:
        """Keep the ledger and the stores to ask."""
        self.ledger = ledger
        self.stores = stores
        self.quiet = quiet

    def files(self, paths: Iterable[str]) -> dict[str, Looked]:
        """Hash local files that the ledger does not know; a missing one is unknown.

        Raises:
            SourceError: a file that cannot be read.
        """
        found: dict[str, Looked] = {}
        fresh: list[tuple[str, int, int]] = []
        for path in dict.fromkeys(paths):
            try:
                state = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                found[path] = Looked()
                continue
            except OSError as error:
                raise _unreadable(path, error) from None
            if not stat.S_ISREG(state.st_mode):
                found[path] = Looked()
                continue
            known = self.ledger.get(path, state.st_size, state.st_mtime_ns)
            if known is None:
                fresh.append((path, state.st_size, state.st_mtime_ns))
            else:
                found[path] = Looked(known, None, state.st_size)
        for (path, size, mtime), digest in self._all("hash sources", fresh, _hash, _HASHERS):
            self.ledger.put(path, size, mtime, digest)
            found[path] = Looked(digest, None, size)
        return found

    def objects(self, listed: dict[str, Looked | None]) -> dict[str, Looked]:
        """Etags of objects; those listed with size and time come from the ledger if they can.

        Args:
            listed: by place, what a listing of their prefix said.

        Raises:
            SourceError: the store refuses or cannot be reached.
        """
        found: dict[str, Looked] = {}
        fresh: list[tuple[str, Looked | None]] = []
        for place, looked in listed.items():
            known = None
            if looked and looked.size is not None and looked.mtime_ns:
                known = self.ledger.get(place, looked.size, looked.mtime_ns)
            if known is None:
                fresh.append((place, looked))
            else:
                found[place] = Looked(None, known, looked.size if looked else None)
        for (place, looked), head in self._all("ask stores", fresh, self._head, _ASKERS):
            found[place] = head
            if looked and looked.mtime_ns and head.etag and head.size == looked.size:
                self.ledger.put(place, head.size or 0, looked.mtime_ns, head.etag)
        return found

    def archive(self, place: str) -> Looked:
        """What an archive is known by, without its sha256: place, size and time, or its etag."""
        if scheme_of(place) in STORE_SCHEMES:
            return self.objects({place: None})[place]
        try:
            state = Path(place).stat()
        except FileNotFoundError:
            return Looked()
        except OSError as error:
            raise _unreadable(place, error) from None
        return Looked(None, None, state.st_size, state.st_mtime_ns)

    def _head(self, item: tuple[str, Looked | None]) -> Looked:
        place, _ = item
        try:
            head = self.stores.head(place)
        except MediaError as error:
            if error.transient:
                raise SourceError(f"{place}: {error.message}") from None
            return Looked()  # it is not there: the probe says so
        # A store without etags is known by size alone; staging compares that.
        return Looked(None, head.etag, head.size)

    def _all(
        self, title: str, items: Sequence[T], work: Callable[[T], R], threads: int
    ) -> Iterable[tuple[T, R]]:
        if not items:
            return
        with (
            track(title, len(items), quiet=self.quiet) as step,
            ThreadPoolExecutor(min(threads, len(items))) as pool,
        ):
            try:
                for first in range(0, len(items), _AT_ONCE):
                    some = items[first : first + _AT_ONCE]
                    for item, result in zip(some, pool.map(work, some), strict=True):
                        step()
                        yield item, result
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                self.ledger.save()


def _hash(item: tuple[str, int, int]) -> str:
    try:
        return atomic.sha256_file(Path(item[0]))
    except OSError as error:
        raise _unreadable(item[0], error) from None


def _unreadable(path: str, error: OSError) -> SourceError:
    return SourceError(
        f"{path}: cannot be read ({error.strerror}); mend its permissions or the mount, or leave "
        "it out"
    )
