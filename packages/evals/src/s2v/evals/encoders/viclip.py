"""ViCLIP behind `VideoTextEmbedder`, with both published preprocessings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from s2v.datapipe.base.embedded.net import one_torch_thread, require, unit
from s2v.evals.encoders import Image, Vectors, pixels
from s2v.evals.encoders.nets.viclip import ViCLIP
from s2v.evals.encoders.torch_files import fill, read_state

WAYS: Final[dict[str, Callable[[Image], torch.Tensor]]] = {
    "internvid": pixels.internvid,
    "vbench": pixels.vbench_clip,
}


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """CLIP's byte-pair encoding; the vocabulary comes inside open_clip."""
    return require("open_clip.tokenizer").SimpleTokenizer()


class VideoClip:
    """Eight frames or a text to a unit vector.

    Args:
        path: the released checkpoint or one like it; loaded strictly and at once.
        net: another layout of it, for tests of the code around it.

    Raises:
        EvalError: a damaged file, or another architecture's.
    """

    id = "viclip"

    def __init__(self, path: Path, net: ViCLIP | None = None) -> None:
        twin = net or ViCLIP()
        self._net: Any = fill(twin, read_state(path, below="model"), path)
        self.frames = twin.layout.frames
        self.context = twin.layout.context

    def embed_video(self, frames: Sequence[Image], preprocessing: str) -> Vectors:
        """(D,) of exactly eight frames.

        Raises:
            ValueError: another number of frames, or no such preprocessing.
        """
        if len(frames) != self.frames or preprocessing not in WAYS:
            raise ValueError(
                f"{len(frames)} frames, {preprocessing!r}: need {self.frames} and one of "
                f"{', '.join(WAYS)}"
            )
        video = pixels.batch(frames, WAYS[preprocessing]).transpose(0, 1)[None]
        with torch.inference_mode(), one_torch_thread():
            return np.asarray(unit(self._net.vision_encoder(video).numpy())[0], np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """(N, D); the end token is kept when a text is cut."""
        rows = [self._ids(text) for text in texts]
        with torch.inference_mode(), one_torch_thread():
            return unit(self._net.text_encoder(torch.tensor(rows)).numpy())

    def tokens(self, text: str) -> int:
        """With its two markers, before it is cut."""
        return len(_tokenizer().encode(text)) + 2

    def _ids(self, text: str) -> list[int]:
        book = _tokenizer()
        ids = [book.sot_token_id, *book.encode(text), book.eot_token_id]
        if len(ids) > self.context:
            ids = [*ids[: self.context - 1], book.eot_token_id]
        return ids + [0] * (self.context - len(ids))
