"""Where a face looks, and how sharp it is, from its five landmarks.

MAGREF filters reference faces by yaw, pitch and roll, and by quality; it publishes no values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import as_image, one_cv_thread
from s2v.datapipe.base.embedded.sface import ARCFACE_112, similarity_transform
from s2v.datapipe.roles import Image

SIDE: Final = 112

#: A mean adult head in millimetres ``[5, 3]``: x right, y down, z into the picture. Pupils 63
#: apart, the tip of the nose 41 below their line and 27 before it, the corners of the mouth 73
#: below and 52 apart. Only the nose stands out: its shift against the others tells a turned head.
#: (Breadths and heights as in ArcFace's template, but for the nose: with the template's 36 mm
#: frontal portraits come out looking 9 degrees down.)
MEAN_HEAD: Final = np.array(
    [
        [-31.5, 0.0, 0.0],
        [31.5, 0.0, 0.0],
        [0.0, 41.0, -27.0],
        [-26.0, 73.0, 0.0],
        [26.0, 73.0, 0.0],
    ]
)


@dataclass(frozen=True)
class Pose:
    """A head's pose in degrees.

    Attributes:
        yaw: 0 frontal, positive when the face looks to the viewer's right.
        pitch: positive when it looks up.
        roll: of the line of the eyes, clockwise as seen.
    """

    yaw: float
    pitch: float
    roll: float


def head_pose(points: npt.NDArray[np.float32]) -> Pose | None:
    """Fit the mean head to five landmarks by scaled orthography (DeMenthon and Davis 1995, POS).

    Closed form: least squares for the two rows of scale times rotation, then the nearest
    rotation. Roll is taken out first, so turning the picture changes roll alone. Five points on a
    mean head are good for some ten degrees; beyond sixty degrees of yaw the far eye is guessed by
    the detector and so is the pose.

    Args:
        points: ``[5, 2]`` eyes, nose, mouth corners, left before right as the viewer sees them.

    Returns:
        The pose rounded to 0.1 degree, or ``None`` where all points are one.
    """
    seen = points.astype(np.float64)
    seen = seen - seen.mean(axis=0)
    if np.abs(seen).max() < 1e-3:
        return None
    model = MEAN_HEAD - MEAN_HEAD.mean(axis=0)
    rows, *_ = np.linalg.lstsq(model, seen, rcond=None)  # [3, 2]
    u, _, vt = np.linalg.svd(rows.T, full_matrices=False)
    right, down = u @ vt  # the nearest pair of orthogonal unit rows
    into = np.cross(right, down)
    rotation = np.stack([right, down, into])
    roll = math.atan2(rotation[1, 0], rotation[0, 0])
    c, s = math.cos(roll), math.sin(roll)
    upright = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ rotation
    looks = -upright[:, 2]  # out of the face
    yaw = math.atan2(looks[0], -looks[2])
    pitch = math.atan2(-looks[1], math.hypot(looks[0], looks[2]))
    return Pose(*(round(math.degrees(angle), 1) + 0.0 for angle in (yaw, pitch, roll)))


def aligned_face(image: Image, points: npt.NDArray[np.float32]) -> Image:
    """The face upright at 112 pixels, ArcFace's frame; shrunk first where it is larger.

    Without shrinking, sampling a large face at 112 pixels would alias and look sharp.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        points: ``[5, 2]`` landmarks.
    """
    matrix = similarity_transform(points.astype(np.float64), ARCFACE_112)
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    if 0 < scale < 1:
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        with one_cv_thread():
            image = as_image(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        shrunk = np.array([size[0] / width, size[1] / height])
        matrix = similarity_transform(points.astype(np.float64) * shrunk, ARCFACE_112)
    with one_cv_thread():
        return as_image(cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR))


def sharpness(face: Image) -> float:
    """Variance of the Laplacian of an aligned face's middle, in grey levels squared.

    At one size, so that faces compare; a small face drawn large has little.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    return round(float(cv2.Laplacian(grey, cv2.CV_64F)[16:96, 16:96].var()), 2)
