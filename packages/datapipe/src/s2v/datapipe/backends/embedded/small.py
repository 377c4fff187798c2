"""Thin adapters that let the small nets fill their roles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from s2v.datapipe.base.embedded.colour import lab_histogram
from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
from s2v.datapipe.base.embedded.net import Net, as_image, one_cv_thread
from s2v.datapipe.base.embedded.nsfw import OpenNsfw
from s2v.datapipe.base.embedded.ocr import TextDetector
from s2v.datapipe.base.embedded.ocr_read import TextReader as Recogniser
from s2v.datapipe.base.embedded.sface import SFace
from s2v.datapipe.base.embedded.u2netp import U2NetP
from s2v.datapipe.base.embedded.yunet import MAX_SIDE, FaceBox, YuNet
from s2v.datapipe.base.media.boxes import iou
from s2v.datapipe.roles import Box, Face, Image, Segment, TextLine, TextRegion, Vectors

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
    """YuNet finds, SFace recognises. Not the evaluation's recogniser, on purpose.

    YuNet takes small faces for upright: turned by 30 degrees, the eyes of a face of 64 pixels come
    out level, and SFace is shown a tilted face. So the landmarks of small faces are taken from a
    second look at the face enlarged. (tests/benchmarks/bench_faces.py has the figures.)
    """

    SMALL = 200.0  # pixels, in the picture that YuNet saw: larger faces gain nothing
    ENLARGED = 240.0  # pixels of the face in the second look
    AROUND = 2.0  # sides of the face, what the second look sees

    def __init__(self) -> None:
        self._finder = YuNet.from_assets()
        self._recogniser = SFace.from_assets()

    @property
    def model_id(self) -> str:
        """Both nets, and the second look."""
        return f"{self._finder.model_id}-twice+{self._recogniser.model_id}"

    def load(self) -> None:
        """Load both nets."""
        self._finder.load()
        self._recogniser.load()

    def faces(self, image: Image) -> list[Face]:
        """All faces, largest first."""
        found = self._finder(image)
        if not found:
            return []
        found = [self._second_look(image, face) for face in found]
        vectors = self._recogniser.embed(image, found)
        faces = [Face(f.box, f.points, f.score, v) for f, v in zip(found, vectors, strict=True)]
        return sorted(faces, key=lambda f: (-(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]), f.box))

    def _second_look(self, image: Image, face: FaceBox) -> FaceBox:
        """The same box with the landmarks that YuNet sees on the enlarged face, if it sees it."""
        x0, y0, x1, y1 = face.box
        side = max(x1 - x0, y1 - y0)
        if side * min(1.0, MAX_SIDE / max(image.shape[:2])) >= self.SMALL:
            return face
        scale, width = self.ENLARGED / side, round(self.AROUND * self.ENLARGED)
        corner = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - self.AROUND * side / 2
        matrix = np.concatenate([np.eye(2) * scale, -scale * corner[:, None]], axis=1)
        with one_cv_thread():
            near = cv2.warpAffine(image, matrix, (width, width), flags=cv2.INTER_CUBIC)
        boxed = tuple((np.array(face.box).reshape(2, 2) - corner).reshape(4) * scale)
        again = max(
            self._finder(as_image(near)), key=lambda f: (iou(f.box, boxed), f.box), default=None
        )
        if again is None or iou(again.box, boxed) < 0.3:
            return face
        points = np.round(again.points.astype(np.float64) / scale + corner, 2)
        return FaceBox(face.box, points.astype(np.float32), face.score)


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


class TextFinder(_Of):
    """RapidOCR's detector, boxes only."""

    def __init__(self) -> None:
        self._text = TextDetector.from_assets(TEXT_SIDE)
        super().__init__(self._text)

    def regions(self, image: Image) -> list[TextRegion]:
        """Boxes of text, from top to bottom."""
        return [TextRegion(found.box, found.score) for found in self._text.detect(image)]


class TextOnThings(_Of):
    """RapidOCR's detector and recogniser on a thing's crop."""

    def __init__(self) -> None:
        self._reader = Recogniser.from_assets(TEXT_SIDE)
        super().__init__(self._reader)

    def read(self, image: Image) -> list[TextLine]:
        """Lines that could be read, from top to bottom."""
        return [TextLine(one.box, one.text, one.score) for one in self._reader.read(image)]


class Safety(_Of):
    """OpenNSFW."""

    def __init__(self) -> None:
        self._scorer = OpenNsfw.from_assets()
        super().__init__(self._scorer)

    def score(self, image: Image) -> float:
        """0 (safe) to 1."""
        return self._scorer.score(image)
