"""Phantom-Data's two Parquet files (2506.18851): annotations of Koala-36M clips, without pixels.

``koala36M_multi_ref_merged_filtered.parquet`` has a row per target clip: its id, a caption, and
``cross_pair``, a JSON object from noun phrases of the caption to what was found for them::

    {"a woman": {"obj_from_tgt_video": [{"vid", "frame_idx", "bbox_loc": [x0, y0, x1, y1], ...}],
                 "refer_result": [[{"vid", "frame_idx", "bbox_loc": [[x0, y0, x1, y1]], ...}]]}}

``frame_idx`` is a share of the clip, the frame's number is ``int(num_frames * frame_idx)``, and
boxes are pixels of that frame shrunk to a longer side of 768 (the dataset's README). Clip ids are
``<id of the long video>_<begin>_<end>`` in seconds. ``koala36M_multi_ref_meta_info_merged.parquet``
tells for each clip where it was published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

from s2v.datapipe.base import ids
from s2v.datapipe.interop import tables
from s2v.datapipe.interop.bounded import Fields, writable
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.imported import (
    PHANTOM_VERIFIER,
    Candidate,
    Clip,
    Imported,
    Moment,
    Subject,
    find_phrase,
    subject,
)
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.settings import ImportSettings

CANVAS: Final = 768
"""Longer side of the pictures that boxes were measured on."""

PAIRS_FILE: Final = "koala36M_multi_ref_merged_filtered.parquet"
CLIPS_FILE: Final = "koala36M_multi_ref_meta_info_merged.parquet"

#: The README calls the column ``vid``; code that reads the real file calls it ``video_id``.
_ID_COLUMNS: Final = ("video_id", "vid")
_MAX_JSON: Final = 4 << 20
_MAX_PHRASES: Final = 200
_CLIPS_KEPT: Final = 1000
_YOUTUBE: Final = re.compile(r"[A-Za-z0-9_-]{11}")


class PhantomData:
    """The two files, opened for import."""

    def __init__(self, pairs: Path, clips: Path | None, settings: ImportSettings) -> None:
        """Check that the files have their columns.

        Args:
            pairs: ``...merged_filtered.parquet``.
            clips: ``...meta_info_merged.parquet``; without it, urls and whole videos stay unknown.
            settings: pair types, part.

        Raises:
            InteropError: a file is missing, no Parquet, or without its columns.
        """
        self.pairs, self.settings = pairs, settings
        there = tables.columns_of(pairs)
        self._id = next((name for name in _ID_COLUMNS if name in there), _ID_COLUMNS[0])
        if clips is not None and "vid" not in (found := tables.columns_of(clips)):
            raise InteropError(
                f"{clips}: has no column 'vid'; it has {', '.join(found[:20])}; give {CLIPS_FILE}"
            )
        self._clips = clips
        self._urls: dict[str, str] = {}
        self._made: dict[str, Clip] = {}

    def samples(self, ledger: Ledger) -> list[Imported]:
        """All samples of the part, with what could not be used in the ledger."""
        if self._clips is not None:
            # Read twice rather than held: the file has 651,031 rows of 14 kB once parsed.
            named = (vid for _, _, row in self._rows(Ledger()) for vid in _vids(row))
            self._read_urls(self._clips, set(named))
        found = []
        for number, row_id, row in self._rows(ledger):
            where = f"{self.pairs.name}, row {number}"
            try:
                found += self._row(row_id, row, where, ledger)
            except RowError as error:
                ledger.leave("row", row_id, where, error)
        return found

    def _rows(self, ledger: Ledger) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Rows of the part with their number and id; ``cross_pair`` is parsed."""
        seen: set[str] = set()
        columns = (self._id, "video_caption", "cross_pair")
        for number, row in tables.rows(self.pairs, columns):
            where = f"{self.pairs.name}, row {number}"
            row_id = row[self._id]
            if not isinstance(row_id, str) or not row_id:
                ledger.found("row")
                error = RowError("unreadable row", f"{self._id} is {row_id!r:.80}, not an id")
                ledger.leave("row", f"row {number}", where, error)
                continue
            if not self._ours(row_id):
                continue
            ledger.found("row")
            try:
                if row_id in seen:
                    raise RowError("id twice", row_id)
                seen.add(row_id)
                caption = Fields(row, "row").text("video_caption")
                pairs = _parsed(row["cross_pair"])
            except RowError as error:
                if error.reason == "unreadable row" and not row["video_caption"]:
                    error = RowError("no caption", error.message)
                ledger.leave("row", row_id, where, error)
                continue
            yield number, row_id, {"caption": caption, "pairs": pairs}

    def _ours(self, vid: str) -> bool:
        part = self.settings.part
        return part.of == 1 or ids.bucket(_long_name(vid), part.of) == part.number

    def _read_urls(self, clips: Path, wanted: set[str]) -> None:
        columns = [c for c in ("vid", "youtube_url", "url") if c in tables.columns_of(clips)]
        for _, row in tables.rows(clips, columns):
            url = row.get("youtube_url") or row.get("url")
            if row["vid"] in wanted and isinstance(url, str):
                self._urls[row["vid"]] = url[:2000]

    def _row(self, row_id: str, row: dict[str, Any], where: str, ledger: Ledger) -> list[Imported]:
        """Up to two samples of a row: references of its own clip, and of others."""
        made: list[Imported] = []
        kinds: dict[Literal["in", "cross"], list[Subject]] = {"in": [], "cross": []}
        for phrase, entry in row["pairs"].items():
            for kind in ("in", "cross"):
                if kind in self.settings.pair_types:
                    one = self._subject(kind, phrase, entry, row, row_id, where, ledger)
                    kinds[kind] += [one] if one else []
        for kind, subjects in kinds.items():
            if subjects:
                made.append(
                    Imported(
                        pair_type=kind,
                        row=row_id,
                        where=where,
                        clip=self._clip(row_id),
                        caption=row["caption"],
                        subjects=tuple(subjects),
                        verifier=PHANTOM_VERIFIER,  # section 3.3 of the paper
                    )
                )
        if not made:
            raise RowError("no usable reference", f"{len(row['pairs'])} phrases")
        return made

    def _subject(
        self,
        kind: Literal["in", "cross"],
        phrase: str,
        entry: Any,
        row: dict[str, Any],
        row_id: str,
        where: str,
        ledger: Ledger,
    ) -> Subject | None:
        key = "obj_from_tgt_video" if kind == "in" else "refer_result"
        offered = _flat(entry.get(key) if isinstance(entry, dict) else None)
        ledger.found("reference", len(offered))
        good: list[Candidate] = []
        span: tuple[int, int] | None = None
        for number, value in enumerate(offered):
            name = f"{row_id}/{phrase[:80]}/{key}/{number}"
            try:
                span = span or find_phrase(phrase, row["caption"])
                good.append(self._candidate(kind, value, row_id, name))
            except RowError as error:
                ledger.leave("reference", name, where, error)
        return subject(phrase, span, good) if span and good else None

    def _candidate(
        self, kind: Literal["in", "cross"], value: Any, row_id: str, name: str
    ) -> Candidate:
        fields = Fields(value, name[-60:], "unreadable reference")
        vid = fields.text("vid", 200)
        if kind == "cross" and vid == row_id:
            raise RowError("from the target itself", f"{name} is of the target clip")
        if kind == "in" and vid != row_id:
            raise RowError("unreadable reference", f"{name} is of {vid!r}, not of the target")
        share = _share(fields)
        box = _box(fields)
        return Candidate(
            id=f"{vid}@{share:.6f}[{','.join(f'{v:g}' for v in box)}]",
            clip=self._clip(vid),
            moment=Moment(share=share),
            box=box,
            canvas=CANVAS,
        )

    def _clip(self, vid: str) -> Clip:
        """A clip; the last few are kept, since the objects of a row share theirs."""
        if vid not in self._made:
            if len(self._made) >= _CLIPS_KEPT:
                self._made.clear()
            self._made[vid] = self._new_clip(vid)
        return self._made[vid]

    def _new_clip(self, vid: str) -> Clip:
        seconds = _seconds(vid)
        url = self._urls.get(vid)
        long_name = _long_name(vid)
        return Clip(
            name=vid,
            names=(vid,),
            long_name=long_name,
            offset_us=round(seconds[0] * 1e6) if seconds else None,
            seconds=seconds,
            whole=(*((_youtube_id(url),) if url and _youtube_id(url) else ()), long_name),
            url=_public(url),
        )


def _vids(row: dict[str, Any]) -> Iterator[str]:
    """Every clip id that a parsed row names."""
    for entry in row["pairs"].values():
        if isinstance(entry, dict):
            for key in ("obj_from_tgt_video", "refer_result"):
                for value in _flat(entry.get(key)):
                    vid = value.get("vid") if isinstance(value, dict) else None
                    if isinstance(vid, str):
                        yield vid


def _parsed(value: Any) -> dict[str, Any]:
    """``cross_pair`` as an object, whether its column is text, a struct or a map."""
    if isinstance(value, str):
        if len(value) > _MAX_JSON:
            raise RowError("unreadable row", f"cross_pair has {len(value)} characters")
        try:
            value = json.loads(value, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            message = f"cross_pair is not JSON: {str(error)[:200]}"
            raise RowError("unreadable row", message) from None
    elif isinstance(value, list) and all(isinstance(v, tuple) and len(v) == 2 for v in value):
        value = dict(value)
    if not isinstance(value, dict):
        raise RowError("unreadable row", f"cross_pair is {repr(value)[:80]}, not an object")
    if len(value) > _MAX_PHRASES:
        raise RowError("unreadable row", f"cross_pair has {len(value)} phrases")
    return {writable(str(k)): v for k, v in value.items() if v is not None and str(k).strip()}


def _flat(value: Any) -> list[Any]:
    """``refer_result`` is a list of groups of objects, ``obj_from_tgt_video`` a plain list."""
    if not isinstance(value, list):
        return [] if value is None else [value]
    flat: list[Any] = []
    for one in value:
        flat += one if isinstance(one, list) else [one]
    return flat


def _share(fields: Fields) -> float:
    """``frame_idx``: a number, or a number as text."""
    value = fields.raw("frame_idx")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise RowError("unreadable reference", f"frame_idx is {value[:40]!r}") from None
    share = Fields({"frame_idx": value}, "reference", "unreadable reference").number("frame_idx")
    if not 0 <= share < 1:
        raise RowError("frame beyond the clip", f"frame_idx {share} is not in [0, 1)")
    return share


def _box(fields: Fields) -> tuple[float, float, float, float]:
    """``bbox_loc``: flat, or one list deeper for references."""
    value = fields.raw("bbox_loc")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    inner = Fields({"bbox_loc": value}, "reference", "unreadable reference")
    x0, y0, x1, y1 = inner.numbers("bbox_loc", 4)
    if not (x0 < x1 and y0 < y1):
        raise RowError("box outside the frame", f"bbox_loc {value} has no area")
    return x0, y0, x1, y1


def _long_name(vid: str) -> str:
    return vid.rsplit("_", 2)[0] if _seconds(vid) else vid


def _seconds(vid: str) -> tuple[float, float] | None:
    parts = vid.rsplit("_", 2)
    try:
        first, last = float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        return None
    return (first, last) if 0 <= first < last < 1e6 else None


def _public(url: str | None) -> str | None:
    """A url that may stand in our tables: http(s), without user or password."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and "@" not in parts.netloc else None


def _youtube_id(url: str) -> str | None:
    try:
        found = parse_qs(urlsplit(url).query).get("v", [""])[0]
    except ValueError:
        return None
    return found if _YOUTUBE.fullmatch(found) else None
