"""dlib's ResNet-29 face embedding: another backbone and training set than curation's SFace.

The network and its loader are the base's, which the audit of pairs uses too.
"""

from __future__ import annotations

from pathlib import Path

from s2v.datapipe.base.embedded.dlib_faces import DlibFaces
from s2v.evals.encoders import Face, Image, Vectors
from s2v.evals.errors import EvalError


class DlibFace:
    """dlib behind `FaceEmbedder`: 128-d, not normalised, compared by Euclidean distance.

    Args:
        net: its weights are read at once.

    Raises:
        EvalError: a file dlib cannot read.
    """

    id = "dlib-resnet29-v1"

    def __init__(self, net: DlibFaces) -> None:
        try:
            net.load()
        except RuntimeError as error:
            raise EvalError(str(error)) from error
        self._net = net

    @classmethod
    def from_folder(cls, folder: Path) -> DlibFace:
        """Take both files, under their usual names, from a folder."""
        return cls(DlibFaces(folder))

    def embed(self, image: Image, face: Face) -> Vectors:
        """(128,) float32, not normalised.

        Args:
            image: RGB uint8 (H, W, 3).
            face: only its box is used; dlib finds its own five points inside.
        """
        return self._net.embed(image, face.box)
