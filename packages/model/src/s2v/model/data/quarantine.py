"""Samples that could not be read: set aside by name, with a fuse against broken shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.atomic import write_bytes
from s2v.model.errors import ModelError
from s2v.model.explaining import named

_WAY_OUT: Final = "fetch the shards again, or write them anew: `s2v-data select`"


@dataclass(frozen=True)
class Fault:
    """A sample that could not be read.

    Attributes:
        sample_id: its id.
        message: what is wrong, with the file.
        step: of the training that met it; None for what was found before the first step.
        retry: what to do.
    """

    sample_id: str
    message: str
    step: int | None = None
    retry: str = "mend or rewrite the shard and start again; faults are not remembered"


class Quarantine:
    """Collects faults.

    Args:
        fuse: this many faults in a row stop the work: then the shards are broken, not samples.

    Attributes:
        faults: one per sample, in the order in which they were met.
        read: readings that went well.
    """

    def __init__(self, fuse: int) -> None:
        self._fuse, self._in_a_row, self.read = fuse, 0, 0
        self.faults: list[Fault] = []
        self._named: set[str] = set()
        self._given = 0

    def good(self) -> None:
        """A sample was read."""
        self._in_a_row, self.read = 0, self.read + 1

    def add(self, sample_id: str, error: Exception) -> bool:
        """A sample was not read.

        Returns:
            Whether it is a new one: a sample that comes again every epoch is one fault.

        Raises:
            ModelError: the fuse is spent.
        """
        new = sample_id not in self._named
        if new:
            self._named.add(sample_id)
            self.faults.append(Fault(sample_id, str(error)))
        self._in_a_row += 1
        if self._in_a_row >= self._fuse:
            raise ModelError(
                f"{self._in_a_row} samples in a row are unreadable, the last: {error}; {_WAY_OUT}, "
                "or raise data.fuse"
            )
        return new

    def close(self) -> tuple[Fault, ...]:
        """All faults.

        Raises:
            ModelError: no sample was readable.
        """
        if self.faults and not self.read:
            raise ModelError(
                f"all {len(self.faults)} samples are unreadable, e.g. {self.faults[0].message}; "
                f"{_WAY_OUT}"
            )
        return tuple(self.faults)

    def join(self, others: Sequence[Quarantine]) -> None:
        """Become what several processes met together, this one among them.

        A process whose own share is bad altogether has no word to say on the whole: shares are
        small where samples are few, or processes many.
        """
        self.faults = [fault for other in others for fault in other.faults]
        self._named = {fault.sample_id for fault in self.faults}
        self.read = sum(other.read for other in others)

    def fresh(self) -> list[Fault]:
        """The faults since the last call."""
        new, self._given = self.faults[self._given :], len(self.faults)
        return new


def begin_list(path: Path, faults: Iterable[Fault], done: int) -> None:
    """Write ``quarantine.jsonl`` for a start of a run.

    What training met up to the checkpoint stays; what a killed run met after it will be met again.

    Args:
        path: the file.
        faults: found before the first step of this start.
        done: finished steps of the checkpoint that it goes on from.
    """
    kept = [line for line in _read(path) if line["step"] is not None and line["step"] <= done]
    known = {line["sample_id"] for line in kept}
    first = sorted((f for f in faults if f.sample_id not in known), key=lambda f: f.sample_id)
    write_bytes(path, _lines([*map(asdict, first), *kept]))


def add_to_list(path: Path, faults: Iterable[Fault], step: int | None) -> None:
    """Append faults to ``quarantine.jsonl``, on the disk when this returns; each sample once.

    Args:
        path: the file.
        faults: of any process.
        step: of the training, None before the first.
    """
    new = {fault.sample_id: replace(fault, step=step) for fault in faults}
    if not new:
        return
    for line in _read(path):
        new.pop(line["sample_id"], None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), path.open("ab") as handle:
        handle.write(_lines(asdict(new[name]) for name in sorted(new)))
        handle.flush()
        os.fsync(handle.fileno())


def _read(path: Path) -> list[dict[str, Any]]:
    """Its whole lines; one that a kill cut is left out."""
    found = []
    for raw in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            line = json.loads(raw)
            found.append({"sample_id": line["sample_id"], "step": line.get("step"), **line})
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return [x for x in found if x["step"] is None or isinstance(x["step"], int)]


def _lines(values: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(value, sort_keys=True) + "\n" for value in values).encode()
