"""TransNetV2: per-frame shot-boundary probabilities (Soucek and Lokoc 2020), the accurate mode.

About 33 ms of CPU per frame, thirty times what decoding costs, so it is no default without a GPU.
On footage with known transitions it finds what the classical detectors find (docs/shots.md). The
official state dict is loaded strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.embedded.net import (
    Image,
    Net,
    as_image,
    check_image,
    one_cv_thread,
    one_torch_thread,
    rounded,
)

if TYPE_CHECKING:
    from s2v.datapipe.base.embedded.transnet_net import TransNetV2Net

HEIGHT, WIDTH = 27, 48
_WINDOW, _STEP, _CONTEXT = 100, 50, 25


class TransNetV2(Net):
    """Shot-boundary scorer."""

    name = "transnetv2"
    revision = 2  # both heads
    asset_name = "transnetv2"
    frame_size = (HEIGHT, WIDTH)

    _net: TransNetV2Net
    _device = "cpu"

    def _load(self) -> None:
        import torch

        from s2v.datapipe.base.embedded.transnet_net import TransNetV2Net

        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self._net = TransNetV2Net()
        self._net.load_state_dict(state, strict=True)
        self._net.eval().requires_grad_(False)

    def to(self, device: str) -> None:
        """Moves the net to ``cpu``, ``cuda``, or with ``auto`` to a GPU where there is one."""
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.load()
        self._net.to(device)
        self._device = device

    def predict(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores every frame of a video.

        Args:
            frames: RGB uint8 [T, 27, 48, 3], all frames in order; see `shrink`.

        Returns:
            float32 [T]: probability that the shot ends with this frame, or that the frame is part
            of a gradual transition: the larger of the net's two heads. Above 0.5 one frame is a
            cut and a run of frames a gradual transition.

        Raises:
            ValueError: If the shape or type is another.
        """
        if frames.ndim != 4 or frames.shape[1:] != (HEIGHT, WIDTH, 3) or frames.dtype != np.uint8:
            raise ValueError(f"expected uint8 [T, 27, 48, 3], got {frames.dtype} {frames.shape}")
        if not len(frames):
            return np.zeros(0, np.float32)
        import torch

        self.load()
        count = len(frames)
        # Windows of 100 frames advance by 50; the middle 50 of each are kept. The ends are padded
        # with copies of the first and the last frame.
        after = _CONTEXT + _STEP - (count % _STEP or _STEP)
        padded = np.concatenate(
            [frames[:1].repeat(_CONTEXT, 0), frames, frames[-1:].repeat(after, 0)]
        )
        kept = []
        with one_torch_thread():
            for start in range(0, len(padded) - _WINDOW + 1, _STEP):
                window = torch.from_numpy(padded[start : start + _WINDOW])[None].to(self._device)
                heads = self._net(window)[0, _CONTEXT : _CONTEXT + _STEP]
                kept.append(heads.amax(1).sigmoid().cpu().numpy())
        return rounded(np.concatenate(kept)[:count], 4)


def shrink(frames: Sequence[Image]) -> npt.NDArray[np.uint8]:
    """Shrinks frames to what the net sees: RGB uint8 [H, W, 3] each -> [T, 27, 48, 3]."""
    small = np.zeros((len(frames), HEIGHT, WIDTH, 3), np.uint8)
    with one_cv_thread():
        for index, frame in enumerate(frames):
            check_image(frame)
            resized = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
            small[index] = as_image(resized)
    return small
