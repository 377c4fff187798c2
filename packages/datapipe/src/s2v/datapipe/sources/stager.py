"""Brings a source's bytes onto this machine: objects, URLs, members of archives, cut pictures."""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.sources import bank, parquets, tars
from s2v.datapipe.sources.address import (
    STORE_SCHEMES,
    Address,
    Box,
    parse_address,
    without_secrets,
)
from s2v.datapipe.sources.cache import Cache
from s2v.datapipe.sources.download import Downloader
from s2v.datapipe.sources.joined import crop_png
from s2v.datapipe.sources.spec import DownloadSettings
from s2v.datapipe.sources.stores import StoreOptions, Stores, etag_of, explain

_BLOCK: Final = 16 << 20
_SUFFIX: Final = re.compile(r"\.[a-z0-9]{1,8}")
_MD5: Final = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
_INDEXES: Final = 4  # tars of which a process remembers where the members lie


class StagingSettings(BaseModel):
    """What a worker needs to fetch the sources of a run; written beside it, holds no secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    downloads: DownloadSettings = DownloadSettings()
    stores: dict[str, StoreOptions] = {}


def cache_folder(settings: DownloadSettings) -> Path:
    """Where fetched bytes are kept on this machine."""
    given = settings.cache or os.environ.get("S2V_SOURCE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "s2v" / "sources"


def content_key(place: str, etag: str | None, size: int | None) -> str:
    """What an object's bytes are known by without having them.

    An etag that is an MD5, or S3's of several parts, tells the same bytes in any bucket; any
    other one is good for its own object only.
    """
    if etag and _MD5.fullmatch(etag):
        return stable_hash(["etag", etag, str(size)], 40)
    return stable_hash(["object", place, etag or "", str(size)], 40)


class Stager:
    """Finds or fetches the bytes of sources; one per process."""

    def __init__(
        self,
        settings: StagingSettings | None = None,
        *,
        downloader: Downloader | None = None,
        cache: Cache | None = None,
    ) -> None:
        """Set up; nothing is opened before it is needed."""
        settings = settings or StagingSettings()
        downloads = settings.downloads
        self.settings = settings
        self.stores = Stores(settings.stores)
        self.cache = cache or Cache(cache_folder(downloads), int(downloads.cache_gb * 1e9))
        self.downloader = downloader or Downloader(
            downloads, slots=lambda host: self.cache.slot(host, downloads.per_host)
        )
        self._indexes: OrderedDict[tuple[str, int, int], dict[str, tars.Member]] = OrderedDict()

    def recorded(self) -> StagingSettings:
        """The settings with the stores that listing came to know."""
        return StagingSettings(downloads=self.settings.downloads, stores=self.stores.options)

    def local_path(self, source: Row) -> Path:
        """Path of a local file with the bytes of a row of table ``sources``.

        Raises:
            MediaError: why the bytes cannot be had, or are not those that were listed.
        """
        address = parse_address(str(source["path"]))
        sha, etag, size = source.get("sha256"), source.get("etag"), source.get("bytes")
        if etag is not None and etag.startswith("sha256:"):
            raise _changed(address, f"its sha256 is {etag[7:]}, the manifest says {sha}")
        if address.member is not None:
            path = self._member(address, sha, etag)
        elif address.archive:
            archive = _present(self.place(address.place, etag=etag, size=size))
            bank.contents(archive, parquets.ALL).raise_problems(address.place)
        else:
            kind = str(source.get("kind") or "video")
            path = self.place(address.place, sha256=sha, etag=etag, size=size, kind=kind)
        return self._crop(path, address.box, sha) if address.box else path

    def place(
        self,
        place: str,
        *,
        sha256: str | None = None,
        etag: str | None = None,
        size: int | None = None,
        kind: str = "video",
    ) -> Path:
        """A whole file, object or URL, on this machine.

        Args:
            place: of an address.
            sha256, etag, size: what was listed; ``None`` where that is not known.
            kind: ``video`` or ``image``, for what comes from a URL.
        """
        address = Address(place)
        if not address.scheme:
            return _unchanged(Path(place), size)
        if address.scheme in STORE_SCHEMES:
            key = sha256[:40] if sha256 else content_key(place, etag, size)
            return self.cache.get(
                key,
                _safe_suffix(address.suffix),
                lambda target: self._object(place, target, sha256, etag, size),
                size,
            )
        key = sha256[:40] if sha256 else stable_hash(["url", place], 40)
        return self.cache.get(
            key,
            _safe_suffix(address.suffix),
            lambda target: self._url(place, target, kind, sha256),
        )

    def _object(
        self, place: str, target: Path, sha256: str | None, etag: str | None, size: int | None
    ) -> None:
        digest = hashlib.sha256()
        with self.stores.open(place) as file, target.open("wb") as out:
            self._check_object(place, file.size(), etag_of(file), size, etag)
            while True:
                try:
                    block = file.read(_BLOCK)
                except OSError as error:
                    raise explain(error, place) from None
                if not block:
                    break
                digest.update(block)
                out.write(block)
        written = target.stat().st_size
        if etag is not None:  # it may have been replaced while it was read, part by part
            now = self.stores.head(place)
            self._check_object(place, written, now.etag, size, etag)
        elif size is not None and written != size:
            raise _changed(Address(place), f"{written} bytes, listed are {size}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise _changed(
                Address(place), f"its sha256 is {digest.hexdigest()}, listed is {sha256}"
            )

    def _check_object(
        self, place: str, size: int, etag: str | None, listed_size: int | None, listed: str | None
    ) -> None:
        if listed_size is not None and size != listed_size:
            raise _changed(Address(place), f"{size} bytes, listed are {listed_size}")
        if listed is not None and etag != listed:
            raise _changed(Address(place), f"its etag is {etag}, listed is {listed}")

    def _url(self, url: str, target: Path, kind: str, sha256: str | None) -> None:
        """Fetch, and remember what came: a second fetch must bring the same."""
        note = self.cache.folder / "urls" / stable_hash(["url", url], 40)
        listed = sha256 or (note.read_text() if note.is_file() else None)
        digest = self.downloader.fetch(url, target, kind, listed)
        if listed is None:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(digest)

    def _member(self, address: Address, sha256: str | None, etag: str | None) -> Path:
        name = str(address.member)
        suffix = address.suffix if address.archive == "tar" else ".img"
        key = sha256[:40] if sha256 else stable_hash(["member", str(address)], 40)

        def unpack(target: Path) -> None:
            archive = _present(self.place(address.place, etag=etag))
            if address.archive == "tar":
                self._unpack_tar(archive, name, target, address)
            else:
                self._unpack_cell(archive, name, target, address)
            if sha256 is not None and (found := _sha256(target)) != sha256:
                raise _changed(address, f"its sha256 is {found}, listed is {sha256}")

        return self.cache.get(key, _safe_suffix(suffix), unpack)

    def _unpack_tar(self, archive: Path, name: str, target: Path, address: Address) -> None:
        member = self._index(archive).get(name)
        if member is None:
            raise MediaError(MediaErrorKind.MISSING, _shown(address), "no such member")
        if kind := bank.refusal(member):
            what = member.refused or f"has {member.size} bytes"
            raise MediaError(kind, _shown(address), f"{what}, so is not read")
        with archive.open("rb") as file, target.open("wb") as out:
            for block in bank.blocks(file, member):
                out.write(block)

    def _index(self, archive: Path) -> dict[str, tars.Member]:
        state = archive.stat()
        key = (str(archive), state.st_size, state.st_mtime_ns)
        if key not in self._indexes:
            found: dict[str, tars.Member] = {}
            with archive.open("rb") as file:
                try:
                    for member in tars.members(file, state.st_size):
                        found.setdefault(member.name, member)
                except tars.TarDamagedError:
                    pass  # told by the archive's own row; what came before it holds
            self._indexes[key] = found
            while len(self._indexes) > _INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(key)
        return self._indexes[key]

    def _unpack_cell(self, archive: Path, name: str, target: Path, address: Address) -> None:
        row, _, column = name.partition("/")
        if not row.isdecimal() or len(row) > 18 or not column:
            raise MediaError(
                MediaErrorKind.MISSING, _shown(address), "a cell is <row>/<column>, like 17/image"
            )
        try:
            target.write_bytes(
                run_isolated(parquets.cell, (str(archive), int(row), column), path=_shown(address))
            )
        except MediaError as error:
            raise MediaError(error.kind, _shown(address), error.message) from None

    def _crop(self, path: Path, box: Box, sha256: str | None) -> Path:
        state = _present(path).stat()
        what = sha256 or f"{path}:{state.st_size}:{state.st_mtime_ns}"
        key = stable_hash(["part", what, *map(str, box)], 40)
        return self.cache.get(
            key, ".png", lambda target: _write(target, run_isolated(crop_png, (str(path), box)))
        )


def _unchanged(path: Path, size: int | None) -> Path:
    """The local file itself; the decoder says what it is, or that it is gone."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return path
    except OSError as error:
        raise from_os_error(error, path) from error
    if size is not None and found != size and path.is_file():
        raise _changed(Address(str(path)), f"{found} bytes, listed are {size}")
    return path


def _present(path: Path) -> Path:
    if not path.is_file():
        raise MediaError(MediaErrorKind.MISSING, path, "no such file")
    return path


def _changed(address: Address, message: str) -> MediaError:
    return MediaError(
        MediaErrorKind.CHANGED,
        _shown(address),
        f"not what was listed: {message}; run again to list it anew, or mend the manifest",
    )


def _shown(address: Address) -> str:
    return without_secrets(str(address))


def _safe_suffix(suffix: str) -> str:
    return suffix if _SUFFIX.fullmatch(suffix) else ".bin"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)
