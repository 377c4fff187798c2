"""The listing: every entry becomes a row of table ``sources``, sorted and complete.

Also what is missing or damaged becomes a row: it is the probe that sends it to quarantine, so
that nothing is lost without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from s2v.datapipe.base.ids import check_video_id, content_video_id, stable_hash
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.sources.address import STORE_SCHEMES, parse_address
from s2v.datapipe.sources.errors import SourceError
from s2v.datapipe.sources.expand import Entry, Expander
from s2v.datapipe.sources.identify import Identity, Looked
from s2v.datapipe.sources.ledger import Ledger
from s2v.datapipe.sources.spec import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    DownloadSettings,
    SourceSpec,
)
from s2v.datapipe.sources.stager import Stager, StagingSettings, content_key

_MD5: Final = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
_STATED: Final = (
    *("licence", "consent", "credit", "origin", "offset_us", "from_us", "to_us"),
    *("pair_key", "given_caption", "minors", "face_policy", "url"),
)


def list_sources(
    specs: Sequence[SourceSpec],
    folder: Path | None = None,
    downloads: DownloadSettings | None = None,
    *,
    quiet: bool = True,
    stager: Stager | None = None,
) -> list[Row]:
    """Rows of table ``sources``, sorted by ``video_id``.

    Files that repeat an earlier one byte for byte (and the same part of it) carry
    ``duplicate_of``. The sha256 of local files and of pictures in archives is computed, once per
    change; that of objects and URLs is known only where the manifest states it.

    Args:
        specs: the ``[[sources]]``.
        folder: where to remember what was hashed, ``<run>/sources``; ``None`` remembers nothing.
        downloads: the allow-list, and where archives in stores are kept to be listed.
        quiet: no progress of hashing and asking.
        stager: to bring archives with; by default one for ``downloads``.

    Raises:
        SourceError: a place that cannot be opened, a row that cannot be read, nothing found,
            an id twice.
    """
    stager = stager or Stager(StagingSettings(downloads=downloads or DownloadSettings()))
    ledger = Ledger(folder)
    identity = Identity(ledger, stager.stores, quiet=quiet)
    entries = list(Expander(identity, stager, folder).expand(specs))
    if not entries:
        raise SourceError(
            "no videos or images found: give [[sources]] with a path, folder, manifest or bank; "
            f"suffixes read are {', '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))}"
        )
    entries.sort(key=_order)
    looked = _look(entries, identity)
    in_parts = {
        entry.address.place
        for entry in entries
        if entry.facts.from_us is not None or entry.facts.to_us is not None
    }
    rows: list[Row] = []
    seen: dict[str, Entry] = {}
    times: Counter[str] = Counter()
    for entry, found in zip(entries, looked, strict=True):
        row = _row(entry, found, shared=entry.address.place in in_parts)
        video = row["video_id"]
        if video in seen and entry.facts.video_id:
            raise SourceError(_twice(video, seen[video], entry))
        if video in seen:  # the same bytes twice give the same content id
            path = str(entry.address)
            times[path] += 1
            again = [] if times[path] == 1 else [str(times[path])]
            row["video_id"] = f"{video}-{stable_hash([path, *again], 8)}"
            if row["long_video_id"] == video:
                row["long_video_id"] = row["video_id"]
        seen[row["video_id"]] = entry
        rows.append(row)
    rows.sort(key=lambda row: str(row["video_id"]))
    _mark_duplicates(rows)
    return rows


def identity_of(row: Row) -> str:
    """What a source's measurements rest on: kind, bytes, and the part of the picture.

    The part of a film is not in it: its probe is the whole film's, and its windows say their
    times themselves.
    """
    box = parse_address(str(row["path"])).box if "#xywh=" in row["path"] else None
    part = f":{','.join(map(str, box))}" if box else ""
    return f"{row['kind']}:{row['sha256'] or row.get('etag') or ''}{part}"


def _order(entry: Entry) -> tuple[str, int, int, str]:
    facts = entry.facts
    return (str(entry.address), facts.from_us or 0, facts.to_us or 0, facts.video_id or "")


def _look(entries: list[Entry], identity: Identity) -> list[Looked]:
    local = identity.files(
        entry.address.place
        for entry in entries
        if not entry.address.scheme and not entry.address.archive
    )
    asked: dict[str, Looked | None] = {}
    for entry in entries:
        if entry.address.scheme in STORE_SCHEMES and not entry.address.archive:
            asked[entry.address.place] = entry.looked or asked.get(entry.address.place)
    objects = identity.objects(asked)
    found = []
    for entry in entries:
        place = entry.address.place
        if entry.address.archive:
            found.append(entry.looked or Looked())
        else:
            found.append(local.get(place) or objects.get(place) or Looked())
    return found


def _row(entry: Entry, looked: Looked, *, shared: bool) -> Row:
    address, facts = entry.address, entry.facts
    stated = facts.sha256
    sha, etag = looked.sha256, looked.etag
    if stated and sha and sha != stated:
        sha, etag = stated, f"sha256:{sha}"  # staging refuses it, with both
    elif stated and sha is None and (address.scheme or looked.size is not None):
        sha = stated
    of_file = _content_id(address.place, str(address), sha, looked, address.box)
    video = facts.video_id or of_file + _part(facts.from_us, facts.to_us)
    try:
        check_video_id(video)
    except ValueError as error:
        raise SourceError(f"{entry.where or address}: {error}") from None
    kind = entry.fact("kind") or _kind(entry)
    if kind == "image" and (facts.from_us is not None or facts.to_us is not None):
        raise SourceError(f"{entry.where or address}: an image has no from_us and to_us")
    pair_key = entry.fact("pair_key") if kind == "image" else None
    row: Row = {
        "video_id": video,
        "long_video_id": facts.long_video_id or pair_key or (of_file if shared else video),
        "kind": kind,
        "path": str(address),
        "sha256": sha,
        "etag": etag,
        "bytes": looked.size,
        "duplicate_of": None,
    }
    for name in _STATED:
        row[name] = entry.fact(name)
    return row


def _kind(entry: Entry) -> str:
    cell = entry.address.archive == "parquet"
    return "image" if cell or entry.address.suffix in IMAGE_SUFFIXES else "video"


def _content_id(
    place: str, address: str, sha: str | None, looked: Looked, box: tuple[int, ...] | None
) -> str:
    if sha:
        if box:
            return content_video_id(stable_hash([sha, *map(str, box)]))
        return content_video_id(sha)
    if looked.etag and not box and address == place:
        return content_video_id(content_key(place, looked.etag, looked.size))
    # What is not there, or only to be fetched, has no content yet: its address stands in.
    return content_video_id(stable_hash([address]))


def _part(from_us: int | None, to_us: int | None) -> str:
    if from_us is None and to_us is None:
        return ""
    end = "end" if to_us is None else str(to_us // 1000)
    return f"-{(from_us or 0) // 1000}-{end}"


def _twice(video: str, one: Entry, other: Entry) -> str:
    first, second = (f"{e.address}{f' ({e.where})' if e.where else ''}" for e in (one, other))
    return (
        f"video_id {video!r} is given to both {first} and {second}; ids must differ (leave "
        "video_id out to have one made of the content and the part)"
    )


def bytes_key(row: Row) -> str | None:
    """A hash of a source's bytes and the part of them; ``None`` where the bytes are not known."""
    if row["sha256"]:
        content = [row["sha256"]]
    elif row["etag"] and "#" not in row["path"] and _MD5.fullmatch(row["etag"]):
        content = [row["etag"], row["bytes"]]
    else:
        return None
    box = parse_address(row["path"]).box if "#xywh=" in row["path"] else None
    return stable_hash(map(str, (*content, box, row["from_us"], row["to_us"])), 32)


def _mark_duplicates(rows: list[Row]) -> None:
    """Name the first source with the same bytes and the same part of them."""
    first: dict[str, str] = {}
    for row in rows:
        key = bytes_key(row)
        if key is None:
            continue
        original = first.setdefault(key, row["video_id"])
        row["duplicate_of"] = original if original != row["video_id"] else None
