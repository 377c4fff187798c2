"""PP-OCRv6 text recognition, from the installed package rapidocr (Apache-2.0): what text says.

For one object's crop, not for whole frames: the detector's regions are taken with lenient
thresholds, as the recogniser tells what is no text. Greedy CTC decoding (Graves et al. 2006):
the likeliest letter at each step, repeats and blanks left out.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Box,
    Image,
    Net,
    as_image,
    check_image,
    one_cv_thread,
    onnx_session,
)
from s2v.datapipe.base.embedded.ocr import TextDetector, model_path

_HEIGHT: Final = 48  # of a line, as the net was trained
_NARROWEST, _WIDEST = 320, 1600
_TALL: Final = 1.5  # a region so much higher than wide is a line that runs upwards
_LEAST: Final = 0.5  # mean probability of its letters; rapidocr's own
MAX_LINES: Final = 32  # of one picture; a page of print needs no more to be a page of print
MAX_LETTERS: Final = 100


@dataclass(frozen=True)
class ReadLine:
    """One line of text: upright box (x0, y0, x1, y1 pixels), its text, mean probability."""

    box: Box
    text: str
    score: float


class TextReader(Net):
    """Finds and reads text."""

    name = "ppocr-v6-rec"

    _session: Any
    _letters: list[str]

    def __init__(self, path: Path, detector: TextDetector, sha256: str | None = None) -> None:
        """As `Net`.

        Args:
            path: The recogniser's ONNX file, which carries its alphabet.
            detector: Finds the regions.
            sha256: Digest of the file.
        """
        super().__init__(path, sha256)
        self.detector = detector

    @classmethod
    def from_assets(cls, side: int = 480) -> Self:
        """Takes the weights that the locked package rapidocr carries.

        Raises:
            ImportError: If rapidocr is not installed, with the command that installs it.
            FileNotFoundError: If this version of it carries other models.
        """
        path = model_path("PP-OCRv6_rec_small.onnx", "text recognition")
        return cls(path, TextDetector.from_assets(side))

    @property
    def model_id(self) -> str:
        """Both nets' ids."""
        return f"{self.detector.model_id}+{super().model_id}"

    def _load(self) -> None:
        self.detector.load()
        self._session = onnx_session(self.path)
        known = self._session.get_modelmeta().custom_metadata_map["character"].split("\n")
        self._letters = ["", *known, " "]  # the CTC blank first

    def read(self, image: Image) -> list[ReadLine]:
        """Reads all lines that are text, from top to bottom.

        Args:
            image: RGB uint8 [H, W, 3].
        """
        check_image(image)
        self.load()
        found = []
        with one_cv_thread():
            for region in self.detector.candidates(image)[:MAX_LINES]:
                text, score = self._line(_cut(image, region.box))
                if text and score >= _LEAST:
                    found.append(ReadLine(region.box, text, round(score, 4)))
        return found

    def _line(self, line: Image) -> tuple[str, float]:
        height, width = line.shape[:2]
        across = min(max(round(_HEIGHT * width / height), 1), _WIDEST)
        small = cv2.resize(line, (across, _HEIGHT), interpolation=cv2.INTER_LINEAR)
        blob = np.zeros((1, 3, _HEIGHT, max(across, _NARROWEST)), np.float32)
        blob[0, :, :, :across] = small[:, :, ::-1].transpose(2, 0, 1) / 127.5 - 1.0  # BGR
        name = self._session.get_inputs()[0].name
        steps: npt.NDArray[np.float32] = self._session.run(None, {name: blob})[0][0]
        best = steps.argmax(axis=1)
        said = (best != 0) & np.append(True, best[1:] != best[:-1])
        text = _plain("".join(self._letters[n] for n in best[said]))
        return text, float(steps.max(axis=1)[said].mean()) if said.any() else 0.0


def _cut(image: Image, box: Box) -> Image:
    height, width = image.shape[:2]
    x0, y0 = (min(max(0, int(v)), most - 1) for v, most in ((box[0], width), (box[1], height)))
    x1, y1 = min(width, max(x0 + 1, round(box[2]))), min(height, max(y0 + 1, round(box[3])))
    part = image[y0:y1, x0:x1]
    if part.shape[0] >= _TALL * part.shape[1]:
        part = np.rot90(part)
    return as_image(np.ascontiguousarray(part))


def _plain(text: str) -> str:
    """What is printable, on one line; what stands in a picture is a stranger's."""
    shown = (one for one in text if not unicodedata.category(one).startswith("C"))
    return " ".join("".join(shown).split())[:MAX_LETTERS]
