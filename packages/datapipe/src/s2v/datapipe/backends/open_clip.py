"""Instance vectors, text vectors and aesthetic scores by open_clip.

Embeddings (paper section 3.1, step 7; the paper's "improved CLIP" is any CLIP checkpoint
fine-tuned for instance retrieval that open_clip can hold) and LAION's aesthetic head on CLIP
ViT-L/14 (OpenS2V-5M, O-DP).

    [roles.embedder]
    backend = "open_clip"
    model = "ViT-B-32"                   # or a JSON file: a model configuration of open_clip
    weights = "/models/vit-b-32.safetensors"

    [roles.aesthetics]
    backend = "laion"
    head = "/models/sac+logos+ava1-l14-linearMSE.pth"
    clip = { model = "ViT-L-14-quickgelu", weights = "/models/openai-vit-l-14.safetensors" }

Weights are files; a tag or hub name is refused, as it would be a download without a checksum in
the middle of a run. One CLIP serves both roles where their tower's options are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from s2v.datapipe.backends.clip_tower import Tower, TowerOptions
from s2v.datapipe.backends.weights import digest, existing_file
from s2v.datapipe.base.embedded.net import check_image, one_torch_thread
from s2v.datapipe.base.settings import parse
from s2v.datapipe.roles import Image, Vectors, WeightsError

GREY: Final = 127  # what the embedding stage puts around a subject
HIDDEN: Final = (1024, 128, 64, 16)  # of LAION's improved predictor
LAYERS: Final = (0, 2, 4, 6, 7)  # its linear layers' places; dropout stands between

_HEAD: Final = (
    "LAION's aesthetic head for this CLIP, such as sac+logos+ava1-l14-linearMSE.pth (MLP) or "
    "sa_0_4_vit_l_14_linear.pth"
)


class EmbedderOptions(TowerOptions):
    """Options of the embedder."""

    pad: bool = Field(
        default=True,
        description="grey to a square first: CLIP's centre crop would cut off heads and feet",
    )


class AestheticsOptions(BaseModel):
    """Options of the aesthetic scorer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip: TowerOptions = TowerOptions(model="ViT-L-14-quickgelu")
    head: str | None = Field(default=None, description="file of LAION's linear or MLP head")

    @field_validator("clip", mode="before")
    @classmethod
    def _of_openai(cls, value: Any, info: ValidationInfo) -> Any:
        """LAION trained on OpenAI's weights, which want the quick GELU."""
        return {"model": "ViT-L-14-quickgelu", **value} if isinstance(value, dict) else value


def embedder(options: dict[str, Any], where: str, shared: dict[str, Any]) -> ClipEmbedder:
    """The embedder; no weights are loaded.

    Raises:
        SettingsError: an unknown or wrong option.
        WeightsError: no weights named, or no such file.
    """
    parsed = parse(EmbedderOptions, options, where)
    tower = {name: getattr(parsed, name) for name in TowerOptions.model_fields}
    return ClipEmbedder(Tower.of(TowerOptions(**tower), where, shared), parsed.pad)


def aesthetics(options: dict[str, Any], where: str, shared: dict[str, Any]) -> LaionAesthetics:
    """The aesthetic scorer; no weights are loaded.

    Raises:
        SettingsError: an unknown or wrong option.
        WeightsError: no weights named, or no such file.
    """
    parsed = parse(AestheticsOptions, options, where)
    if parsed.head is None:
        raise WeightsError(f"{where}.head is not set; expected {_HEAD}")
    return LaionAesthetics(Tower.of(parsed.clip, f"{where}.clip", shared), parsed.head)


class ClipEmbedder:
    """CLIP's image tower over whole subjects, and its text tower beside it."""

    def __init__(self, tower: Tower, pad: bool) -> None:
        self._tower = tower
        self._pad = pad

    @property
    def model_id(self) -> str:
        """The tower's id, and how a crop becomes a square."""
        return f"{self._tower.model_id}{'-padded' if self._pad else ''}"

    def load(self) -> None:
        """Load the tower; see :meth:`Tower.load`."""
        self._tower.load()

    def embed(self, images: Sequence[Image]) -> Vectors:
        """``[n, d]`` float32, L2-normalised; a row depends on its image alone.

        Args:
            images: RGB uint8 ``[H, W, 3]`` each, of any size.
        """
        for image in images:
            check_image(image)
        return self._tower.images([squared(image) if self._pad else image for image in images])

    def embed_text(self, texts: Sequence[str]) -> Vectors:
        """``[n, d]`` float32, L2-normalised, in the same space; long texts are cut by CLIP."""
        return self._tower.texts(texts)


class LaionAesthetics:
    """LAION's head on normalised CLIP vectors.

    Scores are about 1 to 10, as the ratings that it was fitted to; it is a regression and may
    step outside. OpenS2V-5M keeps references from 4.5 up.
    """

    def __init__(self, tower: Tower, head: str) -> None:
        self._tower = tower
        self._head = existing_file(head, _HEAD)
        self._net: Any = None

    @property
    def model_id(self) -> str:
        """Digest of the head, and the tower's id."""
        return f"laion-{digest([self._head])[:12]}+{self._tower.model_id}"

    def load(self) -> None:
        """Load tower and head.

        Raises:
            WeightsError: a file is truncated, no state dict, or of another size or shape.
        """
        if self._net is None:
            self._tower.load()
            self._net = _head(self._head, self._tower.dim)

    def score(self, images: Sequence[Image]) -> list[float]:
        """One score per image, rounded to 4 digits; pre-processed as open_clip does.

        Raises:
            ValueError: the head gave no number.
        """
        for image in images:
            check_image(image)
        self.load()
        if not images:
            return []
        import torch

        vectors = self._tower.images(images)
        with one_torch_thread():
            scores = [float(self._net(torch.from_numpy(row[None])).reshape(())) for row in vectors]
        if not np.isfinite(scores).all():
            raise ValueError(f"{self.model_id}: the aesthetic score is not a number")
        return [round(score, 4) for score in scores]


def squared(image: Image) -> Image:
    """The image in the middle of a grey square, so that all of it is seen and nothing squeezed."""
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _head(path: Path, dim: int) -> Any:
    """The MLP or the single layer, as the names in the file say."""
    from torch import nn

    from s2v.datapipe.backends.clip_tower import state_dict

    state = state_dict(path, _HEAD)
    if set(state) == {"weight", "bias"}:
        net: Any = nn.Linear(dim, 1)
        kind = "linear"
    else:
        net = nn.Module()
        net.layers = nn.Sequential(*_layers(dim))
        net.forward = net.layers.forward
        kind = "MLP"
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        found = next(iter(state.values())).shape if state else ()
        raise WeightsError(
            f"{path}: no {kind} aesthetic head for vectors of {dim} numbers (its first layer is "
            f"{tuple(found)}); expected {_HEAD}: {' '.join(str(error).split())[:160]}"
        ) from None
    return net.eval().requires_grad_(False)


def _layers(dim: int) -> Iterator[Any]:
    from torch import nn

    widths = (dim, *HIDDEN, 1)
    linear = dict(zip(LAYERS, pairwise(widths), strict=True))
    for place in range(max(LAYERS) + 1):
        yield nn.Linear(*linear[place]) if place in linear else nn.Identity()
