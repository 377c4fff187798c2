"""dlib's ResNet-29: whose face it is, by another network and training set than curation's SFace.

A score by the network that also chose the pairs would reward its own mistakes, so the audit and
the evaluation ask this one. Weights are public domain (CC0, Davis King). The 68-point predictor
that is often used with it is trained on a non-commercial set and is not needed: five points align
just as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import numpy as np

from s2v.datapipe.base.embedded.net import Image, Net, Vectors, check_image

CHIP: Final = 150  # pixels the network was trained on
PADDING: Final = 0.25
NETWORK: Final = "dlib_face_recognition_resnet_model_v1.dat"
PREDICTOR: Final = "shape_predictor_5_face_landmarks.dat"


class DlibFaces(Net):
    """128 numbers per face; two of one person lie within 0.6 of each other (Euclidean).

    The vectors are not of unit length, so the convention of normalised embeddings does not apply
    to them and neither does the cosine.
    """

    name: ClassVar[str] = "dlib-resnet29"
    asset_name: ClassVar[str] = "dlib-face"

    _dlib: Any
    _network: Any
    _points: Any

    def _load(self) -> None:
        """Reads both files.

        Raises:
            ImportError: dlib is not installed.
            RuntimeError: dlib cannot read a file; the message names the folder.
        """
        import dlib

        self._dlib = dlib
        try:
            self._network = dlib.face_recognition_model_v1(str(self.path / NETWORK))
            self._points = dlib.shape_predictor(str(self.path / PREDICTOR))
        except RuntimeError as error:
            raise RuntimeError(f"{self.path}: dlib cannot read the face weights: {error}") from None

    def embed(self, image: Image, box: Iterable[float]) -> Vectors:
        """The vector of a face, ``[128]``, not of unit length.

        Args:
            image: RGB uint8 ``[H, W, 3]``.
            box: of the face, ``x0, y0, x1, y1``; dlib finds its own five points inside.

        Raises:
            ValueError: not such an image.
        """
        check_image(image)
        self.load()
        whole = np.ascontiguousarray(image)
        left, top, right, bottom = (round(float(value)) for value in box)
        shape = self._points(whole, self._dlib.rectangle(left, top, right, bottom))
        chip = self._dlib.get_face_chip(whole, shape, size=CHIP, padding=PADDING)
        return np.asarray(self._network.compute_face_descriptor(chip), np.float32)
