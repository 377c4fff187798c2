"""Random numbers that depend on what they are for, not on what was drawn before.

Noise, noise level, dropout and reference form of a sample are functions of
``(seed, sample id, its number in the global stream, purpose)``. Workers, restarts and world
size therefore change none of them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

#: A sample id and its number in the stream (:class:`s2v.model.data.plan.Draw`).
Key = tuple[str, int]


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A Philox generator keyed by the hash of ``(seed, *key)``.

    The parts are length-prefixed: ``("ab", "c")`` and ``("a", "bc")`` give other streams.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, *key):
        raw = repr(part).encode()
        digest.update(len(raw).to_bytes(4, "little"))
        digest.update(raw)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))


def normal(shape: tuple[int, ...], seed: int, *key: str | int) -> Tensor:
    """Standard normal float32 of ``shape`` for ``(seed, *key)``, made on the CPU."""
    return torch.from_numpy(generator(seed, *key).standard_normal(shape, dtype=np.float32))
