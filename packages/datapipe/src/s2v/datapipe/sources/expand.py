"""From ``[[sources]]`` to single addresses: folders, prefixes, manifests and banks are opened."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.settings import SettingsError, parse
from s2v.datapipe.sources.address import (
    STORE_SCHEMES,
    URL_SCHEMES,
    Address,
    archive_of,
    bucket_and_key,
    check_url,
    parse_address,
    scheme_of,
    without_secrets,
)
from s2v.datapipe.sources.bank import Contents, Picture, kept_contents
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.identify import Identity, Looked
from s2v.datapipe.sources.manifest import manifest_rows
from s2v.datapipe.sources.policy import check_allowed
from s2v.datapipe.sources.spec import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Facts,
    ManifestRow,
    SourceSpec,
)
from s2v.datapipe.sources.stager import Stager
from s2v.datapipe.sources.stores import StoreOptions

_MEDIA = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_ARCHIVES = frozenset({".tar", ".parquet"})


@dataclass(slots=True)
class Entry:
    """One source to be: where it lies and what is said of it.

    Attributes:
        address: parsed.
        facts: of the entry, folder, row or bank.
        where: what named it, for messages; ``None`` for the address itself.
        extra: facts of the one picture that go before ``facts``.
        looked: what is known of its bytes already.
    """

    address: Address
    facts: Facts
    where: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    looked: Looked | None = None

    def fact(self, name: str) -> Any:
        """A fact by its key."""
        return self.extra.get(name) or getattr(self.facts, name)


class Expander:
    """Opens the places that entries name."""

    def __init__(self, identity: Identity, stager: Stager, folder: Path | None) -> None:
        """Keep what to ask; ``folder`` keeps listings of archives between starts."""
        self.identity = identity
        self.stager = stager
        self.folder = folder
        self.allow = stager.settings.downloads.allow
        self.store = StoreOptions()  # of the entry that is being opened
        self._contents: dict[tuple[str, ...], Contents] = {}

    def expand(self, specs: Sequence[SourceSpec]) -> Iterator[Entry]:
        """All entries, in the order of the configuration.

        Raises:
            SourceError: a place that cannot be opened, or holds nothing.
        """
        for spec in specs:
            self.store = StoreOptions(
                endpoint=spec.endpoint, region=spec.region, anonymous=spec.anonymous
            )
            if spec.path:
                yield from self._one(spec.path, spec, None)
            elif spec.folder:
                yield from self._folder(spec.folder, spec)
            elif spec.manifest:
                yield from self._manifest(spec)
            elif spec.bank:
                yield from self._bank(spec.bank, spec)

    def _one(self, text: str, facts: Facts, where: str | None, base: str = "") -> Iterator[Entry]:
        try:
            address = parse_address(text)
            if base:
                address = _relative_to(base, address)
            if address.archive and address.member is None:
                raise SourceError(f"{address.place} is an archive; list it as a bank")
            if address.scheme in URL_SCHEMES:
                check_allowed(address.place, self.allow)
            elif address.scheme:
                self.stager.stores.reach(address.place, self.store)
        except SourceError as error:
            raise SourceError(f"{where}: {error}" if where else str(error)) from None
        except MediaError as error:
            prefix = f"{where}: " if where else ""
            raise SourceError(f"{prefix}{error.path}: {error.message}") from None
        entry = Entry(address, facts, where)
        if address.member is not None:
            entry.looked = self._member(address)
        yield entry

    def _member(self, address: Address) -> Looked:
        columns: tuple[str, ...] = ()
        if address.archive == "parquet":
            columns = (str(address.member).partition("/")[2],)
        archive, found = self._archive(address.place, columns)
        if found is None:
            return Looked(etag=archive.etag)
        named = {picture.member: picture for picture in reversed(found.pictures)}
        picture = named.get(str(address.member))
        if picture is None:
            return Looked(etag=archive.etag)
        return Looked(sha256=picture.sha256, etag=archive.etag, size=picture.bytes)

    def _folder(self, place: str, spec: SourceSpec) -> Iterator[Entry]:
        count = 0
        for entry in self._files(place, spec, _MEDIA):
            count += 1
            yield entry
        if not count:
            raise SourceError(
                f"{without_secrets(place)}: holds no video or image; suffixes read are "
                f"{', '.join(sorted(_MEDIA))} (archives of pictures are listed as bank)"
            )

    def _files(self, place: str, facts: Facts, suffixes: frozenset[str]) -> Iterator[Entry]:
        if scheme_of(place) in STORE_SCHEMES:
            self.stager.stores.reach(parse_address(place).place, self.store)
            for found in self.stager.stores.walk(place):
                address = Address(found.place)
                if address.suffix in suffixes:
                    looked = Looked(size=found.size, mtime_ns=found.mtime_ns)
                    yield Entry(address, facts, looked=looked)
        elif scheme_of(place) in URL_SCHEMES:
            raise SourceError(f"{without_secrets(place)}: a folder cannot be listed over HTTP")
        else:
            for path in _walk(Path(parse_address(place).place)):
                if path.suffix.lower() in suffixes:
                    yield Entry(Address(str(path)), facts)

    def _manifest(self, spec: SourceSpec) -> Iterator[Entry]:
        manifest = str(spec.manifest)
        manifest = parse_address(manifest).place if scheme_of(manifest) else str(Path(manifest))
        if scheme_of(manifest) in STORE_SCHEMES:
            self.stager.stores.reach(manifest, self.store)
        base = manifest.rpartition("/")[0] if scheme_of(manifest) else str(Path(manifest).parent)
        given = spec.given()
        for where, row in manifest_rows(manifest, self.stager.stores):
            try:
                facts = parse(ManifestRow, {**given, **row} if given else row, where)
            except SettingsError as error:
                raise SourceError(str(error)) from None
            yield from self._one(facts.path, facts, where, base)

    def _bank(self, place: str, spec: SourceSpec) -> Iterator[Entry]:
        if archive_of(place):
            archives = [parse_address(place).place]
            if scheme_of(archives[0]) in STORE_SCHEMES:
                self.stager.stores.reach(archives[0], self.store)
            if self.identity.archive(archives[0]).size is None:
                raise SourceError(f"{archives[0]}: no such archive")
        else:
            archives = [entry.address.place for entry in self._files(place, spec, _ARCHIVES)]
        if not archives:
            raise SourceError(
                f"{without_secrets(place)}: holds no .tar and no .parquet; "
                "a folder of single pictures is listed as folder"
            )
        for archive in archives:
            yield from self._pictures(archive, spec)

    def _pictures(self, place: str, spec: SourceSpec) -> Iterator[Entry]:
        archive, found = self._archive(place, spec.columns, spec.captions)
        if found is None or found.problems:  # a source of its own, so that it is told of
            yield Entry(Address(place), spec, extra={"kind": "image"}, looked=archive)
        if found is None:
            return
        groups: dict[str, list[Picture]] = {}
        for picture in found.pictures:
            groups.setdefault(picture.group, []).append(picture)
        paired = spec.pairs if spec.pairs is not None else bool(spec.split) or len(spec.columns) > 1
        for pictures in groups.values():
            key = _pair_key(place, pictures) if paired else None
            for picture in pictures:
                looked = Looked(picture.sha256, archive.etag, picture.bytes)
                for n, box in enumerate(spec.split or (None,)):
                    extra = _extra(picture.facts, key, n if box else None)
                    address = Address(place, picture.member, box)
                    yield Entry(address, spec, extra=extra, looked=looked)

    def _archive(
        self, place: str, columns: tuple[str, ...], captions: tuple[str, ...] = ()
    ) -> tuple[Looked, Contents | None]:
        """What an archive is known by and what it holds; nothing if it is not there."""
        looked = self.identity.archive(place)
        if looked.size is None:
            return looked, None
        known_by = looked.etag or f"{place} {looked.size} {looked.mtime_ns}"
        key = (place, known_by, *columns, "", *captions)
        if key not in self._contents:
            try:
                path = self.stager.place(place, etag=looked.etag, size=looked.size)
            except MediaError as error:
                raise SourceError(f"{error.path}: {error.message}") from None
            self._contents[key] = kept_contents(self.folder, path, known_by, columns, captions)
        return looked, self._contents[key]


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; a folder that cannot be read is an error, not nothing."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")

    def unreadable(error: OSError) -> None:
        raise SourceError(
            f"{error.filename}: cannot be read ({error.strerror}); mend its permissions or list "
            "other folders"
        )

    paths = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=unreadable)
        for name in names
    ]
    return iter(sorted(path for path in paths if path.is_file()))


def _relative_to(base: str, address: Address) -> Address:
    """Paths in a manifest are relative to it, so that a folder can be moved."""
    if address.scheme:
        return address
    if not scheme_of(base):
        return Address(str(Path(base) / address.place), address.member, address.box)
    bucket, key = bucket_and_key(base + "/")
    joined = posixpath.normpath(posixpath.join(key, address.place))
    if address.place.startswith("/") or joined.startswith(".."):
        raise SourceError(
            f"{address.place}: leads out of the bucket; a manifest in a store names objects, "
            "relative to itself or as s3://bucket/key"
        )
    return Address(f"{scheme_of(base)}://{bucket}/{joined}", address.member, address.box)


def _pair_key(place: str, pictures: list[Picture]) -> str:
    """A key of the pictures' bytes, so that a bank may be moved or renamed."""
    known = [picture.sha256 for picture in pictures if picture.sha256]
    return f"p{stable_hash(known or [place, pictures[0].group], 16)}"


def _extra(facts: dict[str, str], pair_key: str | None, part: int | None) -> dict[str, str]:
    extra = {key: value for key, value in facts.items() if not key.startswith("caption ")}
    if part is not None and (caption := facts.get(f"caption {part}")):
        extra["given_caption"] = caption
    if pair_key:
        extra.setdefault("pair_key", pair_key)
    if "url" in extra:
        try:
            check_url(extra["url"])
        except SourceError:
            extra["url"] = without_secrets(extra["url"])
    return extra
