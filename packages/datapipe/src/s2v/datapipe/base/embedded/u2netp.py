"""U2-Net-p: salient-object maps, and masks prompted by a box (Qin et al. 2020).

It answers "what stands out here", also for cartoons and products, and has no notion of classes. A
box is obeyed by showing the net only the crop; two subjects inside one box come out as one or as
the larger one. Very dark footage defeats it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.assets import asset, lookup
from s2v.datapipe.base.embedded.net import (
    Box,
    Image,
    Net,
    as_image,
    check_image,
    clip_box,
    one_cv_thread,
    onnx_session,
    rounded,
)

SIDE = 320
"""Pixels the authors feed; 224 takes half the time, and masks of plain subjects differ little."""

_DIMENSIONS = bytes.fromhex("0a0308c0020a0308c002")
"""How `height: 320, width: 320` reads in the ONNX file: the input's shape and two outputs'."""

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class U2NetP(Net):
    """Salient-object segmenter."""

    name = "u2netp"
    asset_name = "u2netp"

    _session: Any

    def __init__(self, path: Path, sha256: str | None = None, side: int = SIDE) -> None:
        """As `Net`.

        Args:
            path: The ONNX file.
            sha256: Its digest.
            side: Pixels to which images are squeezed, a multiple of 32 from 128 to 640. The
                time grows with its square.

        Raises:
            ValueError: If `side` is none of these.
        """
        if side % 32 or not 128 <= side <= 640:
            raise ValueError(f"side {side} is not a multiple of 32 from 128 to 640")
        super().__init__(path, sha256)
        self.side = side

    @classmethod
    def from_assets(cls, side: int = SIDE) -> Self:
        """Takes the pinned weights from the asset cache; see `Net.from_assets`."""
        return cls(asset(cls.asset_name), lookup(cls.asset_name).digest, side)

    def _variant(self) -> str:
        return f"-{self.side}"

    def _load(self) -> None:
        if self.side == SIDE:
            self._session = onnx_session(self.path)
            return
        # The file fixes the input to 320x320, though the net is convolutional throughout. Both
        # numbers are two-byte varints, so the shape can be rewritten in place.
        model = self.path.read_bytes()
        if model.count(_DIMENSIONS) != 3:
            raise ValueError(f"{self.path} is not the pinned U2-Net-p; use side={SIDE} with it")
        varint = bytes([self.side & 0x7F | 0x80, self.side >> 7])
        shape = (b"\x0a\x03\x08" + varint) * 2
        self._session = onnx_session(model.replace(_DIMENSIONS, shape))

    def saliency(self, image: Image) -> npt.NDArray[np.float32]:
        """Returns how much each pixel belongs to what stands out.

        Args:
            image: RGB uint8 [H, W, 3].

        Returns:
            float32 [H, W] in 0..1, stretched to the full range as the authors do; an image in
            which nothing stands out therefore gives noise, not zeros.
        """
        check_image(image)
        self.load()
        with one_cv_thread():
            small = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA)
            scaled = small.astype(np.float32) / max(float(small.max()), 1.0)
            blob = ((scaled - _MEAN) / _STD).transpose(2, 0, 1)[None]
            name = self._session.get_inputs()[0].name
            first = self._session.get_outputs()[0].name
            raw = self._session.run([first], {name: np.ascontiguousarray(blob)})[0][0, 0]
            spread = float(raw.max() - raw.min())
            stretched = (raw - raw.min()) / spread if spread > 0 else np.zeros_like(raw)
            size = (image.shape[1], image.shape[0])
            full = cv2.resize(stretched, size, interpolation=cv2.INTER_LINEAR)
        return rounded(np.clip(full, 0, 1), 4)

    def segment_box(
        self, image: Image, box: Box, margin: float = 0.1, threshold: float = 0.5
    ) -> npt.NDArray[np.bool_]:
        """Returns the mask of the subject inside a box.

        Args:
            image: RGB uint8 [H, W, 3].
            box: x0, y0, x1, y1 in pixels.
            margin: Context shown around the box, as a share of its sides.
            threshold: Saliency from which a pixel belongs to the subject.

        Returns:
            bool [H, W], true only inside the enlarged box: the connected component that covers
            most of the box itself. All false if nothing stands out in the box.

        Raises:
            ValueError: If the box lies outside the image.
        """
        check_image(image)
        height, width = image.shape[:2]
        left, top, right, bottom = clip_box(box, width, height, margin)
        saliency = self.saliency(np.ascontiguousarray(image[top:bottom, left:right]))
        x0, y0, x1, y1 = clip_box(box, width, height)
        inner = (x0 - left, y0 - top, x1 - left, y1 - top)
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = largest_component(saliency >= threshold, inner)
        return mask


def largest_component(
    mask: npt.NDArray[np.bool_], within: tuple[int, int, int, int] | None = None
) -> npt.NDArray[np.bool_]:
    """Keeps one connected component (8 neighbours).

    Args:
        mask: bool [H, W].
        within: x0, y0, x1, y1; the component with most pixels in there is kept. By default the
            whole mask.

    Returns:
        bool [H, W]; all false if no pixel is set in there.
    """
    count, labels = cv2.connectedComponents(as_image(mask), connectivity=8)
    x0, y0, x1, y1 = within or (0, 0, mask.shape[1], mask.shape[0])
    sizes = np.bincount(labels[y0:y1, x0:x1].ravel(), minlength=count)
    sizes[0] = 0
    if not sizes.any():
        return np.zeros_like(mask)
    return np.asarray(labels == int(sizes.argmax()), dtype=np.bool_)
