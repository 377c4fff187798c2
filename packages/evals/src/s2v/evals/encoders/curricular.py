"""CurricularFace's IR-101 behind `FaceEmbedder`, as ConsisID and OpenS2V run it.

They align at 224 pixels and shrink to 112, which is not the same as aligning at 112: the detour is
part of the protocol. Their file is trained on Glint360K, the original release on MS1MV2; the
digest in the protocol id tells which one a number is of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from s2v.datapipe.base.embedded.net import one_cv_thread, one_torch_thread
from s2v.evals.encoders import Face, Image, Vectors
from s2v.evals.encoders.align import aligned
from s2v.evals.encoders.nets.ir101 import IR101, SIDE
from s2v.evals.encoders.torch_files import fill, read_state

_ALIGNED = 224


def preprocess(image: Image, face: Face) -> torch.Tensor:
    """[1, 3, 112, 112] float32 in [-1, 1], RGB."""
    with one_cv_thread():
        small = cv2.resize(aligned(image, face, _ALIGNED), (SIDE, SIDE))
    tensor = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))[None].float()
    return (tensor / 255 - 0.5) / 0.5


class CurricularFace:
    """512-d, L2-normalised.

    Args:
        path: a checkpoint of IR-101; loaded strictly and at once.
        net: another layout of it, for tests of the code around it.

    Raises:
        EvalError: a damaged file, or another architecture's.
    """

    id = "curricularface-ir101"

    def __init__(self, path: Path, net: IR101 | None = None) -> None:
        self._net: Any = fill(net or IR101(), read_state(path), path)

    def embed(self, image: Image, face: Face) -> Vectors:
        """(512,) of the face aligned by its five points."""
        with torch.inference_mode(), one_torch_thread():
            vector = self._net(preprocess(image, face))[0].numpy().astype(np.float64)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)
