"""EfficientNet-Lite3, int8: tags an image or crop with ImageNet's 1000 names (Tan and Le 2019).

ImageNet is 398 animals (118 of them dogs) and 602 things, and no people. Something outside it gets
the nearest name with a low probability: below about 0.3 say the broad kind, not the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import Image, Net, check_image, one_cv_thread, require, rounded

SIDE = 280
ANIMALS = 398
"""The classes before this index are animals (tench ... sea cucumber, ear of corn comes later)."""


@dataclass(frozen=True)
class Tag:
    """One class: index 0..999, its first name, all its names, probability."""

    index: int
    label: str
    names: tuple[str, ...]
    probability: float


class EfficientNetLite(Net):
    """ImageNet tagger."""

    name = "efficientnet-lite3"
    asset_name = "efficientnet-lite3"

    _net: Any
    _labels: list[tuple[str, ...]]

    def _load(self) -> None:
        litert = require("ai_edge_litert.interpreter")
        self._net = litert.Interpreter(
            model_path=str(self.path / "efficientnet_lite3.tflite"), num_threads=1
        )
        self._net.allocate_tensors()
        self._labels = read_labels(self.path / "efficientnet_labels.txt")

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """All names of each of the 1000 classes."""
        return read_labels(self.path / "efficientnet_labels.txt")

    def probabilities(self, image: Image) -> npt.NDArray[np.float32]:
        """Returns float32 [1000], the softmax (in steps of 1/256, as the int8 net gives it).

        Args:
            image: RGB uint8 [H, W, 3], any size; the net sees it squeezed to 280x280.
        """
        check_image(image)
        self.load()
        with one_cv_thread():
            shrinks = min(image.shape[:2]) > SIDE
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            small = cv2.resize(image, (SIDE, SIDE), interpolation=method)
        source, sink = self._net.get_input_details()[0], self._net.get_output_details()[0]
        self._net.set_tensor(source["index"], small[None])
        self._net.invoke()
        scale, zero = sink["quantization"]
        raw = self._net.get_tensor(sink["index"])[0].astype(np.float32)
        return rounded((raw - zero) * scale if scale else raw, 6)

    def tag(self, image: Image, k: int = 5) -> list[Tag]:
        """Returns the `k` most probable classes, best first; equal ones by index."""
        probs = self.probabilities(image)
        order = np.lexsort((np.arange(len(probs)), -probs))[:k]
        return [
            Tag(int(i), self._labels[i][0], self._labels[i], round(float(probs[i]), 4))
            for i in order
        ]

    def creature_probability(self, image: Image) -> float:
        """Returns the share of probability on animals, 0..1."""
        probs = self.probabilities(image)
        return round(float(probs[:ANIMALS].sum() / max(float(probs.sum()), 1e-6)), 4)


def read_labels(path: Path) -> list[tuple[str, ...]]:
    """Reads one class per line, its names separated by commas.

    Raises:
        ValueError: If there are not 1000.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != 1000:
        raise ValueError(f"{path} has {len(lines)} labels, expected ImageNet's 1000")
    return [tuple(name.strip() for name in line.split(",")) for line in lines]
