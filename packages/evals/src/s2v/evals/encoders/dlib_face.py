"""dlib's ResNet-29 face embedding: another backbone and training set than curation's SFace.

A score by the network that also chose the training pairs would reward its own mistakes.
Weights are public domain (CC0, Davis King). The 68-point predictor that is often used with it
is trained on a non-commercial set and is not needed: five points align just as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s2v.evals.encoders import Face, Image, Vectors
from s2v.evals.errors import EvalError

CHIP = 150
PADDING = 0.25
NETWORK = "dlib_face_recognition_resnet_model_v1.dat"
PREDICTOR = "shape_predictor_5_face_landmarks.dat"


class DlibFace:
    """128-d metric embedding of a 150 x 150 chip aligned by dlib's five points.

    The network is trained so that faces of one person lie within 0.6 of each other in Euclidean
    distance; the vectors are not unit length, so the convention of normalised embeddings does
    not apply to them and neither does the cosine.

    Args:
        network: ``dlib_face_recognition_resnet_model_v1.dat``.
        predictor: ``shape_predictor_5_face_landmarks.dat``.

    Raises:
        EvalError: a file dlib cannot read.
    """

    id = "dlib-resnet29-v1"

    def __init__(self, network: Path, predictor: Path) -> None:
        import dlib

        self._dlib: Any = dlib
        try:
            self._network = dlib.face_recognition_model_v1(str(network))
            self._predictor = dlib.shape_predictor(str(predictor))
        except RuntimeError as error:
            raise EvalError(f"{network.parent}: dlib cannot read the face weights: {error}") from (
                error
            )

    @classmethod
    def from_folder(cls, folder: Path) -> DlibFace:
        """Take both files, under their usual names, from a folder."""
        return cls(folder / NETWORK, folder / PREDICTOR)

    def embed(self, image: Image, face: Face) -> Vectors:
        """(128,) float32, not normalised.

        Args:
            image: RGB uint8 (H, W, 3).
            face: only its box is used; dlib finds its own five points inside.
        """
        contiguous = np.ascontiguousarray(image)
        left, top, right, bottom = (round(float(v)) for v in face.box)
        shape = self._predictor(contiguous, self._dlib.rectangle(left, top, right, bottom))
        chip = self._dlib.get_face_chip(contiguous, shape, size=CHIP, padding=PADDING)
        return np.asarray(self._network.compute_face_descriptor(chip), dtype=np.float32)
