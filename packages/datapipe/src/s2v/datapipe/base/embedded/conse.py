"""An image-text space from a tagger and a sentence embedder (ConSE, Norouzi et al. 2013).

An image's vector is the sum of the sentence vectors of its ten most probable class names, weighted
by their probabilities; a text's vector is its sentence vector. The class names are ImageNet's; to
them come a detector's COCO classes, which know people and everyday things that ImageNet does not.

This is not CLIP. It matches nouns, within the classes that the two nets know: no actions, no
styles, no composition. It ranks rough kinds; it does not measure how well a text is followed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
from s2v.datapipe.base.embedded.minilm import DIM, MiniLM
from s2v.datapipe.base.embedded.net import Image, Vectors, unit
from s2v.datapipe.base.embedded.ssd import COCO_CLASSES, SsdMobileNet

_TOP = 10
_DETECTION_WEIGHT = 0.5
"""Of a detected class with score 1, beside the tagger's probabilities. On 19 images and 9 queries
detections raised the right first answers from 4 to 8; 0.3 and 1.0 did slightly worse than 0.5."""
_MIN_DETECTION = 0.3
_GROUP = "group of people"
_GROUP_FROM = 3


class ConSE:
    """Image-text embedder."""

    name = "conse"

    def __init__(self, tagger: EfficientNetLite, detector: SsdMobileNet, text: MiniLM) -> None:
        """Joins the three nets; loads none."""
        self._tagger, self._detector, self._text = tagger, detector, text
        self._names: Vectors | None = None
        self._objects: dict[str, npt.NDArray[np.float32]] = {}

    @classmethod
    def from_assets(cls) -> Self:
        """Takes the pinned weights; errors as in `Net.from_assets`."""
        return cls(EfficientNetLite.from_assets(), SsdMobileNet.from_assets(), MiniLM.from_assets())

    @property
    def model_id(self) -> str:
        """Changes with any of the three nets."""
        parts = (self._tagger.model_id, self._detector.model_id, self._text.model_id)
        return f"{self.name}-r1-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"

    def load(self) -> None:
        """Loads the nets and embeds the class names (about 2 s of CPU), once."""
        if self._names is not None:
            return
        for net in (self._tagger, self._detector, self._text):
            net.load()
        objects = [*COCO_CLASSES.values(), _GROUP]
        self._objects = dict(zip(objects, self._text.embed(objects), strict=True))
        self._names = self._text.embed([names[0] for names in self._tagger.labels])

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Returns float32 [n, 384], rows of length one."""
        return self._text.embed(texts)

    def embed_images(self, images: Sequence[Image]) -> Vectors:
        """Embeds images; for a clip, average its frames' vectors and normalise again.

        Args:
            images: RGB uint8 [H, W, 3] each.

        Returns:
            float32 [n, 384], rows of length one.
        """
        self.load()
        if not images:
            return np.zeros((0, DIM), np.float32)
        return unit(np.stack([self._image(image) for image in images]))

    def _image(self, image: Image) -> npt.NDArray[np.float64]:
        if self._names is None:
            raise RuntimeError("load() comes first")
        probs = self._tagger.probabilities(image)
        top = np.argsort(-probs, kind="stable")[:_TOP]
        vector = probs[top].astype(np.float64) @ self._names[top].astype(np.float64)
        for label, score in sorted(self._found(image).items()):
            vector += _DETECTION_WEIGHT * score * self._objects[label]
        return np.asarray(vector)

    def _found(self, image: Image) -> dict[str, float]:
        """Best score of each detected class."""
        detections = self._detector.detect(image, _MIN_DETECTION)
        best: dict[str, float] = {}
        for item in detections:
            best[item.label] = max(best.get(item.label, 0.0), item.score)
        people = [item.score for item in detections if item.label == "person"]
        if len(people) >= _GROUP_FROM:
            best[_GROUP] = best.pop("person")
        return best
