"""Thin adapters that let the small nets fill their roles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
from s2v.datapipe.base.embedded.net import Net
from s2v.datapipe.base.embedded.nsfw import OpenNsfw
from s2v.datapipe.base.embedded.ocr import TextDetector
from s2v.datapipe.base.embedded.sface import SFace
from s2v.datapipe.base.embedded.u2netp import U2NetP
from s2v.datapipe.base.embedded.yunet import YuNet
from s2v.datapipe.roles import Box, Face, Image, Segment, TextRegion, Vectors

TEXT_SIDE = 640  # at 480 the film's scrolling credits are not seen


class _Of:
    """Passes the id and the loading on to one net."""

    def __init__(self, net: Net) -> None:
        self._net = net

    @property
    def model_id(self) -> str:
        """The net's id."""
        return self._net.model_id

    def load(self) -> None:
        """Load the net."""
        self._net.load()


class BoxSegmenter(_Of):
    """U2-Net-p on the crop of the box."""

    def __init__(self) -> None:
        self._masks = U2NetP.from_assets()
        super().__init__(self._masks)

    def segment(self, image: Image, boxes: Sequence[Box], banks: Sequence[str]) -> list[Segment]:
        """Masks of what stands out in each box."""
        return [Segment(self._masks.segment_box(image, box)) for box in boxes]


class YuNetSFace:
    """YuNet finds, SFace recognises. Not the evaluation's recogniser, on purpose."""

    def __init__(self) -> None:
        self._finder = YuNet.from_assets()
        self._recogniser = SFace.from_assets()

    @property
    def model_id(self) -> str:
        """Both nets."""
        return f"{self._finder.model_id}+{self._recogniser.model_id}"

    def load(self) -> None:
        """Load both nets."""
        self._finder.load()
        self._recogniser.load()

    def faces(self, image: Image) -> list[Face]:
        """All faces, largest first."""
        found = self._finder(image)
        if not found:
            return []
        vectors = self._recogniser.embed(image, found)
        faces = [Face(f.box, f.points, f.score, v) for f, v in zip(found, vectors, strict=True)]
        return sorted(faces, key=lambda f: (-(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]), f.box))


class AppearanceEmbedder:
    """MobileNetV2 features joined by a colour histogram, each normalised, then weighted.

    The net alone confuses animals of one shape; the histogram alone confuses subjects of one
    colour. Not CLIP, and no instance-retrieval model: the best of what packages carry.
    """

    COLOUR_WEIGHT = 0.3  # best of 0 to 1.5 on labelled subjects (docs/demo.md)

    def __init__(self) -> None:
        self._net = MobileNetV2.from_assets()

    @property
    def model_id(self) -> str:
        """The net's id and the histogram's version."""
        return f"appearance-2+{self._net.model_id}"

    def load(self) -> None:
        """Load the net."""
        self._net.load()

    def embed(self, images: Sequence[Image]) -> Vectors:
        """``[n, 1280 + 128]``, L2-normalised; a row depends on its image alone."""
        if not images:
            return np.zeros((0, 1280 + 128), np.float32)
        shape = self._net.embed(images)
        colour = np.stack([lab_histogram(image) for image in images]) * self.COLOUR_WEIGHT
        joined = np.concatenate([shape, colour], axis=1).astype(np.float32)
        unit: Vectors = joined / np.linalg.norm(joined, axis=1, keepdims=True)
        return unit


def lab_histogram(image: Image) -> Vectors:
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
    unit: Vectors = (root / np.linalg.norm(root)).astype(np.float32)
    return unit


class TextFinder(_Of):
    """RapidOCR's detector, boxes only."""

    def __init__(self) -> None:
        self._text = TextDetector.from_assets(TEXT_SIDE)
        super().__init__(self._text)

    def regions(self, image: Image) -> list[TextRegion]:
        """Boxes of text, from top to bottom."""
        return [TextRegion(found.box, found.score) for found in self._text.detect(image)]


class Safety(_Of):
    """OpenNSFW."""

    def __init__(self) -> None:
        self._scorer = OpenNsfw.from_assets()
        super().__init__(self._scorer)

    def score(self, image: Image) -> float:
        """0 (safe) to 1."""
        return self._scorer.score(image)
