"""The one global order of samples.

Every sample has a number n = 0, 1, 2, ... in one stream. The source of number n comes from the
mixture (:mod:`.mix`); within its source the k-th draw is entry ``permutation(epoch)(cursor)``
of the sorted samples, so that each occurs once per epoch. The permutation is a keyed bijection
evaluated at one point, so the state is a count per source: it does not grow, and it does not
know workers, batches or processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from s2v.model.data.mix import next_source, shares
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


@dataclass(frozen=True)
class Draw:
    """One place in the stream."""

    number: int
    source: str
    sample_id: str
    epoch: int


class Plan:
    """The stream; iterating it advances its state.

    Args:
        sources: sample ids per source (pair type).
        weights: share per source; sources without samples are left out.
        seed: of the permutations.

    Raises:
        ModelError: no source has both a weight and samples.
    """

    def __init__(
        self, sources: Mapping[str, Sequence[str]], weights: Mapping[str, float], seed: int
    ) -> None:
        self._ids = {s: sorted(ids) for s, ids in sources.items() if ids and s in weights}
        if not self._ids:
            raise ModelError(
                f"data.mix asks for {sorted(weights)}, the shards have {sorted(sources)}"
            )
        self.share = shares({s: weights[s] for s in self._ids})
        self.left_out = sorted(set(weights) - set(self._ids))
        self._seed = seed
        self._drawn = dict.fromkeys(self.share, 0)

    def next(self) -> Draw:
        """The next sample of the stream."""
        source = next_source(self.share, self._drawn)
        ids, k = self._ids[source], self._drawn[source]
        epoch, cursor = divmod(k, len(ids))
        draw = Draw(
            number=sum(self._drawn.values()),
            source=source,
            sample_id=ids[permuted(cursor, len(ids), self._seed, source, epoch)],
            epoch=epoch,
        )
        self._drawn[source] = k + 1
        return draw

    def state(self) -> dict[str, Any]:
        """All there is to remember: draws per source, and what the order depends on."""
        return {"drawn": dict(self._drawn), "digest": self._digest()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            ModelError: the samples or weights are not those of the saved stream.
        """
        if state["digest"] != self._digest():
            raise ModelError(
                "the shards' samples, data.mix or train.seed changed since the checkpoint, so its "
                "order cannot go on; start a new run folder, or restore the old shards"
            )
        self._drawn = {source: int(n) for source, n in state["drawn"].items()}

    def _digest(self) -> str:
        text = repr((self._seed, sorted(self.share.items()), sorted(self._ids.items())))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
