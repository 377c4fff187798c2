"""Addresses of sources: where the bytes lie, which member of an archive, which part of a picture.

::

    clips/street.mp4                                a local file
    s3://bucket/films/street.mp4                    an object; gs:// likewise; nothing is escaped
    https://host/street.mp4                         a URL, only through the allow-list
    bank.tar#shard/000012.jpg                       a member of a tar, by its stored name
    s3://bucket/bank.parquet#17/image               row 17 (from 0), column ``image``
    wide.jpg#xywh=8,8,512,512                       x, y, width, height in pixels as shown

The member begins after the first ``.tar#`` or ``.parquet#``; ``#xywh=`` stands last and follows
the W3C's media fragments. ``file://`` before an absolute path,
percent-encoded, is another spelling of a local one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from s2v.datapipe.sources.errors import SourceError

STORE_SCHEMES: Final = ("s3", "gs")
URL_SCHEMES: Final = ("http", "https")

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BOX: Final = re.compile(r"#xywh=([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9}),([0-9]{1,9})\Z")
_ARCHIVE: Final = re.compile(r"\.(tar|parquet)(?:#|\Z)", re.IGNORECASE)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}")
_SIGNED: Final = frozenset(
    {"x-amz-signature", "x-amz-security-token", "x-goog-signature", "signature", "sig"}
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address.

    Attributes:
        place: local path, ``s3://bucket/key``, ``gs://bucket/key`` or a URL.
        member: name inside the archive ``place``, or ``None``.
        box: ``x, y, width, height`` of the part of the picture, in pixels as it is shown (with
            the orientation of its EXIF applied).
    """

    place: str
    member: str | None = None
    box: Box | None = None

    def __str__(self) -> str:
        """Write the address as a user would; :func:`parse_address` reads it back."""
        member = "" if self.member is None else f"#{self.member}"
        box = "" if self.box is None else "#xywh=" + ",".join(map(str, self.box))
        return f"{self.place}{member}{box}"

    @property
    def scheme(self) -> str:
        """``""`` for a local path, else ``s3``, ``gs``, ``http`` or ``https``."""
        return scheme_of(self.place)

    @property
    def archive(self) -> str | None:
        """``tar`` or ``parquet`` if ``place`` is one by its name."""
        return archive_of(self.place)

    @property
    def suffix(self) -> str:
        """Suffix of what is addressed, lower case with its dot; a URL's query is left out."""
        name = self.member if self.member is not None else self.place
        if self.member is None and self.scheme in URL_SCHEMES:
            name = urlsplit(self.place).path
        dot = name.rfind(".")
        return name[dot:].lower() if dot > name.rfind("/") else ""


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        SourceError: an unknown scheme, a bucket without a name, credentials in the address.
    """
    if not text or "\0" in text:
        raise SourceError(f"{text!r} is no path")
    box: Box | None = None
    if found := _BOX.search(text):
        x, y, width, height = (int(value) for value in found.groups())
        if not width or not height:
            raise SourceError(f"{text}: #xywh= gives x, y, width and height; width or height is 0")
        box, text = (x, y, width, height), text[: found.start()]
    place, member = text, None
    archive = _ARCHIVE.search(text)
    if archive and scheme_of(text) not in URL_SCHEMES and text[archive.end() - 1] == "#":
        place, member = text[: archive.end() - 1], text[archive.end() :]
        if not member:
            raise SourceError(f"{text}: names no member after the '#'")
    return Address(_checked_place(place), member, box)


def scheme_of(place: str) -> str:
    """Scheme of a place in lower case, ``""`` for a local path."""
    found = _SCHEME.match(place)
    return found[1].lower() if found else ""


def archive_of(place: str) -> str | None:
    """``tar`` or ``parquet`` by the place's suffix, else ``None``."""
    if scheme_of(place) in URL_SCHEMES:
        return None
    suffix = place[-8:].lower()
    return next((kind for kind in ("tar", "parquet") if suffix.endswith(f".{kind}")), None)


def bucket_and_key(place: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty."""
    bucket, _, key = place.split("://", 1)[1].partition("/")
    return bucket, key


def without_secrets(text: str) -> str:
    """A place for messages: neither user and password nor the query of a URL."""
    if scheme_of(text) not in {*URL_SCHEMES, *STORE_SCHEMES}:
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    host = host.rpartition("@")[2]
    if scheme.lower() in URL_SCHEMES:
        host, path = host.partition("?")[0], path.partition("?")[0].partition("#")[0]
    return f"{scheme}://{host}{slash}{path}"


def check_url(url: str) -> None:
    """Refuse a URL that carries credentials: addresses end in tables and reports.

    Raises:
        SourceError: without the credentials.
    """
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise SourceError(f"{without_secrets(url)}: no URL: {error}") from None
    names = {pair.partition("=")[0].lower() for pair in parts.query.split("&")}
    if secret or names & _SIGNED:
        raise SourceError(
            f"{without_secrets(url)}: carries credentials, which would end in tables and reports; "
            "give objects as s3://bucket/key with the credentials in the environment"
        )


def _checked_place(place: str) -> str:
    scheme = scheme_of(place)
    if not scheme:
        return place
    if scheme == "file":
        parts = urlsplit(place)
        if parts.netloc not in {"", "localhost"}:
            raise SourceError(
                f"{place}: file:// names another machine; use file:// and an absolute path"
            )
        return unquote(parts.path)
    if scheme in URL_SCHEMES:
        check_url(place)
        if not urlsplit(place).hostname:
            raise SourceError(f"{place}: names no host")
        return place
    if scheme in STORE_SCHEMES:
        bucket, _ = bucket_and_key(place)
        if not _BUCKET.fullmatch(bucket):
            raise SourceError(
                f"{without_secrets(place)}: an object is {scheme}://bucket/key; credentials belong "
                "in the environment, the endpoint in its own key"
            )
        return f"{scheme}://{place.split('://', 1)[1]}"
    raise SourceError(
        f"{without_secrets(place)}: unknown scheme {scheme!r}; known are s3://, gs://, file://, "
        "https:// and http://"
    )
