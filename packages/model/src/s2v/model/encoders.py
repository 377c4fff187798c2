"""Frozen encoders: what the trainer asks of them, and the embedded ones.

The paper uses an LLM for text, CLIP (or SigLIP) for references and a 3D VAE for pixels. The
embedded profile puts MiniLM, MobileNetV2 and a fitted linear autoencoder in their roles; they
are small, run anywhere, and are not those models.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2v.model.config_encoders import AutoencoderConfig, EncodersConfig
from s2v.model.deferred import DeferredImage, DeferredText, DeferredVideo
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]


class TextEncoder(Protocol):
    """A prompt to token features."""

    @property
    def id(self) -> str:
        """Name and digest: features of another id do not fit."""

    @property
    def width(self) -> int:
        """Dt."""

    def encode(self, text: str) -> Tensor:
        """``[L, Dt]`` float32, ``1 <= L <= text_tokens``; the empty prompt has tokens too."""

    def length(self, text: str) -> int:
        """Tokens that the prompt has before it is cut to ``text_tokens``."""


class ImageEncoder(Protocol):
    """A reference image to tokens of meaning (CLIP's role in the paper)."""

    @property
    def id(self) -> str:
        """Name and digest."""

    @property
    def width(self) -> int:
        """Di."""

    @property
    def tokens(self) -> int:
        """N, tokens per image."""

    def encode(self, image: Pixels) -> Tensor:
        """RGB ``[h, w, 3]`` of any size -> ``[N, Di]`` float32."""


class VideoAutoencoder(Protocol):
    """Pixels to latents and back, stride (4, 8, 8)."""

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""

    @property
    def channels(self) -> int:
        """C."""

    def encode(self, video: Pixels) -> Tensor:
        """``[F, H, W, 3]`` -> ``[C, (F-1)/4+1, H/8, W/8]``."""

    def decode(self, latents: Tensor) -> Pixels:
        """Inverse of :meth:`encode`, as far as it goes."""


class HashedWords:
    """Signed feature hashing of words: no weights, no meaning, but different words differ.

    For tests and for machines without the embedded weights. Every word becomes a fixed random
    sign vector of unit norm; a start token stands first, so that no prompt is empty.
    """

    id = "hashed-words-1"

    def __init__(self, tokens: int, width: int = 64) -> None:
        self.tokens, self.width = tokens, width

    def encode(self, text: str) -> Tensor:
        """See :class:`TextEncoder`."""
        words = ["<s>", *re.findall(r"\w+", text.lower())][: self.tokens]
        rows = []
        for word in words:
            raw = hashlib.shake_128(word.encode()).digest(self.width // 8)
            rows.append(np.unpackbits(np.frombuffer(raw, np.uint8)).astype(np.float32) * 2 - 1)
        return torch.from_numpy(np.stack(rows) / np.float32(self.width**0.5))

    def length(self, text: str) -> int:
        """See :class:`TextEncoder`."""
        return 1 + len(re.findall(r"\w+", text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """See :class:`s2v.model.binding.HasOffsets`; the start token stands nowhere."""
        return [(0, 0), *(m.span() for m in re.finditer(r"\w+", text))][: self.tokens]


class ColourGrid:
    """Mean colours of a 4 x 4 grid as one token per row: no weights, no meaning."""

    id = "colour-grid-1"
    width = 12
    tokens = 4

    def encode(self, image: Pixels) -> Tensor:
        """See :class:`ImageEncoder`."""
        x = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1) / 127.5 - 1
        grid = torch.nn.functional.adaptive_avg_pool2d(x, (4, 4))  # [3, 4, 4]
        return grid.permute(1, 2, 0).reshape(self.tokens, self.width)


def text_encoder(config: EncodersConfig, device: torch.device | None = None) -> TextEncoder:
    """The configured text encoder; the large one computes on ``device``, and loads on first use."""
    if config.text == "hashed":
        return HashedWords(config.text_tokens)
    if config.text == "umt5":
        from s2v.model.wan_encoders import Umt5Text

        weights, tokenizer = str(config.text_weights), str(config.text_tokenizer)
        tokens, dtype = config.text_tokens, getattr(torch, config.precision)
        with _set_by("encoders.text_weights", "encoders.text_tokenizer"):
            name = Umt5Text.named(Umt5Text.sha256(weights, tokenizer), tokens, dtype)
        return DeferredText(
            name,
            partial(Umt5Text.load, weights, tokenizer, tokens=tokens, dtype=dtype, device=device),
        )
    from s2v.model.embedded import MiniLmTokens

    return MiniLmTokens(config.text_tokens)


def image_encoder(config: EncodersConfig, device: torch.device | None = None) -> ImageEncoder:
    """The configured image encoder; as :func:`text_encoder`."""
    if config.image == "pixels":
        return ColourGrid()
    if config.image == "clip":
        from s2v.model.wan_encoders import ClipTokens, fingerprint

        weights, fit = str(config.image_weights), config.image_fit
        dtype = getattr(torch, config.precision)
        with _set_by("encoders.image_weights"):
            name = ClipTokens.named(fingerprint(weights), fit, dtype)
        return DeferredImage(
            name,
            partial(ClipTokens.load, weights, fit=fit, dtype=dtype, device=device),
        )
    from s2v.model.embedded import MobileNetTokens

    return MobileNetTokens()


def wan_vae(config: AutoencoderConfig, device: torch.device | None = None) -> VideoAutoencoder:
    """Wan's VAE; as :func:`text_encoder`."""
    from s2v.model.wan_encoders import WanVae, fingerprint

    weights, dtype = str(config.weights), getattr(torch, config.precision)
    with _set_by("autoencoder.weights"):
        name = WanVae.named(fingerprint(weights), dtype)
    return DeferredVideo(
        name,
        partial(WanVae.load, weights, dtype=dtype, device=device),
    )


@contextmanager
def _set_by(*keys: str) -> Iterator[None]:
    """Weights that are not where they are said to be: the error says which key says it."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{error}; where it lies is for {' and '.join(keys)} to say") from None
