"""The one global order of samples.

Every sample has a number n = 0, 1, 2, ... in one stream. The source of number n comes from the
mixture (:mod:`.mix`), exact for each phase by itself; within its source the k-th turn is entry
``permutation(epoch)(cursor)`` of the sorted samples, so that each occurs once per epoch, whatever
phases pass meanwhile. The permutation is a keyed bijection evaluated at one point, so the state
is a count per source: it does not grow, and it does not know workers, batches or processes.

A turn whose sample has no place (no size of the phase fits it, or a list excludes it) is passed
over. The order of the others stays as it is, so a takedown does not end a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

from s2v.model.data.mix import next_source, shares
from s2v.model.data.pool import Pool
from s2v.model.errors import ModelError

_ROUNDS: Final = 8


def permuted(cursor: int, size: int, *key: str | int) -> int:
    """Where ``cursor`` of ``range(size)`` goes under the permutation named by ``key``.

    A Feistel network over the next power of four, walked until it falls inside the range.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    name = repr(key).encode()
    x = cursor
    while True:
        left, right = x >> half, x & mask
        for r in range(_ROUNDS):
            raw = hashlib.blake2b(name + bytes([r]) + right.to_bytes(8, "little"), digest_size=8)
            left, right = right, left ^ (int.from_bytes(raw.digest(), "little") & mask)
        x = (left << half) | right
        if x < size:
            return x


@dataclass(frozen=True, slots=True)
class Draw:
    """One place in the stream.

    Attributes:
        number: in the stream; with the sample id it names all that is random of it.
        source: pair type.
        sample_id: its id.
        epoch: of its source.
        turn: of its source, those passed over counted.
        row: of the index.
    """

    number: int
    source: str
    sample_id: str
    epoch: int
    turn: int
    row: int


class Plan:
    """The stream; asking for the next sample advances its state.

    Args:
        pool: the samples.
        mixes: share per source, for each phase; sources without samples are left out.
        seed: of the permutations.

    Raises:
        ModelError: no source of a phase has samples.
    """

    def __init__(self, pool: Pool, mixes: Sequence[Mapping[str, float]], seed: int) -> None:
        self.pool, self._seed = pool, seed
        self.share = []
        for phase, mix in enumerate(mixes):
            there = {s: w for s, w in mix.items() if pool.count(s, phase)}
            if not there:
                has = sorted(s for s in pool.rows if pool.count(s, phase))
                raise ModelError(
                    f"data.mix asks for {sorted(mix)} in phase {phase}, the shards have {has} in "
                    "its sizes; change the mix or the sizes of that phase"
                )
            self.share.append(shares(there))
        self.left_out = sorted(
            {s for mix in mixes for s in mix} - {s for x in self.share for s in x}
        )
        self._turn = dict.fromkeys(sorted({s for share in self.share for s in share}), 0)
        self._phase, self._number = 0, 0
        self._drawn = dict.fromkeys(self.share[0], 0)

    @property
    def sources(self) -> list[str]:
        """That some phase draws from."""
        return list(self._turn)

    def next(self, phase: int = 0) -> Draw:
        """The next sample of the stream.

        Args:
            phase: that it is drawn in; the mixture is counted anew where it changes.
        """
        if phase != self._phase:
            self._phase, self._drawn = phase, dict.fromkeys(self.share[phase], 0)
        source = next_source(self.share[phase], self._drawn)
        while True:
            draw = self.at(self._number, source, self._turn[source])
            self._turn[source] += 1
            if self.pool.bucket(draw.row, phase) is not None:
                break
        self._drawn[source] += 1
        self._number += 1
        return draw

    def at(self, number: int, source: str, turn: int) -> Draw:
        """The sample of one turn of a source."""
        rows = self.pool.rows[source]
        epoch, cursor = divmod(turn, len(rows))
        row = int(rows[permuted(cursor, len(rows), self._seed, source, epoch)])
        return Draw(number, source, self.pool.id(row), epoch, turn, row)

    def state(self) -> dict[str, Any]:
        """All there is to remember: counts per source, and what the order depends on."""
        return {
            "number": self._number,
            "phase": self._phase,
            "turn": dict(self._turn),
            "drawn": dict(self._drawn),
            "digest": self.digest(),
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Find whether a state is of this stream.

        Raises:
            ModelError: the samples or weights are not those of the saved stream.
        """
        if state["digest"] != self.digest():
            raise ModelError(
                "the shards' samples, data.mix or train.seed changed since the checkpoint, so its "
                "order cannot go on; start a new run folder, or restore the old shards (of samples "
                "that must go, keep the shards and name them in data.exclusions: the order goes on)"
            )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            ModelError: as :meth:`check`.
        """
        self.check(state)
        self._number, self._phase = int(state["number"]), int(state["phase"])
        self._turn = {source: int(n) for source, n in state["turn"].items()}
        self._drawn = {source: int(n) for source, n in state["drawn"].items()}

    def copy(self) -> Plan:
        """Another stream at the same place."""
        other = copy(self)
        other._turn, other._drawn = dict(self._turn), dict(self._drawn)
        return other

    def digest(self) -> str:
        """16 hex over all that the order depends on."""
        said = [sorted((s, str(x)) for s, x in share.items()) for share in self.share]
        text = repr((self._seed, said, self.pool.digest()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
