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

from s2v.model.config import NetworkConfig
from s2v.model.mmdit import Widths
from s2v.model.wan_config import WanConfig

_TIME_FEATURES = 256  # of the MMDiT


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


def mmdit_flops(config: NetworkConfig, widths: Widths, sizes: Sizes) -> Flops:
    """Of :class:`s2v.model.mmdit.MMDiT`.

    Windows are counted as they are computed: each has its full number of slots, and carrying
    slots back to frames and averaging copies are products too.

    Args:
        config: of the network.
        widths: of what comes in.
        sizes: of one sample that has all its references.
    """
    c, d, K = config, config.width, sizes.references
    area = sizes.area(c.patch)
    S, image = (sizes.frames + K) * area, K * sizes.image_tokens
    context = sizes.text + image
    token = math.prod(c.patch) * widths.latent
    hidden = c.mlp_ratio * d
    clean = 2 if c.reference_timestep == "zero" and K else 1
    layers = c.double_layers + c.single_layers
    # Without single-stream blocks nobody reads the last context, which has no way out.
    outs = c.double_layers - (1 if c.single_layers == 0 else 0)
    whole = c.single_layers
    attended, joined = zip(*(_attention(c, sizes, context, i) for i in range(layers)), strict=True)
    parts = {
        "attention projections": (
            c.double_layers * (product(S, d, 4 * d) + product(context, d, 3 * d))
            + outs * product(context, d, d)
            + whole * product(S + context, d, 4 * d)
        ),
        "attention": sum(attended),
        "joining windows": sum(joined),
        "mlp": 2 * (c.double_layers * product(S, d, hidden) + outs * product(context, d, hidden))
        + whole * 2 * product(S + context, d, hidden),
        "modulation": (
            c.double_layers * product(clean, d, 6 * d)
            + outs * product(1, d, 6 * d)
            + (c.double_layers - outs) * product(1, d, 2 * d)
            + whole * product(clean, d, 3 * d)
            + product(1, d, 2 * d)
        ),
        "patches": product(S, token, d),
        "text": product(sizes.text, widths.text, d),
        "image": product(image, widths.image, d) + product(image, d, d),
        "time": clean * (product(1, _TIME_FEATURES, d) + product(1, d, d)),
        "head": product(S, d, token),
    }
    ungraded = parts["patches"] + parts["text"] + clean * product(1, _TIME_FEATURES, d)
    ungraded += parts["joining windows"]  # its weights are constants
    if c.pooled_text == "mean":
        pooled = product(1, widths.text, d)
        parts["pooled text"] = clean * (pooled + product(1, d, d))
        ungraded += clean * pooled
    return Flops(parts, ungraded, S)


def _attention(config: NetworkConfig, sizes: Sizes, context: int, block: int) -> tuple[int, int]:
    """Joint attention of one block, full or in windows; and what brings windows together."""
    d, T, K = config.width, sizes.frames, sizes.references
    area = sizes.area(config.patch)
    room = config.window - K
    if config.attention == "full" or room >= T:
        seen = (T + K) * area + context
        return attention(seen, seen, d), 0
    first = room // 2 if config.shift_windows and block % 2 == 1 else 0
    windows = math.ceil((T - first) / room) + (1 if first else 0)
    seen = config.window * area + context
    back = product(T + K, windows * config.window, area * d)
    mean = product(1, windows, context * d)
    return windows * attention(seen, seen, d), back + mean
