"""A picture's palette: how much of it has which colour, wherever it stands."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import Image


def lab_histogram(image: Image) -> npt.NDArray[np.float32]:
    """Square-root histogram over Lab, 2 x 8 x 8 bins, grey filling left out; L2-normalised."""
    small = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    filled = np.all(np.abs(small.astype(int) - 127) <= 2, axis=2)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)[~filled].astype(np.float32)
    if len(lab) == 0:
        return np.full(128, 128**-0.5, dtype=np.float32)
    # Colours of natural images crowd around grey: the chroma axes cover 128 +- 64 only.
    light = np.clip(lab[:, 0] / 128, 0, 1.999).astype(int)
    a = np.clip((lab[:, 1] - 64) / 16, 0, 7.999).astype(int)
    b = np.clip((lab[:, 2] - 64) / 16, 0, 7.999).astype(int)
    counts = np.bincount((light * 8 + a) * 8 + b, minlength=128).astype(np.float32)
    root = np.sqrt(counts / counts.sum())
    unit: npt.NDArray[np.float32] = (root / np.linalg.norm(root)).astype(np.float32)
    return unit
