"""Samples that could not be read: set aside by name, with a fuse against broken shards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from s2v.model.errors import ModelError


@dataclass(frozen=True)
class Fault:
    """A sample that could not be read."""

    sample_id: str
    message: str
    retry: str = "mend or rewrite the shard and start again; faults are not remembered"


class Quarantine:
    """Collects faults.

    Args:
        fuse: this many faults in a row stop the work: then the shards are broken, not samples.
    """

    def __init__(self, fuse: int) -> None:
        self._fuse, self._in_a_row, self._good = fuse, 0, 0
        self.faults: list[Fault] = []
        self._named: set[str] = set()

    def good(self) -> None:
        """A sample was read."""
        self._in_a_row, self._good = 0, self._good + 1

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
            raise ModelError(f"{self._in_a_row} samples in a row are unreadable, the last: {error}")
        return new

    def close(self) -> tuple[Fault, ...]:
        """All faults.

        Raises:
            ModelError: no sample was readable.
        """
        if self.faults and not self._good:
            raise ModelError(
                f"all {len(self.faults)} samples are unreadable, e.g. {self.faults[0].message}"
            )
        return tuple(self.faults)

    def lines(self) -> str:
        """``quarantine.jsonl``."""
        return "".join(json.dumps(asdict(f), sort_keys=True) + "\n" for f in self.faults)
