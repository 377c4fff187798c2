"""MiniLM and MobileNetV2 as token encoders: the embedded profile's text and image side.

Weights come from the asset cache; nothing here downloads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2v.datapipe.base.embedded.minilm import DIM, MiniLM
from s2v.datapipe.base.embedded.mobilenet import MobileNetV2, prepare
from s2v.datapipe.base.embedded.net import one_torch_thread

Pixels = npt.NDArray[np.uint8]


class MiniLmTokens(MiniLM):
    """Last-layer states of MiniLM, one token per word piece, [CLS] first and [SEP] last.

    Args:
        tokens: longer prompts are cut to this many.
    """

    width = DIM

    def __init__(self, tokens: int) -> None:
        weights = MiniLM.from_assets()
        super().__init__(weights.path, weights._sha256)
        self.tokens = tokens

    @property
    def id(self) -> str:
        """See :class:`s2v.model.encoders.TextEncoder`."""
        return f"{self.model_id}-states-{self.tokens}"

    def encode(self, text: str) -> Tensor:
        """``[L, 384]`` float32."""
        ids = self.token_ids(text)
        if len(ids) > self.tokens:
            ids = [*ids[: self.tokens - 1], ids[-1]]  # keep [SEP]
        with one_torch_thread(), torch.no_grad():
            states: Tensor = self.states([ids])[0]
        return states

    def length(self, text: str) -> int:
        """See :class:`s2v.model.encoders.TextEncoder`."""
        return len(self.token_ids(text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """See :class:`s2v.model.binding.HasOffsets`; [CLS] and [SEP] stand nowhere."""
        self.load()
        found: list[tuple[int, int]] = self._tokenizer.encode(text).offsets
        if len(found) > self.tokens:
            found = [*found[: self.tokens - 1], found[-1]]
        return found


class MobileNetTokens(MobileNetV2):
    """MobileNetV2's last feature map as five tokens: the mean, then the four quarters."""

    width = 1280
    tokens = 5

    def __init__(self) -> None:
        weights = MobileNetV2.from_assets()
        super().__init__(weights.path, weights._sha256)

    @property
    def id(self) -> str:
        """See :class:`s2v.model.encoders.ImageEncoder`."""
        return f"{self.model_id}-quarters"

    def encode(self, image: Pixels) -> Tensor:
        """RGB ``[h, w, 3]`` -> ``[5, 1280]`` float32."""
        with one_torch_thread(), torch.no_grad():
            features = self.features(torch.from_numpy(prepare(image))[None])
            quarters = torch.nn.functional.adaptive_avg_pool2d(features, 2).flatten(2)
            mean = features.mean((2, 3))[..., None]
            tokens: Tensor = torch.cat([mean, quarters], dim=2)[0].T.contiguous()
        return tokens
