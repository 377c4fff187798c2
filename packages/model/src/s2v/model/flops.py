"""Arithmetic of a forward and of a training step, in closed form, from the configuration alone.

A multiply-add counts as two operations, as everywhere in the field and as torch's
``FlopCounterMode`` counts; norms, activations and rotations are not counted. Attention dominates
video: at 480p and 81 frames it is 70 % of Wan-1.3B, and ``6 N D`` is wrong by three. A training
step is a forward and two backward products per product, except where no gradient is wanted of
what comes in. Recomputed activations are not counted: these are the *model's* operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from s2v.model.wan_config import WanConfig


@dataclass(frozen=True)
class Sizes:
    """What one sample brings.

    Attributes:
        frames: T, latent frames of the video: (F - 1) / 4 + 1.
        height: of the latents: H / 8.
        width: of the latents: W / 8.
        references: K.
        image_tokens: N, per reference; 0 where image tokens are not used.
        text: rows of text that the MMDiT is given; Wan pads to its own number.
    """

    frames: int
    height: int
    width: int
    references: int = 0
    image_tokens: int = 0
    text: int = 0

    @classmethod
    def of_video(
        cls,
        frames: int,
        height: int,
        width: int,
        references: int = 0,
        image_tokens: int = 0,
        text: int = 0,
    ) -> Sizes:
        """From the frames and pixels of the video."""
        return cls(
            (frames - 1) // 4 + 1, height // 8, width // 8, references, image_tokens, text
        )  # fmt: skip

    def area(self, patch: tuple[int, int, int]) -> int:
        """Tokens of one latent frame."""
        return (self.height // patch[1]) * (self.width // patch[2])


@dataclass(frozen=True)
class Flops:
    """Operations of one sample.

    Attributes:
        parts: of a forward, by part.
        ungraded: the share of the forward whose input wants no gradient, so that its backward
            has one product instead of two.
        tokens: of video and references.
    """

    parts: Mapping[str, int] = field(default_factory=dict)
    ungraded: int = 0
    tokens: int = 0

    @property
    def forward(self) -> int:
        """Of one forward."""
        return sum(self.parts.values())

    @property
    def train(self) -> int:
        """Of forward and backward."""
        return 3 * self.forward - self.ungraded


def product(rows: int, into: int, out: int) -> int:
    """Operations of ``[rows, into] @ [into, out]``."""
    return 2 * rows * into * out


def attention(queries: int, keys: int, width: int) -> int:
    """Operations of scores and weighted sum over all heads."""
    return 2 * product(queries, width, keys)


def wan_flops(config: WanConfig, sizes: Sizes) -> Flops:
    """Of :class:`s2v.model.wan.WanModel`.

    Args:
        config: of the network.
        sizes: of one sample; ``text`` is not read, because text is padded to
            ``config.text_tokens``.
    """
    c, d = config, config.width
    S = (sizes.frames + sizes.references) * sizes.area(c.patch)
    C = c.text_tokens
    image = 0 if c.image_width is None else sizes.references * sizes.image_tokens
    groups = 2 if c.reference_timestep == "zero" and sizes.references else 1
    patch = math.prod(c.patch)
    into = product(S, patch * c.in_channels, d)
    text_in, time_in = product(C, c.text_width, d), product(groups, c.frequencies, d)
    of_image = image * (c.image_width or 0)
    parts = {
        "self-attention projections": c.layers * 4 * product(S, d, d),
        "self-attention": c.layers * attention(S, S, d),
        "cross-attention projections": c.layers * 2 * (product(S, d, d) + product(C + image, d, d)),
        "cross-attention": c.layers * attention(S, C + image, d),
        "mlp": c.layers * 2 * product(S, d, c.ffn),
        "patches": into,
        "text": text_in + product(C, d, d),
        "time": time_in + product(groups, d, 7 * d),
        "image": 2 * of_image * ((c.image_width or 0) + d),
        "head": product(S, d, patch * c.out_channels),
    }
    return Flops(parts, into + text_in + time_in, S)
