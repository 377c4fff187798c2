"""ViCLIP-T: one cosine between a whole video and its prompt, times 100.

Two incompatible preprocessings are published, and the paper does not say which it used, so each is
a protocol. The text tower reads 32 tokens; a long prompt loses its tail, and how many tokens that
were is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np

from s2v.evals.encoders import VideoTextEmbedder
from s2v.evals.frames import interval_middle, stride_head
from s2v.evals.metrics.base import (
    Case,
    Measurement,
    MetricSpec,
    Peer,
    failed,
    not_applicable,
    scored,
)
from s2v.evals.metrics.text import other_prompts, text_score

FRAMES: Final = 8
Way = Literal["internvid", "vbench"]


class VideoTextAlignment:
    """Cosine of one video vector and the prompt's x 100, not clamped.

    Args:
        spec: of the protocol.
        embedder: makes the embedder at first use.
        way: ``internvid`` (first eight multiples of n // 8, the tail unseen; squashed; ImageNet's
            statistics) or ``vbench`` (eight interval middles, the last repeated where there are
            fewer; middle square; CLIP's statistics).
    """

    def __init__(
        self, spec: MetricSpec, embedder: Callable[[], VideoTextEmbedder], way: Way
    ) -> None:
        self.spec = spec
        self._embedder = embedder
        self._way = way

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Eight frames; fewer where there are fewer."""
        n = len(times_us)
        if self._way == "internvid":
            return stride_head(n, FRAMES) if n >= FRAMES else list(range(n))
        return interval_middle(n, FRAMES)

    def measure(self, case: Case) -> Measurement:
        """Score one video against its own prompt."""
        if not case.prompt.strip():
            return not_applicable("no_prompt")
        indices = self.plan(case.times_us)
        if self._way == "internvid" and len(indices) < FRAMES:
            return failed("fewer_than_8_frames")
        embedder = self._embedder()
        indices += [indices[-1]] * (FRAMES - len(indices))
        video = embedder.embed_video([case.frames[i] for i in indices], self._way)
        text = embedder.embed_texts([case.prompt])[0]
        tokens = embedder.tokens(case.prompt)
        vector = np.asarray(video, np.float64)
        return scored(
            text_score(vector, text),
            {"tokens": float(tokens), "tokens_lost": float(max(0, tokens - embedder.context))},
            {"mean_frame": vector, "text": text},
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Shuffled captions: the mean over all other prompts."""
        return other_prompts(peers)
