"""The frozen parts of a run: which they are and where their weights lie."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from s2v.model.config_types import Size
from s2v.model.config_types import Strict as _Strict


class EncodersConfig(_Strict):
    """Frozen encoders. ``hashed`` and ``pixels`` need no weights and know no meaning.

    ``umt5`` and ``clip`` are the release's, read from disk.
    """

    text: Literal["minilm", "hashed", "umt5"] = "minilm"
    image: Literal["mobilenet", "pixels", "clip"] = "mobilenet"
    text_tokens: Size = 48
    #: umT5's weights: a file or a folder, in any known layout.
    text_weights: str | None = None
    #: Folder of umT5's tokenizer.
    text_tokenizer: str | None = None
    #: CLIP ViT-H's weights.
    image_weights: str | None = None
    #: How a reference comes to CLIP's square: ``stretch`` (Wan) or ``pad`` with white.
    image_fit: Literal["stretch", "pad"] = "stretch"
    #: In which umT5 and CLIP compute.
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if self.text == "umt5" and not (self.text_weights and self.text_tokenizer):
            raise ValueError("text = 'umt5' needs text_weights and text_tokenizer")
        if self.image == "clip" and not self.image_weights:
            raise ValueError("image = 'clip' needs image_weights")
        return self


class AutoencoderConfig(_Strict):
    """The latent space: a linear one fitted to the training frames, or Wan's VAE from disk."""

    kind: Literal["linear", "wan"] = "linear"
    #: Weights of Wan's VAE: a file or a folder.
    weights: str | None = None
    #: In which Wan's VAE computes; the release uses float32.
    precision: Literal["bfloat16", "float32"] = "float32"
    channels: Size = 16
    #: ``channel``: every latent channel gets unit variance; ``global``: one scale for all,
    #: so that the loss weighs channels by the pixels they explain.
    normalise: Literal["channel", "global"] = "channel"
    #: At most this many training clips are looked at; a closed form needs no more.
    clips: Size = 256

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if self.kind == "wan" and not self.weights:
            raise ValueError("kind = 'wan' needs weights")
        return self
