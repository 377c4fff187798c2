"""Aligning a face by its five points, as ArcFace's networks were trained."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import Face, Image

TEMPLATE: Final = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Where the five points lie in an aligned face of 112 pixels (Deng et al. 2019)."""


def similarity_transform(points: npt.ArrayLike, target: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Least-squares rotation, uniform scale and shift (Umeyama 1991); never a reflection.

    Args:
        points: (N, 2), not all equal.
        target: (N, 2) where they should go.

    Returns:
        (2, 3) matrix.

    Raises:
        ValueError: all points are one.
    """
    a, b = np.asarray(points, np.float64), np.asarray(target, np.float64)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    centred, wanted = a - mean_a, b - mean_b
    spread = float((centred**2).sum())
    if spread == 0:
        raise ValueError("the points of a face lie in one place")
    u, s, vt = np.linalg.svd(wanted.T @ centred)
    sign = np.array([1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) >= 0 else -1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = float(s @ sign) / spread
    return np.column_stack([scale * rotation, mean_b - scale * rotation @ mean_a])


def aligned(image: Image, face: Face, side: int = 112) -> Image:
    """The face cut out upright, black where the image ends.

    Args:
        image: RGB uint8 (H, W, 3).
        face: with its five points.
        side: pixels of the square result.
    """
    matrix = similarity_transform(face.points, TEMPLATE * (side / 112))
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), borderValue=0.0), np.uint8)
