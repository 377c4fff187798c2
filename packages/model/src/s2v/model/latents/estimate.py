"""What encoding will need on disk, said before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from s2v.model.data.encoding import Encoders
from s2v.model.errors import ModelError
from s2v.model.latents.plan import Item

#: Headers of tar and safetensors, a line of the index, padding.
_AROUND: Final = 3072


@dataclass(frozen=True)
class Sizes:
    """What the encoders give, and how many bytes a number takes on disk.

    Attributes:
        channels: C of the latents.
        tokens: N per image.
        image: Di.
        text: Dt.
        most_words: L at most.
        latent_bytes: per number of a latent.
        image_bytes: per number of an image token.
        text_bytes: per number of a text token.
    """

    channels: int
    tokens: int
    image: int
    text: int
    most_words: int
    latent_bytes: int
    image_bytes: int
    text_bytes: int

    @classmethod
    def of(cls, encoders: Encoders, most_words: int) -> Sizes:
        """Ask the encoders; whether their numbers fit bfloat16 is tried on a picture and a word.

        Args:
            encoders: of the run.
            most_words: ``encoders.text_tokens``.
        """
        half = encoders.dtype == torch.bfloat16
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        return cls(
            channels=encoders.video.channels,
            tokens=encoders.image.tokens,
            image=encoders.image.width,
            text=encoders.text.width,
            most_words=most_words,
            latent_bytes=2 if half else 4,
            image_bytes=2 if half else _bytes(encoders.image.encode(picture)),
            text_bytes=2 if half else _bytes(encoders.text.encode("a")),
        )

    def of_item(self, item: Item) -> int:
        """Bytes of one entry, at most: no caption has more tokens than bytes."""
        frames, height, width = item.wanted.size
        variants, shown = len(item.wanted.windows), len(item.wanted.forms)
        cells = self.channels * (height // 8) * (width // 8)
        video = variants * ((frames - 1) // 4 + 1) * cells * self.latent_bytes
        images = variants * item.wanted.references * shown
        looks = images * (cells * self.latent_bytes + self.tokens * self.image * self.image_bytes)
        words = min(self.most_words, len(str(item.sample.row["caption"]).encode()) + 2)
        return video + looks + words * (self.text * self.text_bytes + 8) + _AROUND


def _bytes(x: Tensor) -> int:
    return 2 if torch.equal(x.to(torch.bfloat16).float(), x) else 4


def total(sizes: Sizes, items: Iterable[Item]) -> int:
    """Bytes of entries, at most."""
    return sum(sizes.of_item(item) for item in items)


def free_at(path: Path) -> int:
    """Bytes free on the disk where ``path`` is or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def admit(path: Path, needed: int) -> None:
    """Refuse what cannot fit.

    Args:
        path: where it will be written.
        needed: bytes, at most.

    Raises:
        ModelError: less is free.
    """
    free = free_at(path)
    if needed > free:
        raise ModelError(
            f"{path}: encoding needs up to {needed / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; "
            "make room, give another --out, or set latents.dtype = 'bfloat16'"
        )
