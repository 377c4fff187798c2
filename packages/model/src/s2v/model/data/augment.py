"""Variants of a sample: the video and its references changed alike.

A few dozen clips are soon known by heart, and a network that has recognised its clip need not
look at the reference. Turning the colours of a clip *and* of its references by the same amount,
and mirroring both, leaves the reference as the only place where the answer stands. Variant 0 is
always the sample itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2v.model.config import AugmentConfig
from s2v.model.rng import generator

Pixels = npt.NDArray[np.uint8]

_LUMA = np.array([0.299, 0.587, 0.114])
# Y, I, Q of RGB: turning the (I, Q) plane turns the hue and keeps the brightness.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass(frozen=True)
class Change:
    """``matrix (x - 1/2) + 1/2 + shift`` on RGB in [0, 1], then perhaps mirrored."""

    matrix: npt.NDArray[np.float64]
    shift: float
    mirrored: bool

    def __call__(self, image: Pixels) -> Pixels:
        """Apply to ``[..., h, w, 3]``."""
        x = image.astype(np.float32) / 255 - 0.5
        y = x @ self.matrix.T.astype(np.float32) + np.float32(0.5 + self.shift)
        out = (y.clip(0, 1) * 255).round().astype(np.uint8)
        return np.ascontiguousarray(np.flip(out, -2) if self.mirrored else out)


def change(config: AugmentConfig, sample_id: str, variant: int) -> Change | None:
    """The change of one variant, a function of sample and variant; None for variant 0."""
    if variant == 0:
        return None
    random = generator(0, sample_id, variant, "augment")
    angle = 2 * math.pi * config.hue * random.uniform(-1, 1)
    turn = np.array(
        [
            [1, 0, 0],
            [0, math.cos(angle), -math.sin(angle)],
            [0, math.sin(angle), math.cos(angle)],
        ]
    )
    hue = np.linalg.inv(_YIQ) @ turn @ _YIQ
    grey = np.tile(_LUMA, (3, 1))
    saturation = 1 + config.saturation * random.uniform(-1, 1)
    contrast = 1 + config.contrast * random.uniform(-1, 1)
    matrix = contrast * hue @ (saturation * np.eye(3) + (1 - saturation) * grey)
    shift = config.brightness * random.uniform(-1, 1)
    return Change(matrix, shift, bool(random.random() < config.mirror))
