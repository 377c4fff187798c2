"""Turning frames into what the published networks were fed, to the rounding of each.

Preprocessing alone moves a score by points, and the published harnesses differ in it, so each way
is a named function that is compared with the library it was read in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import PIL.Image
import torch
from torch.nn import functional

from s2v.datapipe.base.embedded.net import one_cv_thread
from s2v.evals.encoders import Image

CLIP: Final = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation per channel, of values in [0, 1]."""


def as_tensor(image: Image) -> torch.Tensor:
    """RGB uint8 (H, W, 3) -> [1, 3, H, W] float32 in 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def normalised(pixels: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """[..., 3, H, W] in 0 to 255 -> the same, less the mean, by the deviation."""
    mean, deviation = (torch.tensor(v).reshape(3, 1, 1) for v in statistics)
    return (pixels / 255 - mean) / deviation


def short_side(image: Image, side: int) -> tuple[int, int]:
    """Height and width with the shorter one at ``side``, the longer cut to an integer."""
    height, width = image.shape[:2]
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def resized(image: Image, size: tuple[int, int], *, mode: str) -> torch.Tensor:
    """Resize without antialiasing and round back to whole grey levels, as torchvision does.

    Args:
        image: RGB uint8 (H, W, 3).
        size: height and width.
        mode: ``bicubic`` or ``bilinear``.
    """
    big = functional.interpolate(as_tensor(image), size, mode=mode, align_corners=False)
    return big.clamp(0, 255).round()


def centre(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """The middle square of [..., H, W]."""
    height, width = pixels.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[..., top : top + side, left : left + side]


def vbench_clip(image: Image, side: int = 224) -> torch.Tensor:
    """VBench's way to CLIP and ViCLIP: bicubic to the short side, middle square, CLIP's statistics.

    The square drops the sides of a wide film.
    """
    pixels = resized(image, short_side(image, side), mode="bicubic")
    return normalised(centre(pixels, side), CLIP)


def vbench_dino(image: Image, side: int = 224) -> torch.Tensor:
    """VBench's way to DINO: bilinear to the short side, nothing cut, ImageNet's statistics."""
    size = short_side(image, side)
    return normalised(resized(image, size, mode="bilinear"), IMAGENET)


def internvid(image: Image, side: int = 224) -> torch.Tensor:
    """InternVid's demo: squashed to a square, ImageNet's statistics."""
    with one_cv_thread():
        return normalised(
            as_tensor(np.asarray(cv2.resize(image, (side, side)), np.uint8)), IMAGENET
        )


def pillow_square(image: Image, *, resize: int, side: int, statistics: Statistics) -> torch.Tensor:
    """OpenAI's and DINOv2's own way: Pillow's antialiased bicubic, middle square.

    Args:
        image: RGB uint8 (H, W, 3).
        resize: the short side, pixels.
        side: of the square.
        statistics: of the network.
    """
    height, width = short_side(image, resize)
    small = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return normalised(centre(as_tensor(np.asarray(small, np.uint8)), side), statistics)


def batch(images: Sequence[Image], way: object) -> torch.Tensor:
    """[N, 3, H, W] of images that one way makes equally large."""
    if not callable(way):
        raise TypeError(f"{way!r} is no preprocessing")
    return torch.cat([way(image) for image in images])
