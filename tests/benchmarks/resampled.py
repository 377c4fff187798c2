"""Synthetic identities with the spread of real embeddings, for benchmarks of any size.

Gaussian noise has no neighbours: in 1408 dimensions all of it is equally far. Here an identity
is drawn from the covariance *between* the identities of a real run and its members from the
covariance *within* them, as ``resampled_spread.npz`` beside this file holds them and
measured_spread.py measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("resampled_spread.npz")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BLOCK = 8192  # identities drawn at once; part of what a seed means
KINDS = ("subject", "face")


@dataclass(frozen=True)
class Spread:
    """Mean and covariances of one embedder's vectors.

    A covariance is ``factors.T @ factors + floor**2 * identity``.

    Attributes:
        mean: ``[d]``.
        between: factors ``[r, d]`` of identities' centres, and their floor.
        within: the same of an identity's members around its centre.
        measured: quantiles of the cosines of real pairs: same identity, different identity.
        copies: sorted cosines of real pictures with their near copies (JPEG, half size, shifted,
            brighter, blurred, mirrored).
    """

    mean: np.ndarray
    between: tuple[np.ndarray, float]
    within: tuple[np.ndarray, float]
    measured: dict[str, np.ndarray]
    copies: np.ndarray = field(default_factory=lambda: np.ones(1))

    @property
    def width(self) -> int:
        """Dimensions."""
        return len(self.mean)

    def draw(self, identities: int, members: int, seed: int) -> np.ndarray:
        """``[identities * members, d]`` float32 unit rows; an identity's members lie together."""
        return np.concatenate(list(self.stream(identities, members, seed)))

    def stream(self, identities: int, members: int, seed: int) -> Iterator[np.ndarray]:
        """The same in blocks, for banks that do not fit the memory."""
        for number, at in enumerate(range(0, identities, BLOCK)):
            made = np.random.default_rng([seed, number])
            count = min(BLOCK, identities - at)
            centres = self.mean + _noise(made, count, *self.between)
            rows = np.repeat(centres, members, axis=0)
            rows += _noise(made, len(rows), *self.within)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            yield rows

    def copy(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """Near copies of rows ``[n, d]``: each at one of the measured cosines."""
        made = np.random.default_rng([seed, 1])
        cosine = made.choice(self.copies, len(rows)).astype(np.float32)[:, None]
        away = _noise(made, len(rows), *self.within)
        away -= (away * rows).sum(axis=1, keepdims=True) * rows
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        found: np.ndarray = cosine * rows + np.sqrt(1 - np.minimum(1, cosine**2)) * away
        return found


def _noise(made: np.random.Generator, n: int, factors: np.ndarray, floor: float) -> np.ndarray:
    wide = made.standard_normal((n, len(factors)), dtype=np.float32) @ factors
    return wide + np.float32(floor) * made.standard_normal(wide.shape, dtype=np.float32)


def load(kind: str) -> Spread:
    """The committed measurement of ``subject`` (1408 wide) or ``face`` (128 wide)."""
    with np.load(FILE, allow_pickle=False) as found:
        parts = {
            name.split("/")[1]: found[name].astype(np.float32)
            for name in found.files
            if name.startswith(f"{kind}/")
        }
    return Spread(
        parts["mean"],
        (parts["between"], float(parts["between_floor"])),
        (parts["within"], float(parts["within_floor"])),
        {"same": parts["same"], "different": parts["different"]},
        parts["copies"],
    )
