"""PP-OCRv6 text detection, from the installed package rapidocr (Apache-2.0): where text is.

Detection only, on one small frame: enough for the share of a frame under titles and subtitles in
horizontal scripts; vertical lettering is missed.
Post-processing is that of the DB detector (Liao et al. 2020): threshold, components, mean score,
and growth of each box, because the net was trained on shrunk text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Box,
    Image,
    Net,
    as_image,
    check_image,
    fit_within,
    one_cv_thread,
    onnx_session,
    require,
)

_MULTIPLE = 32
_PIXEL_THRESHOLD = 0.3
# The full reader takes scores from 0.5 and lets its recogniser weed out what is no text. Without
# one, on film frames, credits and photographs: lines of text were at least 2.5 times as wide as
# high and scored 0.65 and more; round cups, furry bodies and logos were less wide than 2.2.
_LINE_SCORE, _LINE_ASPECT = 0.6, 2.0
_CANDIDATE_SCORE = 0.5
_BLOCK_SCORE = 0.85
"""For what is no line: large lettering, set in several lines or in one short word."""
_MAX_SHARE = 0.25
"""Of the frame; larger regions are smooth bodies filling the picture, not lines of text."""
_UNCLIP = 1.6
_MIN_SIDE = 3


@dataclass(frozen=True)
class TextBox:
    """One line or word of text: upright box (x0, y0, x1, y1 pixels), mean score in 0..1."""

    box: Box
    score: float


class TextDetector(Net):
    """Finds text regions."""

    name = "ppocr-v6-det"

    _session: Any

    def __init__(self, path: Path, sha256: str | None = None, side: int = 480) -> None:
        """As `Net`.

        Args:
            path: The ONNX file.
            sha256: Its digest.
            side: Pixels of the longer side that larger images are shrunk to.
        """
        super().__init__(path, sha256)
        self.side = side

    @classmethod
    def from_assets(cls, side: int = 480) -> Self:
        """Takes the weights that the locked package rapidocr carries.

        Raises:
            ImportError: If rapidocr is not installed, with the command that installs it.
            FileNotFoundError: If this version of it carries another detector.
        """
        return cls(model_path("PP-OCRv6_det_small.onnx", "text detection"), side=side)

    def _variant(self) -> str:
        return f"-{self.side}"

    def _load(self) -> None:
        self._session = onnx_session(self.path)

    def detect(self, image: Image) -> list[TextBox]:
        """Finds text, from top to bottom.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        found = self._regions(image, _LINE_SCORE)
        most = _MAX_SHARE * image.shape[0] * image.shape[1]
        return _rounded(one for one in found if _is_text(one) and _area(one.box) <= most)

    def candidates(self, image: Image) -> list[TextBox]:
        """Finds whatever may be text, for a recogniser to weed out, from top to bottom.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        return _rounded(self._regions(image, _CANDIDATE_SCORE))

    def _regions(self, image: Image, least: float) -> list[TextBox]:
        check_image(image)
        self.load()
        with one_cv_thread():
            small, _ = fit_within(image, self.side)
            height, width = (max(round(n / _MULTIPLE), 1) * _MULTIPLE for n in small.shape[:2])
            fitted = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
            blob = fitted[:, :, ::-1].astype(np.float32) / 127.5 - 1.0  # BGR in [-1, 1]
            name = self._session.get_inputs()[0].name
            feed = {name: np.ascontiguousarray(blob.transpose(2, 0, 1)[None])}
            probability = self._session.run(None, feed)[0][0, 0]
            scale = (image.shape[1] / width, image.shape[0] / height)
            boxes = _boxes(probability, scale, image.shape[1], image.shape[0], least)
        return sorted(boxes, key=lambda found: (found.box[1], found.box[0], found.box))

    def share(self, image: Image) -> float:
        """Returns the share of the frame that lies inside text boxes, 0..1.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        covered = np.zeros(image.shape[:2], np.bool_)
        for found in self.detect(image):
            x0, y0, x1, y1 = (round(value) for value in found.box)
            covered[y0:y1, x0:x1] = True
        return round(float(covered.mean()), 4)


def model_path(file: str, what: str) -> Path:
    """Where the installed package rapidocr has a model.

    Raises:
        ImportError: If rapidocr is not installed, with the command that installs it.
        FileNotFoundError: If this version of it carries another model.
    """
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        require("rapidocr")
        raise ImportError("rapidocr has no files")
    path = Path(spec.origin).parent / "models" / file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing ({what}); reinstall rapidocr 3.10")
    return path


def _rounded(found: Iterable[TextBox]) -> list[TextBox]:
    return [TextBox(one.box, round(one.score, 4)) for one in found]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _is_text(found: TextBox) -> bool:
    across, down = found.box[2] - found.box[0], found.box[3] - found.box[1]
    return across >= _LINE_ASPECT * down or found.score >= _BLOCK_SCORE


def _boxes(
    probability: npt.NDArray[np.float32],
    scale: tuple[float, float],
    width: int,
    height: int,
    least: float,
) -> list[TextBox]:
    mask = as_image(cv2.dilate(as_image(probability > _PIXEL_THRESHOLD), np.ones((2, 2))))
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        inside = np.zeros(mask.shape, np.uint8)
        cv2.drawContours(inside, [contour], -1, 1, thickness=-1)
        score = float(probability[inside > 0].mean())
        x, y, w, h = cv2.boundingRect(contour)
        if score < least or min(w, h) < _MIN_SIDE:
            continue
        # DB's rule: offset = area * ratio / perimeter.
        grow = w * h * _UNCLIP / (2 * (w + h))
        box = (
            round(max((x - grow) * scale[0], 0.0), 2),
            round(max((y - grow) * scale[1], 0.0), 2),
            round(min((x + w + grow) * scale[0], width), 2),
            round(min((y + h + grow) * scale[1], height), 2),
        )
        found.append(TextBox(box, score))
    return found
