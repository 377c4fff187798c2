"""Foreign clips as sources of ours: a manifest that ``[[sources]]`` takes, row by checked row.

What others cut and captioned goes through our own measuring; of theirs, the clip, where it comes
from and its caption are taken over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from s2v.datapipe.base import atomic
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.sources.spec import ManifestRow

#: Beside the manifest, so that two manifests of one folder do not share them.
SUFFIX: Final = ".jsonl"


@dataclass(frozen=True)
class Foreign:
    """One source to be.

    Attributes:
        name: id of the foreign clip, for messages.
        where: file it stands in.
        path: of the video; absolute, or relative to the working folder.
        member: name inside ``path`` where that is a tar.
        facts: keys of a manifest, without ``path``.
    """

    name: str
    where: str
    path: Path
    member: str | None
    facts: dict[str, Any]


def write_manifest(
    out: Path, found: Iterable[Foreign], ledger: Ledger, about: dict[str, Any]
) -> dict[str, Any]:
    """Write rows of a manifest, and beside it what was left out.

    Args:
        out: the manifest, ``.jsonl``; ``<out>.import/`` gets ``import.json`` and
            ``quarantine.jsonl``.
        found: sources in any order; they are sorted by video_id and part.
        ledger: where rows were counted; those written here are added.
        about: format and folder, for ``import.json``.

    Returns:
        What ``import.json`` says.

    Raises:
        InteropError: ``out`` is no ``.jsonl``, or nothing was found.
    """
    if out.suffix != SUFFIX:
        raise InteropError(f"{out}: a manifest is written as {SUFFIX}; name it so")
    rows: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    for source in sorted(found, key=lambda s: (s.facts["video_id"], s.name)):
        try:
            if (other := taken.get(source.facts["video_id"])) is not None:
                raise RowError("id twice", f"{source.facts['video_id']!r} is in {other} too")
            row = _row(source, out.parent)
            taken[source.facts["video_id"]] = source.where
            rows.append((source.facts["video_id"], row))
            ledger.wrote("row")
        except RowError as error:
            ledger.leave("row", source.name, source.where, error)
    summary = ledger.write(out.with_name(f"{out.name}.import"), {**about, "manifest": out.name})
    if not rows:
        reasons = summary["counts"].get("row", {}).get("left_out", {})
        raise InteropError(f"{about['from']}: no clip can be used: {reasons or 'none is there'}")
    atomic.write_bytes(out, "".join(line for _, line in rows).encode())
    return summary


def _row(source: Foreign, base: Path) -> str:
    path = os.path.relpath(source.path, base)
    if source.member is not None:
        path = f"{path}#{source.member}"
    facts = {key: value for key, value in source.facts.items() if value is not None}
    row = {"path": path, **facts}
    try:
        ManifestRow.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "row"
        raise RowError("unreadable row", f"{where}: {first['msg']}") from None
    return json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n"


def files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files below a folder, sorted; links out of it are not followed."""
    root = folder.resolve()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path
