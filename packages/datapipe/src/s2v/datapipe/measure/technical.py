"""Technical quality of one frame by plain image processing; no model, no thresholds.

Step-Video scores blur, saturation and borders, Open-Sora 2.0 blur; neither publishes a value.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.roles import Image

BLUR_SHORT_SIDE: Final = 480  # the Laplacian's variance depends on size, so it is taken at one size
_CRUSHED: Final = 6  # grey level; black with nothing in it
_BLOWN: Final = 249
_BLOCK: Final = 8  # pixels: the grid of transforms of nearly all codecs


def sharpness(rgb: Image) -> float:
    """Variance of the Laplacian of the grey frame, scaled to 480 pixels on the short side."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = BLUR_SHORT_SIDE / min(grey.shape)
    if scale < 1:
        size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return round(float(cv2.Laplacian(grey, cv2.CV_64F).var()), 3)


def saturation(rgb: Image) -> float:
    """Mean HSV saturation, 0..1."""
    return round(float(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[:, :, 1].mean()) / 255, 4)


def exposure(rgb: Image) -> tuple[float, float]:
    """Shares of crushed and of blown pixels, 0..1."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return (
        round(float((grey <= _CRUSHED).mean()), 4),
        round(float((grey >= _BLOWN).mean()), 4),
    )


def blockiness(rgb: Image) -> float:
    """How much larger steps between pixels are on an 8-pixel grid than off it; 0 for none.

    The grid may begin anywhere, as a crop moves it: the column (and row) of eight with the
    largest excess counts, and the weaker of the two directions, since blocks have both. Frames
    that were scaled after decoding have no such grid any more, and read near 0 however blocky.
    """
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.int16)
    return round(max(0.0, min(_excess(grey), _excess(grey.T))), 4)


def _excess(grey: npt.NDArray[np.int16]) -> float:
    steps = np.abs(np.diff(grey, axis=1))
    # A step that is larger than both its neighbours; smooth slopes and textures cancel.
    alone = steps[:, 1:-1] - (steps[:, :-2].astype(np.float32) + steps[:, 2:]) / 2
    lines = alone.mean(axis=0)
    if len(lines) < 4 * _BLOCK:
        return 0.0
    whole = len(lines) // _BLOCK * _BLOCK
    # The median over the blocks: one real edge of the scene is no grid.
    grid = np.median(lines[:whole].reshape(-1, _BLOCK), axis=0)
    largest = int(grid.argmax())
    others = np.delete(grid, largest)
    return float((grid[largest] - np.median(others)) / (steps.mean() + 0.5))
