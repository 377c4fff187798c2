"""SFace: 128-d identity vectors of aligned faces (Zhong et al. 2021; OpenCV Zoo, 2021dec).

On 17 faces (16 same, 120 different pairs) same people had cosines of 0.61 and more, different ones
of 0.34 and less; OpenCV's own threshold is 0.363. That is a sanity check, not a benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Image,
    Net,
    Vectors,
    as_image,
    check_image,
    one_cv_thread,
    onnx_session,
    unit,
)
from s2v.datapipe.base.embedded.yunet import FaceBox

ARCFACE_112: npt.NDArray[np.float64] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Where the five landmarks lie in an aligned 112x112 face, x and y in pixels."""


class SFace(Net):
    """Face embedder."""

    name = "sface"
    asset_name = "sface"

    _session: Any

    def _load(self) -> None:
        self._session = onnx_session(self.path)

    def embed(self, image: Image, faces: Sequence[FaceBox]) -> Vectors:
        """Embeds faces of one image.

        Args:
            image: RGB uint8 [H, W, 3], the one the faces were found in.
            faces: What `YuNet` returned.

        Returns:
            float32 [n, 128], rows of length one.
        """
        check_image(image)
        self.load()
        rows = [self._embed_one(align(image, face.points)) for face in faces]
        return unit(np.stack(rows)) if rows else np.zeros((0, 128), np.float32)

    def _embed_one(self, aligned: Image) -> npt.NDArray[np.float32]:
        # RGB, 0..255: the graph itself normalises.
        blob = np.ascontiguousarray(aligned.transpose(2, 0, 1)[None], dtype=np.float32)
        name = self._session.get_inputs()[0].name
        output: npt.NDArray[np.float32] = self._session.run(None, {name: blob})[0]
        return output.reshape(-1)


def align(image: Image, points: npt.NDArray[np.float32]) -> Image:
    """Warps a face so that its landmarks fall on `ARCFACE_112`.

    Args:
        image: RGB uint8 [H, W, 3].
        points: float32 [5, 2], as in `FaceBox`.

    Returns:
        RGB uint8 [112, 112, 3].
    """
    matrix = similarity_transform(points.astype(np.float64), ARCFACE_112)
    with one_cv_thread():
        return as_image(cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR))


def similarity_transform(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Least-squares rotation, scale and shift from `source` to `target` (Umeyama 1991).

    Args:
        source: [n, 2] points.
        target: [n, 2] points.

    Returns:
        [2, 3] affine matrix without reflection.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_centred, target_centred = source - source_mean, target - target_mean
    u, scale, vt = np.linalg.svd(target_centred.T @ source_centred / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    factor = float((scale * sign).sum() / max(source_centred.var(0).sum(), 1e-12))
    shift = target_mean - factor * rotation @ source_mean
    return np.concatenate([factor * rotation, shift[:, None]], axis=1)
