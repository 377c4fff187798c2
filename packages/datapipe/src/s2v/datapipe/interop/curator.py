"""What NVIDIA NeMo Curator and Cosmos-Curate leave: ``clips/`` and ``metas/v0/``, as sources.

Per clip ``metas/v0/<span_uuid>.json`` (Cosmos-Curate may write ``metas_jsonl/v0/*.jsonl``
instead)::

    {"span_uuid", "source_video", "duration_span": [from, to] in seconds, "clip_location",
     "framerate", "num_frames", "windows": [{"start_frame", "end_frame", "<model>_caption"}],
     "valid": true}

A clip may have several captioned windows: each becomes a part of its own, from ``start_frame`` to
``end_frame``, both inside. Embeddings are pickles and are not opened; we measure our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.ids import VIDEO_ID, stable_hash
from s2v.datapipe.interop.bounded import Fields, load, opened
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.imported import name_to_id
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.manifests import Foreign, files
from s2v.datapipe.sources.address import check_url, scheme_of
from s2v.datapipe.sources.errors import SourceError

_MAX_META: Final = 16 << 20
_CAPTION: Final = "_caption"
_ENHANCED: Final = "_enhanced_caption"


class Curated:
    """An output folder of either curator."""

    def __init__(self, folder: Path, *, caption: str | None = None) -> None:
        """List the clips.

        Args:
            folder: that holds ``clips/`` and ``metas/v0/`` or ``metas_jsonl/v0/``.
            caption: key of the caption to take, like ``qwen_caption``; by default an enhanced one
                if there is one, else the first by name.

        Raises:
            InteropError: it is no such folder.
        """
        self.folder, self.caption = folder, caption
        if not (folder / "clips").is_dir() or not self._metas():
            raise InteropError(
                f"{folder}: has no clips/ beside metas/v0/*.json (or metas_jsonl/v0/*.jsonl); "
                "give the output_path of the pipeline"
            )
        self._clips: dict[str, list[Path]] = {}
        for path in files(folder / "clips", "*.mp4"):
            self._clips.setdefault(path.stem, []).append(path)
            # Several cameras: clips/<uuid>/<camera>.mp4
            if path.parent != folder / "clips":
                self._clips.setdefault(path.parent.name, []).append(path)

    def _metas(self) -> list[Path]:
        single = files(self.folder / "metas" / "v0", "*.json")
        return [*single, *files(self.folder / "metas_jsonl" / "v0", "*.jsonl")]

    def sources(self, ledger: Ledger) -> Iterator[Foreign]:
        """A source per captioned window, or per clip; a row of the ledger each."""
        for where, value in self._values(ledger):
            try:
                found = list(self._sources(value, where))
            except RowError as error:
                ledger.found("row")
                ledger.leave("row", where, where, error)
                continue
            ledger.found("row", len(found))
            yield from found

    def _values(self, ledger: Ledger) -> Iterator[tuple[str, Any]]:
        for path in self._metas():
            name = path.relative_to(self.folder).as_posix()
            try:
                if path.suffix == ".json":
                    yield name, load(path, _MAX_META)
                else:
                    yield from _lines(path, name, ledger)
            except InteropError as error:
                ledger.found("row")
                ledger.leave("row", name, name, RowError("unreadable row", str(error)))

    def _sources(self, value: Any, where: str) -> Iterator[Foreign]:
        meta = Fields(value, "clip")
        uuid = meta.text("span_uuid", 100)
        if not VIDEO_ID.fullmatch(uuid):
            raise RowError("unreadable row", f"span_uuid {uuid!r} is no id")
        if "valid" in meta and meta.raw("valid") is not True:
            raise RowError("left out by its curator", f"valid is {meta.raw('valid')!r}")
        path = self._file(uuid)
        begin, end = meta.numbers("duration_span", 2)
        if not 0 <= begin < end:
            raise RowError("unreadable row", f"duration_span is {[begin, end]}")
        source = meta.text("source_video", 4000)
        facts = {
            "kind": "video",
            "long_video_id": f"l{stable_hash([source], 16)}",
            "url": _url(source),
            "offset_us": round(begin * 1e6),
        }
        windows = self._windows(meta)
        if len(windows) < 2:
            caption = windows[0][2] if windows else None
            facts |= {"video_id": uuid, "given_caption": caption}
            yield Foreign(uuid, where, path, None, facts)
            return
        fps = meta.number("framerate" if "framerate" in meta else "framerate_source")
        if not 0 < fps <= 1000:
            raise RowError("unreadable row", f"framerate is {fps}")
        for n, (first, last, caption) in enumerate(windows):
            part = {
                "video_id": name_to_id("w", f"{uuid}-w{n}"),
                "given_caption": caption,
                "from_us": round(first * 1e6 / fps),
                "to_us": round((last + 1) * 1e6 / fps),
            }
            yield Foreign(f"{uuid} window {n}", where, path, None, facts | part)

    def _file(self, uuid: str) -> Path:
        found = self._clips.get(uuid, [])
        if not found:
            raise RowError("video not found", f"no {uuid}.mp4 below {self.folder / 'clips'}")
        if len(found) > 1:
            raise RowError(
                "video not found", f"{uuid} is {len(found)} files, several cameras; list them apart"
            )
        return found[0]

    def _windows(self, meta: Fields) -> list[tuple[int, int, str | None]]:
        if "windows" not in meta:
            return []
        windows = []
        for value in meta.items("windows"):
            window = Fields(value, "window")
            first, last = window.integer("start_frame"), window.integer("end_frame")
            if not 0 <= first <= last:
                raise RowError("unreadable row", f"a window is of frames {first}..{last}")
            windows.append((first, last, self._caption(window)))
        return windows

    def _caption(self, window: Fields) -> str | None:
        keys = [key for key in window if key.endswith(_CAPTION)]
        if self.caption is not None:
            keys = [self.caption] if self.caption in window else []
        for key in sorted(keys, key=lambda k: (not k.endswith(_ENHANCED), k)):
            if key in window:
                return window.text(key).strip()
        return None


def _url(source: str) -> str | None:
    """Where the long video was published, if ``source_video`` says so; a path of another machine
    says nothing here."""
    if scheme_of(source) not in ("http", "https"):
        return None
    try:
        check_url(source)
    except SourceError:
        return None
    return source


def _lines(path: Path, name: str, ledger: Ledger) -> Iterator[tuple[str, Any]]:
    with opened(path) as handle:
        number = 0
        while line := handle.readline(_MAX_META + 1):
            number += 1
            where = f"{name}, line {number}"
            if len(line) > _MAX_META:
                raise InteropError(f"{where}: over {_MAX_META} bytes")
            if not line.strip():
                continue
            try:
                yield where, json.loads(line.decode("utf-8"), parse_constant=lambda _: None)
            except (ValueError, RecursionError) as error:
                ledger.found("row")
                wrong = RowError("unreadable row", f"not JSON: {str(error)[:200]}")
                ledger.leave("row", where, where, wrong)
