"""YuNet: face boxes with five landmarks (Wu et al. 2023; OpenCV Zoo, 2023mar).

Finds faces from about 10 pixels up in frontal to three-quarter view; misses profiles, and faces of
cartoon animals are not faces to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Box,
    Image,
    Net,
    check_image,
    fit_within,
    one_cv_thread,
    quiet_cv,
)

MAX_SIDE = 960
"""Pixels; larger images are shrunk first. Found sufficient for groups of five at 1920."""


@dataclass(frozen=True)
class FaceBox:
    """One face.

    Attributes:
        box: x0, y0, x1, y1 in pixels, clipped to the image.
        points: float32 [5, 2], x and y in pixels, in ArcFace's order as the viewer sees it: left
            eye, right eye, nose tip, left mouth corner, right mouth corner ("left" is the smaller
            x of an upright face, that is the person's right eye).
        score: Confidence in 0..1.
    """

    box: Box
    points: npt.NDArray[np.float32]
    score: float


class YuNet(Net):
    """Face detector."""

    name = "yunet"
    asset_name = "yunet"
    min_score = 0.8
    nms_iou = 0.3

    _net: Any

    def _load(self) -> None:
        with quiet_cv():
            self._net = cv2.FaceDetectorYN.create(
                str(self.path), "", (320, 320), self.min_score, self.nms_iou, 5000
            )

    def __call__(self, image: Image) -> list[FaceBox]:
        """Finds faces, largest first.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        check_image(image)
        self.load()
        small, factor = fit_within(image, MAX_SIDE)
        with one_cv_thread():
            self._net.setInputSize((small.shape[1], small.shape[0]))
            _, rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        height, width = image.shape[:2]
        faces = [self._face(row, factor, width, height) for row in rows]
        faces = [face for face in faces if _area(face.box) > 0]
        return sorted(faces, key=lambda face: (-_area(face.box), face.box))

    def _face(
        self, row: npt.NDArray[np.float32], factor: float, width: int, height: int
    ) -> FaceBox:
        x, y, w, h = (row[:4].astype(np.float64) / factor).tolist()
        # YuNet's own order (person's right eye first) is ArcFace's order seen by the viewer.
        points = np.round(row[4:14].astype(np.float64).reshape(5, 2) / factor, 2)
        box = (
            round(min(max(x, 0.0), width), 2),
            round(min(max(y, 0.0), height), 2),
            round(min(max(x + w, 0.0), width), 2),
            round(min(max(y + h, 0.0), height), 2),
        )
        return FaceBox(box, points.astype(np.float32), round(float(row[14]), 4))


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
