"""CLIP and DINO image towers from files, behind `ImageEmbedder`.

Each image passes alone, so a vector does not depend on its neighbours in a batch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2v.datapipe.base.embedded.net import one_torch_thread, require, unit
from s2v.evals.encoders import Image, Vectors, pixels
from s2v.evals.encoders.torch_files import fill, from_folder, read_state
from s2v.evals.errors import EvalError

Way = Callable[[Image], torch.Tensor]


class ImageTower:
    """Unit vectors of images.

    Args:
        id: of the weights and the preprocessing, for what a case keeps of it.
        way: RGB uint8 (H, W, 3) -> [1, 3, h, w].
        net: [1, 3, h, w] -> [1, D].
    """

    def __init__(self, id: str, way: Way, net: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.id = id
        self._way = way
        self._net = net

    def embed(self, images: Sequence[Image]) -> Vectors:
        """(N, D) float32, L2-normalised."""
        with torch.inference_mode(), one_torch_thread():
            rows = [self._net(self._way(image)).float().numpy() for image in images]
        return unit(np.concatenate(rows))


def open_clip_tower(
    path: Path, model: str | None, *, folder: Path, vbench: bool = False
) -> ImageTower:
    """The image side of a CLIP.

    Args:
        path: its state dict, both towers; loaded strictly.
        model: open_clip's name of the architecture, or a JSON file of one below ``folder``.
        folder: where the weights file lies.
        vbench: VBench's preprocessing in place of OpenAI's.

    Raises:
        EvalError: unknown architecture, or another one's weights.
    """
    if model is None:
        raise EvalError(f"{path}: name open_clip's architecture as 'model' beside path and sha256")
    open_clip = require("open_clip")
    if model.endswith(".json"):
        settings = json.loads((folder / model).read_text(encoding="utf-8"))
        settings = settings.get("model_cfg", settings)
    else:
        settings = open_clip.get_model_config(model)
    if not isinstance(settings, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(
        settings
    ):
        raise EvalError(f"{path}: open_clip has no architecture {model!r}")
    known = {k: settings[k] for k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
             if k in settings}  # fmt: skip
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.CRITICAL)  # it warns that nothing is pretrained
    try:
        net: Any = open_clip.model.CLIP(**known)
    finally:
        logging.getLogger().setLevel(before)
    fill(net, read_state(path), path)
    side = int(known["vision_cfg"]["image_size"])

    def openai(image: Image) -> torch.Tensor:
        return pixels.pillow_square(image, resize=side, side=side, statistics=pixels.CLIP)

    def through_vbench(image: Image) -> torch.Tensor:
        return pixels.vbench_clip(image, side)

    way = through_vbench if vbench else openai
    return ImageTower(f"open_clip-{path.name}-{'vbench' if vbench else 'openai'}", way, net.visual)


def dinov2_tower(folder: Path) -> ImageTower:
    """DINOv2's class token, at 224 pixels of a short side of 256, as its authors evaluate.

    Args:
        folder: ``config.json`` and ``model.safetensors`` of transformers' Dinov2Model.

    Raises:
        EvalError: a file is missing, or another model's.
    """
    net = from_folder(require("transformers").Dinov2Model, folder)

    def way(image: Image) -> torch.Tensor:
        return pixels.pillow_square(image, resize=256, side=224, statistics=pixels.IMAGENET)

    return ImageTower(f"dinov2-{folder.name}", way, lambda x: net(x).last_hidden_state[:, 0])


def dino_tower(folder: Path) -> ImageTower:
    """DINO ViT-B/16's class token on the uncut frame, short side 224, as VBench runs it.

    Args:
        folder: ``config.json`` and ``model.safetensors`` of transformers' ViTModel.

    Raises:
        EvalError: a file is missing, or another model's.
    """
    net = from_folder(require("transformers").ViTModel, folder, add_pooling_layer=False)

    def embed(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = net(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        return found

    return ImageTower(f"dino-{folder.name}-vbench", pixels.vbench_dino, embed)
