"""Nothing is lost without a word: every row and reference of a foreign file is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base import atomic
from s2v.datapipe.interop.errors import RowError

QUARANTINE: Final = "quarantine.jsonl"
SUMMARY: Final = "import.json"


class Ledger:
    """Counts what went in, what was written, and files the rest.

    Rows and references are counted apart: a row is a clip or video of the foreign file, a
    reference an object that it offers for one. ``in = written + left out``, for both; a row that
    is left out takes its references with it, which are filed one by one all the same.
    """

    def __init__(self) -> None:
        self._in: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._left: Counter[tuple[str, str]] = Counter()
        self._filed: list[dict[str, str]] = []

    def found(self, kind: str, count: int = 1) -> None:
        """``count`` rows or references of the foreign file were read."""
        self._in[kind] += count

    def wrote(self, kind: str, count: int = 1) -> None:
        """``count`` of them are in what is written."""
        self._written[kind] += count

    def leave(self, kind: str, name: str, where: str, error: RowError) -> None:
        """File one that is not.

        Args:
            kind: ``row`` or ``reference``.
            name: its id in the foreign file.
            where: file and row, for who looks into it.
            error: reason and values.
        """
        self._left[kind, error.reason] += 1
        self._filed.append(
            {
                "kind": kind,
                "id": name[:300],
                "where": where,
                "reason": error.reason,
                "message": error.message[:500],
            }
        )

    def left_out(self) -> dict[str, int]:
        """How many were filed, by reason."""
        counts: Counter[str] = Counter()
        for (_, reason), count in self._left.items():
            counts[reason] += count
        return dict(sorted(counts.items()))

    def summary(self) -> dict[str, Any]:
        """Counts by kind, with the reasons of what was left out.

        Raises:
            AssertionError: the counts do not add up, which is a mistake of ours.
        """
        found: dict[str, Any] = {}
        for kind in sorted(self._in):
            left = {r: n for (k, r), n in sorted(self._left.items()) if k == kind}
            found[kind] = {"in": self._in[kind], "written": self._written[kind], "left_out": left}
            if self._in[kind] != self._written[kind] + sum(left.values()):
                raise AssertionError(f"{kind}: {found[kind]} does not add up")
        return found

    def write(self, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
        """Write ``quarantine.jsonl`` and ``import.json``; returns the latter.

        Args:
            folder: of the import.
            about: format, files, settings.
        """
        rows = sorted(self._filed, key=lambda row: (row["kind"], row["id"], row["reason"]))
        atomic.write_bytes(folder / QUARANTINE, _lines(rows))
        summary = {**about, "counts": self.summary()}
        atomic.write_json(folder / SUMMARY, summary)
        return summary


def _lines(rows: Iterable[dict[str, str]]) -> bytes:
    return "".join(json.dumps(r, sort_keys=True, ensure_ascii=False) + "\n" for r in rows).encode()
