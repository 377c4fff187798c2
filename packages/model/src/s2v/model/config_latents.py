"""Encoded samples on disk: whether a run takes them, from where, and how exact they are."""

from __future__ import annotations

from typing import Literal

from s2v.model.config_types import Strict as _Strict


class LatentsConfig(_Strict):
    """What ``s2v-model encode`` writes and the trainer reads; ``docs/latents.md``."""

    #: ``auto``: take what is there and fits, make the rest; ``require``: nothing is made while
    #: training, and what is missing or of other encoders is an error; ``off``: not looked at.
    use: Literal["auto", "require", "off"] = "auto"
    #: Where they lie; ``latents`` beside the shards by default.
    folder: str | None = None
    #: To which features are rounded before they are trained on, whether they come from the
    #: folder or are made on the way. Halves the folder; part of the fingerprint.
    dtype: Literal["float32", "bfloat16"] = "float32"
