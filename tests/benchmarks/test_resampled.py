"""Synthetic identities lie as far apart as the real ones they were measured on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # scripts, no package
import resampled


@pytest.mark.parametrize("kind", resampled.KINDS)
def test_drawn_cosines_fall_where_real_ones_fall(kind: str) -> None:
    spread = resampled.load(kind)
    rows = spread.draw(1500, 2, seed=3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
    drawn = {
        "same": np.einsum("nd,nd->n", rows[::2], rows[1::2]),
        "different": np.einsum("nd,nd->n", rows[::2], np.roll(rows[1::2], 1, axis=0)),
    }
    middle = slice(1, 4)  # 5 % to the median; above it real pairs hold near copies
    for name, cosines in drawn.items():
        found = np.quantile(cosines, resampled.QUANTILES)[middle]
        assert np.abs(found - spread.measured[name][middle]).max() < 0.05


def test_near_copies_lie_at_measured_cosines() -> None:
    spread = resampled.load("face")
    rows = spread.draw(800, 1, seed=4)
    copies = spread.copy(rows, seed=5)
    cosines = np.einsum("nd,nd->n", rows, copies)
    assert abs(np.median(cosines) - np.median(spread.copies)) < 0.01
    assert cosines.min() > spread.copies.min() - 0.01


def test_a_seed_gives_the_same_bank_in_one_piece_and_in_blocks() -> None:
    spread = resampled.load("face")
    whole = spread.draw(9000, 2, seed=6)
    blocks = list(spread.stream(9000, 2, seed=6))
    assert len(blocks) == 2
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert not np.array_equal(whole[:10], spread.draw(9000, 2, seed=7)[:10])
