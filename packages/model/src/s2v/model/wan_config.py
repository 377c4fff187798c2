"""Sizes and options of the Wan2.1 network, and the sizes that were released."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import model_validator

from s2v.model.config_types import Count, Positive, Size, Strict


class WanConfig(Strict):
    """The Wan2.1 network with Phantom's references; the defaults are T2V-1.3B.

    What comes in must have the widths stated here: a checkpoint fixes them, and a network that
    is trained anew takes them from its encoders.
    """

    width: Size = 1536
    ffn: Size = 8960
    heads: Size = 12
    layers: Size = 30
    #: Latent channels that come in; 36 for released I2V weights (noise, mask, first frame).
    in_channels: Size = 16
    out_channels: Size = 16
    patch: tuple[Size, Size, Size] = (1, 2, 2)
    text_width: Size = 4096
    #: Text is padded with zeros to this many rows *after* its encoder, and the padding is
    #: attended to, as in the released weights.
    text_tokens: Size = 512
    #: Width of the image encoder's tokens (CLIP ViT-H: 1280); null for the network without them,
    #: which is what Phantom-Wan is.
    image_width: Size | None = None
    #: Rows of a learned position of image tokens (first-and-last-frame weights: 514); null: none.
    image_positions: Size | None = None
    #: Width of the sinusoids of the noise level.
    frequencies: Size = 256
    eps: Positive = 1e-6
    rope_theta: Positive = 10_000.0
    #: Precision in which rotary angles are made: Wan2.1 uses ``float64``, Phantom's copy of it
    #: ``float32``.
    rope_precision: Literal["float64", "float32"] = "float64"
    #: Where references stand in time: behind the last frame (``tail``, the release), behind it
    #: with a gap of ``reference_offset`` frames, or before the first (-1, -2, ...).
    reference_position: Literal["tail", "offset", "negative"] = "tail"
    reference_offset: Count = 0
    #: Noise level of the references: the video's (``same``, the release) or none (``zero``).
    reference_timestep: Literal["same", "zero"] = "same"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if (self.width // self.heads) % 2:
            raise ValueError(
                f"head width {self.width // self.heads} must be even: RoPE turns pairs"
            )
        if self.patch[0] != 1:
            raise ValueError(
                f"patch {self.patch}: references are single latent frames, so 1 in time"
            )
        if self.frequencies % 2:
            raise ValueError(f"frequencies {self.frequencies} must be even: cosines and sines")
        if self.reference_offset and self.reference_position != "offset":
            raise ValueError(
                f"reference_offset {self.reference_offset} needs reference_position = 'offset'"
            )
        if self.image_positions is not None and self.image_width is None:
            raise ValueError("image_positions needs image_width")
        return self

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.width // self.heads


_T2V_14B: Final = WanConfig(width=5120, ffn=13824, heads=40, layers=40)


def _with(config: WanConfig, **changes: object) -> WanConfig:
    return config.model_copy(update=changes)


#: The released sizes. Phantom-Wan-1.3B and -14B are the T2V sizes; its copy of the network makes
#: rotary angles in float32.
PRESETS: Final[dict[str, WanConfig]] = {
    "wan-t2v-1.3b": WanConfig(),
    "wan-t2v-14b": _T2V_14B,
    "wan-i2v-14b": _with(_T2V_14B, in_channels=36, image_width=1280),
    "phantom-wan-1.3b": WanConfig(rope_precision="float32"),
    "phantom-wan-14b": _with(_T2V_14B, rope_precision="float32"),
}
