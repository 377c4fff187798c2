"""MediaPipe selfie segmentation: person probability per pixel (Apache-2.0). Optional asset.

Good for one or a few people near the camera; spills on cartoons.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Image,
    Net,
    check_image,
    one_cv_thread,
    require,
    rounded,
)

SIDE = 256


class SelfieSegmenter(Net):
    """Person segmenter."""

    name = "selfie"
    asset_name = "selfie"

    _net: Any

    def _load(self) -> None:
        litert = require("ai_edge_litert.interpreter")
        self._net = litert.Interpreter(model_path=str(self.path), num_threads=1)
        self._net.allocate_tensors()

    def people(self, image: Image) -> npt.NDArray[np.float32]:
        """Returns float32 [H, W], the probability that a pixel shows a person.

        Args:
            image: RGB uint8 [H, W, 3]; the net sees it squeezed to 256x256.
        """
        check_image(image)
        self.load()
        source, sink = self._net.get_input_details()[0], self._net.get_output_details()[0]
        with one_cv_thread():
            small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            self._net.set_tensor(source["index"], small.astype(np.float32)[None] / 255.0)
            self._net.invoke()
            raw = self._net.get_tensor(sink["index"]).reshape(SIDE, SIDE)
            full = cv2.resize(raw, (image.shape[1], image.shape[0]))
        return rounded(np.clip(full, 0, 1), 4)
