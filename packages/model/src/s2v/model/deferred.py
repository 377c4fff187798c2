"""Large encoders, loaded when they are first used: a run whose shards are encoded needs none.

Their ids are known from the files on disk, so that fingerprints do not wait for gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:  # they name us at run time
    from s2v.model.encoders import ImageEncoder, TextEncoder, VideoAutoencoder

Pixels = npt.NDArray[np.uint8]


class DeferredText:
    """A :class:`~s2v.model.encoders.TextEncoder` to be.

    Args:
        id: that it will have.
        load: makes it.
    """

    def __init__(self, id: str, load: Callable[[], TextEncoder]) -> None:
        self.id, self._load = id, load

    def __getstate__(self) -> dict[str, Any]:
        """A reading process loads its own, if it ever needs one."""
        return {name: value for name, value in vars(self).items() if name != "encoder"}

    @cached_property
    def encoder(self) -> TextEncoder:
        """The encoder, loaded on first use."""
        return self._load()

    @property
    def width(self) -> int:
        """Dt."""
        return self.encoder.width

    def encode(self, text: str) -> Tensor:
        """See the role."""
        return self.encoder.encode(text)

    def length(self, text: str) -> int:
        """See the role."""
        return self.encoder.length(text)


class DeferredImage:
    """An :class:`~s2v.model.encoders.ImageEncoder` to be; as :class:`DeferredText`."""

    def __init__(self, id: str, load: Callable[[], ImageEncoder]) -> None:
        self.id, self._load = id, load

    def __getstate__(self) -> dict[str, Any]:
        """A reading process loads its own, if it ever needs one."""
        return {name: value for name, value in vars(self).items() if name != "encoder"}

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The encoder, loaded on first use."""
        return self._load()

    @property
    def width(self) -> int:
        """Di."""
        return self.encoder.width

    @property
    def tokens(self) -> int:
        """N."""
        return self.encoder.tokens

    def encode(self, image: Pixels) -> Tensor:
        """See the role."""
        return self.encoder.encode(image)


class DeferredVideo:
    """A :class:`~s2v.model.encoders.VideoAutoencoder` to be; as :class:`DeferredText`."""

    def __init__(self, fingerprint: str, load: Callable[[], VideoAutoencoder]) -> None:
        self.fingerprint, self._load = fingerprint, load

    def __getstate__(self) -> dict[str, Any]:
        """A reading process loads its own, if it ever needs one."""
        return {name: value for name, value in vars(self).items() if name != "encoder"}

    @cached_property
    def encoder(self) -> VideoAutoencoder:
        """The autoencoder, loaded on first use."""
        return self._load()

    @property
    def channels(self) -> int:
        """C."""
        return self.encoder.channels

    def encode(self, video: Pixels) -> Tensor:
        """See the role."""
        return self.encoder.encode(video)

    def decode(self, latents: Tensor) -> Pixels:
        """See the role."""
        return self.encoder.decode(latents)
