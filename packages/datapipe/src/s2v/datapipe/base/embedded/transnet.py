"""TransNetV2: per-frame shot-boundary probabilities (Soucek and Lokoc 2020), the accurate mode.

About 33 ms of CPU per frame, so PySceneDetect is the default; the two agree on hard cuts, this one
also sees gradual ones. Parameter names are those of the official state dict, loaded strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  the field's name for it

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
    from torch import Tensor

HEIGHT, WIDTH = 27, 48
_WINDOW, _STEP, _CONTEXT = 100, 50, 25
_LOOKUP = 101
_FILTERS = (16, 32, 64)


class TransNetV2(Net):
    """Shot-boundary scorer."""

    name = "transnetv2"
    asset_name = "transnetv2"

    _net: _TransNetV2

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self._net = _TransNetV2()
        self._net.load_state_dict(state, strict=True)
        self._net.eval().requires_grad_(False)

    def predict(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Scores every frame of a video.

        Args:
            frames: RGB uint8 [T, 27, 48, 3], all frames in order; see `shrink`.

        Returns:
            float32 [T]: probability that the shot ends with this frame. Above 0.5 is a cut; a
            gradual one is a run of such frames.

        Raises:
            ValueError: If the shape or type is another.
        """
        if frames.ndim != 4 or frames.shape[1:] != (HEIGHT, WIDTH, 3) or frames.dtype != np.uint8:
            raise ValueError(f"expected uint8 [T, 27, 48, 3], got {frames.dtype} {frames.shape}")
        if not len(frames):
            return np.zeros(0, np.float32)
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
                window = torch.from_numpy(padded[start : start + _WINDOW])[None]
                kept.append(self._net(window)[0, _CONTEXT : _CONTEXT + _STEP].sigmoid().numpy())
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


class _TransNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [4 * filters for filters in _FILTERS]
        self.SDDCNN = nn.ModuleList(
            _Stack(inputs, filters)
            for inputs, filters in zip([3, *widths[:-1]], _FILTERS, strict=True)
        )
        self.frame_sim_layer = _FrameSimilarity(sum(widths))
        self.color_hist_layer = _ColourHistograms()
        # After three poolings 27x48 is 3x6.
        self.fc1 = nn.Linear(widths[-1] * 3 * 6 + 128 + 128, 1024)
        self.cls_layer1 = nn.Linear(1024, 1)
        self.cls_layer2 = nn.Linear(1024, 1)  # in the state dict; only training used it

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, 27, 48, 3] -> logits [B, T]."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        features = []
        for stack in self.SDDCNN:
            x = stack(x)
            features.append(x)
        flat = x.permute(0, 2, 3, 4, 1).flatten(2)
        similarity = self.frame_sim_layer(features)
        histogram = self.color_hist_layer(frames)
        hidden = F.relu(self.fc1(torch.cat([histogram, similarity, flat], 2)))
        logits: Tensor = self.cls_layer1(hidden)
        return logits.squeeze(-1)


class _Stack(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(inputs, filters), _Dilated(4 * filters, filters)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, 4 * filters, T, H / 2, W / 2]."""
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class _Dilated(nn.Module):
    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.Conv3D_1 = _Conv(inputs, filters, 1)
        self.Conv3D_2 = _Conv(inputs, filters, 2)
        self.Conv3D_4 = _Conv(inputs, filters, 4)
        self.Conv3D_8 = _Conv(inputs, filters, 8)
        self.bn = nn.BatchNorm3d(4 * filters, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.Conv3D_1(x), self.Conv3D_2(x), self.Conv3D_4(x), self.Conv3D_8(x)]
        normed: Tensor = self.bn(torch.cat(branches, 1))
        return normed


class _Conv(nn.Module):
    """A spatial and a dilated temporal convolution."""

    def __init__(self, inputs: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, 2 * filters, (1, 3, 3), padding=(0, 1, 1), bias=False),
            nn.Conv3d(
                2 * filters,
                filters,
                (3, 1, 1),
                padding=(dilation, 0, 0),
                dilation=(dilation, 1, 1),
                bias=False,
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _FrameSimilarity(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, 128)
        self.fc = nn.Linear(_LOOKUP, 128)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features [B, C_i, T, H_i, W_i] -> [B, T, 128]."""
        pooled = torch.cat([feature.mean((3, 4)) for feature in features], 1).transpose(1, 2)
        return F.relu(self.fc(_neighbours(F.normalize(self.projection(pooled), dim=2))))


class _ColourHistograms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(_LOOKUP, 128)

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> [B, T, 128]; histograms of 8 x 8 x 8 colours."""
        levels = (frames.long() >> 5).flatten(2, 3)
        bins = (levels[..., 0] << 6) + (levels[..., 1] << 3) + levels[..., 2]
        counts = torch.zeros(*bins.shape[:2], 512)
        counts.scatter_add_(2, bins, torch.ones(bins.shape))
        return F.relu(self.fc(_neighbours(F.normalize(counts, dim=2))))


def _neighbours(x: Tensor) -> Tensor:
    """Similarity of each frame with the 50 before and after it: [B, T, C] -> [B, T, 101]."""
    time, half = x.shape[1], _LOOKUP // 2
    padded = F.pad(x @ x.transpose(1, 2), [half, half])
    index = torch.arange(time)[:, None] + torch.arange(_LOOKUP)[None]
    return padded.gather(2, index.expand(len(x), -1, -1))
