"""SSD MobileNetV2: boxes of the 80 COCO classes (Liu et al. 2016; TensorFlow model zoo 2018_03_29).

About 22 mAP on COCO: large, plain subjects are found, small ones often not. It knows no class
outside COCO: a quokka is a "dog" to it, a cartoon rabbit nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2

from s2v.datapipe.base.embedded.net import Box, Image, Net, check_image, one_cv_thread, quiet_cv

# Id in the 2014 COCO numbering (1..90 with gaps), as the net counts.
COCO_CLASSES: dict[int, str] = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train",
    8: "truck", 9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign",
    14: "parking meter", 15: "bench", 16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep",
    21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe", 27: "backpack",
    28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove",
    41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass",
    47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote",
    76: "keyboard", 77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink",
    82: "refrigerator", 84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear",
    89: "hair drier", 90: "toothbrush",
}  # fmt: skip

CREATURES = frozenset(
    {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
)
"""COCO's animals; `person` is a bank of its own, all else are things."""


@dataclass(frozen=True)
class Detection:
    """One object: COCO class name, box (x0, y0, x1, y1 pixels), score in 0..1."""

    label: str
    box: Box
    score: float


class SsdMobileNet(Net):
    """COCO-80 detector."""

    name = "ssd-mobilenet-v2"
    asset_name = "ssd-mobilenet-v2"

    _net: Any

    def _load(self) -> None:
        with quiet_cv():
            self._net = cv2.dnn.readNetFromTensorflow(
                str(self.path / "frozen_inference_graph.pb"),
                str(self.path / "ssd_mobilenet_v2_coco_2018_03_29.pbtxt"),
            )

    def detect(self, image: Image, min_score: float = 0.4) -> list[Detection]:
        """Finds objects, best first.

        Args:
            image: RGB uint8 [H, W, 3]; the net sees it squeezed to 300x300.
            min_score: Detections below it are not returned; 0.4 suits captions, about 0.15 suits
                proposals that something else judges.
        """
        check_image(image)
        self.load()
        with one_cv_thread():
            self._net.setInput(cv2.dnn.blobFromImage(image, size=(300, 300), swapRB=False))
            rows = self._net.forward().reshape(-1, 7)
        height, width = image.shape[:2]
        found = []
        for _, class_id, raw, x0, y0, x1, y1 in rows.astype(float).tolist():
            label = COCO_CLASSES.get(int(class_id))
            score = round(raw, 4)
            box = (
                round(min(max(x0, 0.0), 1.0) * width, 2),
                round(min(max(y0, 0.0), 1.0) * height, 2),
                round(min(max(x1, 0.0), 1.0) * width, 2),
                round(min(max(y1, 0.0), 1.0) * height, 2),
            )
            if label and score >= min_score and box[0] < box[2] and box[1] < box[3]:
                found.append(Detection(label, box, score))
        return sorted(found, key=lambda item: (-item.score, item.label, item.box))
