"""Object stores: listing, heads and reading of ``s3://`` and ``gs://`` through pyarrow.

Credentials come from where the store's own tools look for them (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, a profile, the machine's role; Google's default
credentials), and from nowhere else. Endpoint and region come from ``[[sources]]`` or from
``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_DEFAULT_REGION``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.sources.address import bucket_and_key, scheme_of
from s2v.datapipe.sources.errors import SourceError

_CONNECT_S: Final = 10
_REQUEST_S: Final = 60
_SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_DENIED: Final = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "HTTP status 403", "AccessDenied"),
    *("EXPIRED_TOKEN", "ExpiredToken", "INVALID_CLIENT_TOKEN_ID", "MISSING_AUTHENTICATION"),
    *("UNRECOGNIZED_CLIENT", "InvalidToken", "PERMISSION_DENIED", "Unauthenticated"),
)
_NO_BUCKET: Final = ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket does not exist")
_MISSING: Final = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND", "HTTP status 404", "NOT_FOUND")


class StoreOptions(BaseModel):
    """How one bucket is reached. Holds no secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """An object as its store tells of it.

    Attributes:
        place: ``scheme://bucket/key``.
        size: bytes.
        mtime_ns: last change, nanoseconds since 1970, 0 if the store does not say.
        etag: the store's name for exactly these bytes; ``None`` until asked for.
    """

    place: str
    size: int
    mtime_ns: int
    etag: str | None = None


class Stores:
    """The object stores of a run, each bucket opened once."""

    def __init__(self, options: Mapping[str, StoreOptions] | None = None) -> None:
        """Remember options by ``scheme://bucket``; asks no network."""
        self.options = dict(options or {})
        self._open: dict[str, Any] = {}

    def reach(self, place: str, options: StoreOptions) -> None:
        """Remember how the bucket of ``place`` is reached.

        Raises:
            SourceError: it was given with other options before.
        """
        name = _bucket(place)
        if self.options.setdefault(name, options) != options:
            raise SourceError(
                f"{name} is given with two endpoints, regions or anonymous settings; a bucket has "
                "one: say the same in each [[sources]] entry that leads to it"
            )

    def head(self, place: str) -> Found:
        """Size, time and etag of one object.

        Raises:
            MediaError: ``missing`` (also the bucket), ``transient`` (network, credentials).
        """
        try:
            with self.filesystem(place).open_input_file(_path(place)) as file:
                return Found(place, file.size(), 0, etag_of(file))
        except (OSError, ValueError) as error:
            raise explain(error, place) from None

    def open(self, place: str) -> Any:
        """Open an object for reading from its beginning (a pyarrow stream with ``metadata()``).

        Raises:
            MediaError: as :meth:`head`.
        """
        try:
            return self.filesystem(place).open_input_file(_path(place))
        except (OSError, ValueError) as error:
            raise explain(error, place) from None

    def walk(self, place: str) -> Iterator[Found]:
        """All objects below a prefix, sorted; without their etags.

        Raises:
            SourceError: no such bucket or prefix, credentials, network.
        """
        from pyarrow.fs import FileSelector, FileType

        bucket, _ = bucket_and_key(place)
        scheme = scheme_of(place)
        try:
            infos = self.filesystem(place).get_file_info(
                FileSelector(_path(place).rstrip("/"), recursive=True)
            )
        except (OSError, ValueError) as error:
            refused = explain(error, place)
            way_out = "" if refused.transient else f"; is bucket {bucket!r} spelled right?"
            raise SourceError(f"{place}: {refused.message}{way_out}") from None
        files = [info for info in infos if info.type == FileType.File]
        for info in sorted(files, key=lambda info: str(info.path)):
            yield Found(f"{scheme}://{info.path}", info.size, info.mtime_ns or 0)

    def filesystem(self, place: str) -> Any:
        """The pyarrow file system of the bucket that ``place`` lies in."""
        name = _bucket(place)
        if name not in self._open:
            options = self.options.get(name, StoreOptions())
            make = _s3 if scheme_of(place) == "s3" else _gcs
            self._open[name] = make(options, bucket_and_key(place)[0])
        return self._open[name]


def explain(error: Exception, place: str) -> MediaError:
    """Turn what pyarrow raises into a kind and a message without credentials."""
    text = _without_credentials(str(error))
    if any(mark in text for mark in _NO_BUCKET):
        return MediaError(MediaErrorKind.MISSING, place, "no such bucket")
    if any(mark in text for mark in _DENIED):
        return MediaError(
            MediaErrorKind.TRANSIENT,
            place,
            f"the store refuses access ({_first(text)}); check the credentials in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN) and the bucket's policy",
        )
    if isinstance(error, FileNotFoundError) or any(mark in text for mark in _MISSING):
        return MediaError(MediaErrorKind.MISSING, place, "no such object or bucket")
    if isinstance(error, IsADirectoryError) or "Not a regular file" in text:
        return MediaError(MediaErrorKind.MISSING, place, "is a prefix; name the objects below it")
    return MediaError(MediaErrorKind.TRANSIENT, place, _first(text))


def etag_of(file: Any) -> str | None:
    """The etag that an open object was found with."""
    for name, value in (file.metadata() or {}).items():
        if str(name).lower() == "etag":
            return str(value.decode("utf-8", "replace")).strip('"')
    return None


def _bucket(place: str) -> str:
    return f"{scheme_of(place)}://{bucket_and_key(place)[0]}"


def _path(place: str) -> str:
    return place.split("://", 1)[1]


def _s3(options: StoreOptions, bucket: str) -> Any:
    from pyarrow.fs import S3FileSystem, resolve_s3_region

    endpoint = (
        options.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint and not region:
        region = resolve_s3_region(bucket)
    return S3FileSystem(
        endpoint_override=endpoint,
        region=region or "us-east-1",
        anonymous=options.anonymous,
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
    )


def _gcs(options: StoreOptions, bucket: str) -> Any:
    from pyarrow.fs import GcsFileSystem

    return GcsFileSystem(endpoint_override=options.endpoint, anonymous=options.anonymous)


def _without_credentials(text: str) -> str:
    for name in _SECRETS:
        if (value := os.environ.get(name)) and len(value) > 3:
            text = text.replace(value, f"<{name}>")
    return text


def _first(text: str) -> str:
    return " ".join(text.split())[:300]
