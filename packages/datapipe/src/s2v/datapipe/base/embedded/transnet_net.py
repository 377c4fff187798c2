"""TransNetV2's network: dilated 3D convolutions, frame similarities and colour histograms.

Parameter names are those of the official state dict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the field's name for it

_LOOKUP = 101
_FILTERS = (16, 32, 64)


class TransNetV2Net(nn.Module):
    """Both heads of TransNetV2 over a window of frames."""

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
        self.cls_layer2 = nn.Linear(1024, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Scores of both heads.

        Args:
            frames: uint8 [B, T, 27, 48, 3].

        Returns:
            Logits [B, T, 2]: that a frame is the middle of a transition (the last frame of its
            shot, for a hard cut), and that it is any frame of one.
        """
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        features = []
        for stack in self.SDDCNN:
            x = stack(x)
            features.append(x)
        flat = x.permute(0, 2, 3, 4, 1).flatten(2)
        similarity = self.frame_sim_layer(features)
        histogram = self.color_hist_layer(frames)
        hidden = F.relu(self.fc1(torch.cat([histogram, similarity, flat], 2)))
        return torch.cat([self.cls_layer1(hidden), self.cls_layer2(hidden)], 2)


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
        counts = torch.zeros(*bins.shape[:2], 512, device=bins.device)
        counts.scatter_add_(2, bins, torch.ones(bins.shape, device=bins.device))
        return F.relu(self.fc(_neighbours(F.normalize(counts, dim=2))))


def _neighbours(x: Tensor) -> Tensor:
    """Similarity of each frame with the 50 before and after it: [B, T, C] -> [B, T, 101]."""
    time, half = x.shape[1], _LOOKUP // 2
    padded = F.pad(x @ x.transpose(1, 2), [half, half])
    steps = torch.arange(time, device=x.device)[:, None]
    index = steps + torch.arange(_LOOKUP, device=x.device)[None]
    return padded.gather(2, index.expand(len(x), -1, -1))
