"""An insightface pack: SCRFD finds faces, ArcFace embeds them.

The library is MIT; its packs (buffalo_l, antelopev2) are **for non-commercial research only** and
therefore never fetched: a user who may use one names its folder. Detection runs at 320 x 320, as
in ConsisID and OpenS2V; another size finds other faces and gives other numbers.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from s2v.datapipe.base.embedded.net import check_image, one_cv_thread, require
from s2v.evals.encoders import Face, Image, Vectors
from s2v.evals.errors import EvalError

DET_SIZE = 320
DET_THRESHOLD = 0.5
PAD_GREY = 128


class FacePack:
    """Detector and embedder of one pack; the models open at first use.

    Args:
        folder: of ONNX files, their digests already checked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = f"insightface-{folder.name}-{DET_SIZE}"

    @cached_property
    def _models(self) -> dict[str, Any]:
        insightface, onnxruntime = require("insightface.app"), require("onnxruntime")
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = session.inter_op_num_threads = 1
        session.log_severity_level = 3
        try:
            app = insightface.FaceAnalysis(
                name=str(self.folder.resolve()),  # a folder is never downloaded
                allowed_modules=["detection", "recognition"],
                providers=["CPUExecutionProvider"],
                sess_options=session,
                static_shape_sessions=False,
            )
        except Exception as error:  # onnxruntime has a class per status
            raise EvalError(
                f"{self.folder}: insightface cannot load it ({type(error).__name__}); expected an "
                "unpacked pack with a detector and a recogniser"
            ) from error
        if "recognition" not in app.models or not getattr(app.det_model, "use_kps", True):
            raise EvalError(f"{self.folder}: no recogniser, or a detector without five points")
        app.prepare(ctx_id=-1, det_thresh=DET_THRESHOLD, det_size=(DET_SIZE, DET_SIZE))
        return {"detection": app.det_model, **app.models}

    def detect(self, image: Image) -> list[Face]:
        """All faces, largest first.

        Args:
            image: RGB uint8 (H, W, 3).
        """
        check_image(image)
        with one_cv_thread():
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            boxes, points = self._models["detection"].detect(bgr, max_num=0, metric="default")
        found = [
            Face(np.asarray(b[:4], np.float32), np.asarray(p, np.float32), float(b[4]))
            for b, p in zip(boxes, points, strict=True)
        ]
        return sorted(found, key=lambda f: (-f.area, *f.box.tolist()))

    def embed(self, image: Image, face: Face) -> Vectors:
        """(512,) as the network gives it, not normalised.

        A face that was found only on the padded image is aligned from that image, as the
        library's own answer is: the aligned face then ends in grey instead of black.
        """
        pad_x, pad_y = face.pad
        if pad_x or pad_y:
            image = np.pad(
                image, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=np.uint8(PAD_GREY)
            )
        recogniser = self._models["recognition"]
        common = require("insightface.app.common")
        points = face.points + np.array([pad_x, pad_y], np.float32)
        with one_cv_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # insightface's use of scikit-image
            vector = recogniser.get(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), common.Face(kps=points))
        return np.asarray(vector, np.float32).reshape(-1)
