"""Vectors and hashes that are made, not measured, so that tests know how far apart they lie."""

from __future__ import annotations

import hashlib

import numpy as np

DIM = 64


def rng(*parts: object) -> np.random.Generator:
    """A generator seeded by names."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return np.asarray(vector / length)


def around(name: str, closeness: float, *noise: object) -> list[float]:
    """A unit vector at cosine ``closeness`` from the base vector of ``name``.

    Two of them lie at about ``closeness ** 2`` from each other.
    """
    base = unit(rng("base", name).standard_normal(DIM))
    other = rng("noise", name, *noise).standard_normal(DIM)
    other = unit(other - (other @ base) * base)
    mixed = closeness * base + np.sqrt(1 - closeness**2) * other
    return [float(x) for x in unit(mixed).astype(np.float32)]


def hash_of(*parts: object, flip: int = 0) -> str:
    """A 64-bit hash of names; ``flip`` low bits differ."""
    value = int(rng("phash", *parts).integers(0, 2**63, dtype=np.uint64)) ^ ((1 << flip) - 1)
    return f"{value:016x}"
