"""Is it the same person? dlib's ResNet-29, another network and training set than selection's.

Selection compares faces by SFace (or ArcFace); dlib's network (Davis King, CC0) was trained on
other pictures with another loss. The boxes of the faces are those of the run: where a face is, is
not who it is. dlib finds its own five points inside them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.assets import AssetError
from s2v.datapipe.base.embedded.net import Net, check_image
from s2v.datapipe.base.media.boxes import area, centre_inside
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.roles import Image

CHIP = 150  # pixels the network was trained on
PADDING = 0.25
Vector = npt.NDArray[np.float32]


class DlibFaces(Net):
    """128 numbers per face; two of one person lie within 0.6 of each other (Euclidean)."""

    name: ClassVar[str] = "dlib-resnet29"
    asset_name: ClassVar[str] = "dlib-face"

    _dlib: Any
    _network: Any
    _points: Any

    def _load(self) -> None:
        import dlib

        self._dlib = dlib
        self._network = dlib.face_recognition_model_v1(
            str(self.path / "dlib_face_recognition_resnet_model_v1.dat")
        )
        self._points = dlib.shape_predictor(str(self.path / "shape_predictor_5_face_landmarks.dat"))

    def embed(self, image: Image, box: Iterable[float]) -> Vector:
        """The vector of a face, ``[128]``, not of unit length.

        Args:
            image: RGB uint8 ``[H, W, 3]``.
            box: of the face, ``x0, y0, x1, y1``.
        """
        check_image(image)
        self.load()
        left, top, right, bottom = (round(value) for value in box)
        shape = self._points(image, self._dlib.rectangle(left, top, right, bottom))
        chip = self._dlib.get_face_chip(image, shape, size=CHIP, padding=PADDING)
        return np.asarray(self._network.compute_face_descriptor(chip), np.float32)


def dlib_or_why_not() -> DlibFaces | str:
    """The judge, loaded, or what it lacks in one sentence."""
    try:
        judge = DlibFaces.from_assets()
        judge.load()
    except ImportError:
        return "dlib is not installed; `pip install 's2v-datapipe[audit]'`"
    except (AssetError, RuntimeError) as error:
        return " ".join(str(error).split())
    return judge


def face_in(faces: Iterable[Row], box: tuple[float, ...]) -> Row | None:
    """The largest face whose middle lies in the box of a person."""
    inside = [face for face in faces if centre_inside(face["box"], box)]
    return min(inside, key=lambda face: (-area(face["box"]), face["face"]), default=None)
