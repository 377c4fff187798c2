"""What the configured encoders will give, known before their weights are read; and the buckets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from s2v.model.config import Config
from s2v.model.flops import Sizes
from s2v.model.mmdit import Widths

#: Width of text features; width and number of image tokens per reference.
_TEXT: Final[Mapping[str, int]] = {"minilm": 384, "hashed": 64, "umt5": 4096}
_IMAGE: Final[Mapping[str, tuple[int, int]]] = {
    "mobilenet": (1280, 5),
    "pixels": (12, 4),
    "clip": (1280, 257),
}
_WAN_CHANNELS: Final = 16


@dataclass(frozen=True)
class Bucket:
    """Samples of one shape.

    Attributes:
        frames: F, of the video.
        height: in pixels.
        width: in pixels.
        references: K.
    """

    frames: int
    height: int
    width: int
    references: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}+{self.references}"


def widths_of(config: Config) -> Widths:
    """Widths of what the encoders give."""
    image, _ = _IMAGE[config.encoders.image]
    auto = config.autoencoder
    latent = auto.channels if auto.kind == "linear" else _WAN_CHANNELS
    return Widths(latent, _TEXT[config.encoders.text], image)


def image_tokens_of(config: Config) -> int:
    """N, image tokens of one reference."""
    return _IMAGE[config.encoders.image][1]


def sizes_of(config: Config, bucket: Bucket) -> Sizes:
    """What one sample of a bucket brings; text is counted at its full length."""
    return Sizes.of_video(
        bucket.frames,
        bucket.height,
        bucket.width,
        references=bucket.references,
        image_tokens=image_tokens_of(config),
        text=config.encoders.text_tokens,
    )


def buckets_of(config: Config) -> tuple[Bucket, ...]:
    """Every bucket that training may meet, the dearest last."""
    d = config.data
    return tuple(Bucket(d.frames, d.height, d.width, k) for k in range(d.max_references + 1))


def batches_of(config: Config, costs: Mapping[Bucket, float]) -> dict[Bucket, int]:
    """Samples of a micro-batch, by bucket: ``train.batch`` of the dearest set the bound.

    Args:
        config: of the run.
        costs: operations of one sample of each bucket.
    """
    most = config.train.batch * max(costs.values())
    return {bucket: max(1, int(most / cost + 1e-9)) for bucket, cost in costs.items()}


def grown(config: Config, bucket: Bucket) -> tuple[int, int, int, int]:
    """``(T, H/8, W/8, K)`` of a bucket's latents."""
    s = sizes_of(config, bucket)
    return s.frames, s.height, s.width, s.references
