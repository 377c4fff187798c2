"""What the configured encoders will give, known before their weights are read; and the buckets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from s2v.model.config import Config
from s2v.model.config_data import VideoSize
from s2v.model.data.buckets import Bucket, sizing
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
        *bucket.size,
        references=bucket.references,
        image_tokens=image_tokens_of(config),
        text=config.encoders.text_tokens,
    )


def buckets_of(config: Config) -> tuple[Bucket, ...]:
    """Every bucket that training may meet in any of its phases.

    References are as many as samples may show, from none, where they have buckets of their own,
    else the most: fewer are padded.
    """
    d = config.data
    references = range(d.max_references + 1) if d.group_references else [d.max_references]
    sizes: dict[VideoSize, None] = {}
    for stage in d.stages():
        sizes |= dict.fromkeys(stage.sizes)
        if "image" in stage.mix and not any(frames == 1 for frames, _, _ in stage.sizes):
            sizes |= {(1, height, width): None for _, height, width in stage.sizes}
    return tuple(Bucket(*size, k) for size in sizes for k in references)


def batches_of(config: Config) -> dict[Bucket, int]:
    """Samples of a full micro-batch by bucket, as the data plan forms them, the dearest last.

    Raises:
        ModelError: ``data.max_tokens`` is less than one sample has.
    """
    found = sizing(config, buckets_of(config), widths_of(config), image_tokens_of(config))
    return {b: found.batch[b] for b in sorted(found.cost, key=found.cost.__getitem__)}


def grown(config: Config, bucket: Bucket) -> tuple[int, int, int, int]:
    """``(T, H/8, W/8, K)`` of a bucket's latents."""
    s = sizes_of(config, bucket)
    return s.frames, s.height, s.width, s.references
