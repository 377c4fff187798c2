"""What a user writes about sources: ``[[sources]]`` entries, rows of manifests, ``[downloads]``."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.sources.address import Box, archive_of, check_url, scheme_of, without_secrets

VIDEO_SUFFIXES: Final = frozenset(
    {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"}
)
IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MANIFEST_SUFFIXES: Final = (".csv", ".jsonl", ".parquet")

_HOST: Final = re.compile(
    r"(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?"
)
Microseconds = Annotated[int, Field(ge=0, le=1 << 53)]


class Facts(BaseModel):
    """What is known of a source beside its bytes; all of it is kept to the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["video", "image"] | None = Field(
        default=None, description="else by the file's suffix"
    )
    video_id: str | None = None
    long_video_id: str | None = Field(
        default=None, description="one film in several files; else the file's own id"
    )
    licence: str = "unverified"
    consent: str = "unverified"
    credit: str | None = None
    url: str | None = Field(default=None, description="where it was published; never fetched")
    origin: str = "live"
    offset_us: Microseconds | None = Field(
        default=None, description="where the file begins in its long video"
    )
    from_us: Microseconds | None = Field(default=None, description="the part of the file to use")
    to_us: Microseconds | None = Field(default=None, description="its end; else the file's")
    minors: Literal["none", "possible", "unverified"] = "unverified"
    face_policy: Literal["allowed", "no faces", "unverified"] = "unverified"
    given_caption: str | None = Field(default=None, max_length=20_000)
    pair_key: str | None = Field(default=None, description="shared by pictures of one subject")
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="what the bytes must be"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Facts:
        if self.to_us is not None and self.to_us <= (self.from_us or 0):
            raise ValueError(f"to_us = {self.to_us} is not after from_us = {self.from_us or 0}")
        if self.kind == "image" and (self.from_us is not None or self.to_us is not None):
            raise ValueError("an image has no from_us and to_us")
        if self.url:
            check_url(self.url)
        return self

    def given(self) -> dict[str, object]:
        """The facts that were stated, as a manifest row may take them over."""
        return {
            name: getattr(self, name) for name in self.model_fields_set & set(Facts.model_fields)
        }


class ManifestRow(Facts):
    """A row of a manifest: one file, object, URL or member of an archive."""

    path: str = Field(min_length=1)


class SourceSpec(Facts):
    """One entry: exactly one of ``path``, ``folder``, ``manifest``, ``bank``, and what is known.

    The facts of a folder or bank hold for all its files; those of a manifest for the rows that
    do not say otherwise. Each place may lie in an object store (``s3://bucket/...``).
    """

    path: str | None = Field(default=None, description="a file, object, URL or member")
    folder: str | None = Field(default=None, description="a folder or a prefix of a bucket")
    manifest: str | None = Field(
        default=None, description="CSV, JSONL or Parquet with these keys per row"
    )
    bank: str | None = Field(
        default=None, description="pictures in a tar or Parquet, or a folder of those"
    )
    columns: tuple[str, ...] = Field(default=(), description="of a Parquet bank: the pictures")
    captions: tuple[str, ...] = Field(
        default=(), description="of a Parquet bank: their captions, like description.item"
    )
    split: tuple[Box, ...] = Field(
        default=(), description="of a bank: x, y, width, height of each picture in a joined one"
    )
    pairs: bool | None = Field(
        default=None, description="pictures of one row or key show one subject; else if several"
    )
    endpoint: str | None = Field(
        default=None, description="of a store that is not Amazon's; also of a manifest's objects"
    )
    region: str | None = None
    anonymous: bool = Field(default=False, description="read the store without credentials")

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        places = [v for v in (self.path, self.folder, self.manifest, self.bank) if v]
        if len(places) != 1:
            raise ValueError("give exactly one of path, folder, manifest, bank")
        place = places[0]
        if not self.path and (self.video_id or self.sha256):
            raise ValueError("video_id and sha256 go with a single path")
        if (self.folder or self.bank) and (self.from_us is not None or self.to_us is not None):
            raise ValueError("from_us and to_us go with a path or a manifest")
        of_bank = self.columns or self.captions or self.split or self.pairs is not None
        if of_bank and not self.bank:
            raise ValueError("columns, captions, split and pairs go with a bank")
        if self.split and len(self.columns) > 1:
            raise ValueError("split goes with one column; several columns are pictures already")
        if any(width < 1 or height < 1 or min(x, y) < 0 for x, y, width, height in self.split):
            raise ValueError("split gives x, y, width and height of each picture, in pixels")
        of_store = self.endpoint or self.region or self.anonymous
        if of_store and scheme_of(place) not in {"s3", "gs"} and not self.manifest:
            raise ValueError("endpoint, region and anonymous go with s3://, gs:// or a manifest")
        if self.endpoint:
            check_url(self.endpoint)
            if scheme_of(self.endpoint) not in {"http", "https"}:
                raise ValueError("endpoint is like https://store.example:9000")
        if self.path and archive_of(self.path):
            raise ValueError(f"{without_secrets(self.path)} is an archive; give it as bank")
        return self


class DownloadSettings(BaseModel):
    """What may be fetched from URLs, and where fetched bytes are kept on each machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[str, ...] = Field(
        default=(), description="hosts that URLs may name: example.org, *.cdn.example, host:8443"
    )
    max_gb: float = Field(default=20.0, gt=0, description="largest file fetched from a URL")
    seconds: float = Field(default=3600.0, gt=0, description="longest fetch of one file")
    per_host: int = Field(default=4, ge=1, le=64, description="fetches at once, host and machine")
    cache: str | None = Field(
        default=None, description="folder of fetched bytes; else $S2V_SOURCE_CACHE or ~/.cache"
    )
    cache_gb: float = Field(default=100.0, gt=0, description="bound of that folder")

    @model_validator(mode="after")
    def _hosts(self) -> DownloadSettings:
        for host in self.allow:
            if not _HOST.fullmatch(host) or "." not in host.removeprefix("*."):
                raise ValueError(
                    f"allow: {host!r} is no host; give names like example.org, *.cdn.example or "
                    "host.example:8443, in lower case (other scripts as xn--)"
                )
        return self
