"""One JSON line per step, cut back to the checkpoint when training goes on."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from s2v.datapipe.base.atomic import write_bytes
from s2v.model.explaining import FULL, named

LEVEL_BINS = 4


class MetricsLog:
    """Appends to ``metrics.jsonl``; nothing is held back, so a reader sees whole lines.

    Where the disk is full, lines wait in memory: a checkpoint that does not fit fills the disk
    for as long as it is tried, and leaves room again when it is given up.

    Args:
        path: the file.
        after: finished steps; later lines of a killed run are dropped, so that every step
            stands there once.
    """

    def __init__(self, path: Path, after: int) -> None:
        kept = [line for line in read(path) if line["step"] <= after]
        write_bytes(path, "".join(_line(line) for line in kept).encode())
        self._path, self._file = path, path.open("ab", buffering=0)
        self._waiting = bytearray()

    def add(self, line: dict[str, Any]) -> None:
        """Append one line."""
        fits = not self._waiting
        self._waiting += _line(line).encode()
        try:
            self._write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            if fits:
                print(
                    f"s2v-model: {self._path}: {error.strerror}; lines wait in memory; free some "
                    "space",
                    file=sys.stderr,
                )

    def close(self) -> None:
        """Write what waits, and close the file.

        Raises:
            OSError: there is no room for it.
        """
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        with named(self._path):
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; one that a kill or a disk damaged is left out."""
    if not path.is_file():
        return []
    lines = []
    for raw in path.read_bytes().splitlines():
        try:
            line = json.loads(raw)
        except ValueError:  # no JSON, or no text
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def by_group(losses: Sequence[float], groups: Iterable[str]) -> dict[str, float]:
    """Mean loss per group, for the groups that occur, sorted by name."""
    found: dict[str, list[float]] = defaultdict(list)
    for loss, group in zip(losses, groups, strict=True):
        found[group].append(loss)
    return {name: sum(found[name]) / len(found[name]) for name in sorted(found)}


def level_bin(t: float) -> str:
    """``0.00-0.25`` and so on: the quarter of the noise levels that ``t`` lies in."""
    i = min(int(t * LEVEL_BINS), LEVEL_BINS - 1)
    return f"{i / LEVEL_BINS:.2f}-{(i + 1) / LEVEL_BINS:.2f}"


def _line(value: dict[str, Any]) -> str:
    return json.dumps(_finite(value), sort_keys=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """NaN and infinities become null: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
