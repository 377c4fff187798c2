"""open_nsfw: one score for sexual imagery (Yahoo 2016, BSD-2-Clause).

It knows pornography of its time in photographs, nothing about violence, drawings or symbols.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image as Pillow

from s2v.datapipe.base.embedded.net import Image, Net, check_image, onnx_session

_RESIZED, _CROP = 256, 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)


class OpenNsfw(Net):
    """Safety scorer."""

    name = "opennsfw"
    asset_name = "opennsfw"

    _session: Any

    def _load(self) -> None:
        self._session = onnx_session(self.path)

    def score(self, image: Image) -> float:
        """Returns 0 (safe) to 1; the authors call below 0.2 safe and above 0.8 unsafe.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        check_image(image)
        self.load()
        picture = Pillow.fromarray(image).resize(
            (_RESIZED, _RESIZED), resample=Pillow.Resampling.BILINEAR
        )
        edge = (_RESIZED - _CROP) // 2
        picture = picture.crop((edge, edge, edge + _CROP, edge + _CROP))
        # The authors score JPEG bytes; without the round trip scores shift.
        with io.BytesIO() as buffer:
            picture.save(buffer, format="JPEG")
            pixels = np.asarray(Pillow.open(buffer), dtype=np.float32)
        blob = np.ascontiguousarray(pixels[None, :, :, ::-1] - _MEAN_BGR)
        name = self._session.get_inputs()[0].name
        return round(float(self._session.run(None, {name: blob})[0][0, 1]), 4)
