"""A drawn index of clips whose durations are log-normal, as those of real collections are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from s2v.model import config as configuration
from s2v.model.config import Config

MEDIAN_S, SIGMA = 4.0, 0.7
FRAMES = (17, 33, 49, 65, 81, 97, 121)
SHAPES = ((480, 832), (832, 480))


def drawn(n: int, seed: int = 0, images: float = 0.1) -> pa.Table:
    """``n`` rows of an index: durations, shapes, pair types and reference counts at random.

    Args:
        n: rows.
        seed: of the drawing.
        images: share of photographs.
    """
    random = np.random.default_rng(seed)
    seconds = random.lognormal(np.log(MEDIAN_S), SIGMA, n)
    still = random.random(n) < images
    frames = np.where(still, 1, np.maximum(2, np.round(seconds * 24))).astype(np.int64)
    large, wide = random.random(n) < 0.5, random.random(n) < 0.7
    height, width = np.where(large, 720, 480), np.where(large, 1280, 832)
    pair = np.where(still, "image", np.where(random.random(n) < 0.5, "in", "cross"))
    return pa.table(
        {
            "sample_id": [f"{i:020x}" for i in random.permutation(n)],
            "pair_type": pair.tolist(),
            "split": pa.repeat("train", n),
            "heldout": np.zeros(n, np.bool_),
            "frames": frames,
            "fps": np.full(n, 24.0),
            "height": np.where(wide, height, width),
            "width": np.where(wide, width, height),
            "references": random.integers(1, 5, n),
        }
    )


def wan(*overrides: str) -> Config:
    """Phantom-Wan-1.3B at 480p in sizes of one to seven seconds, both ways up."""
    sizes = ", ".join(f"[{f}, {h}, {w}]" for f in FRAMES for h, w in SHAPES)
    mix = "data.mix={ in = 0.4, cross = 0.4, image = 0.2 }"
    return configuration.load("phantom_wan_1_3b_480p", [f"data.sizes=[{sizes}]", mix, *overrides])
