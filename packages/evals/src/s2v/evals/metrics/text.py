"""Text alignment: does the video show what the prompt says.

The published measure (ViCLIP-T, InternVideo) is one video-text cosine x 100, unclamped. No such
network comes in an openly redistributable package, so the light protocol takes the mean over
eight frames of ConSE: an image is the sum of the sentence embeddings of what a tagger and a
detector name in it, weighted by their confidence (Norouzi et al. 2013). It knows nouns; it is
not CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from s2v.evals.encoders import ImageTextEmbedder
from s2v.evals.frames import Sampler, interval_middle
from s2v.evals.metrics.base import Case, Measurement, MetricSpec, Peer, not_applicable, scored

FRAMES = 8
SCALE = 100.0


def text_score(mean_frame: npt.ArrayLike, text: npt.ArrayLike, scale: float = SCALE) -> float:
    """The mean cosine of the frames to the text, times a scale.

    Args:
        mean_frame: (D,) mean of unit frame vectors; the mean of cosines is linear in it.
        text: (D,) of unit length.
        scale: 100 as tables print it, 1 for the cosine itself.
    """
    frame = np.asarray(mean_frame, dtype=np.float64)
    return scale * float(frame @ np.asarray(text, dtype=np.float64))


class TextAlignment:
    """Mean frame-text cosine over sampled frames, by default x 100 over eight interval middles.

    Args:
        spec: of the protocol.
        embedder: makes the image-text embedder at first use.
        sampler: which frames.
        frames: how many are asked for.
        scale: of the cosine.
    """

    def __init__(
        self,
        spec: MetricSpec,
        embedder: Callable[[], ImageTextEmbedder],
        sampler: Sampler = interval_middle,
        frames: int = FRAMES,
        *,
        scale: float = SCALE,
    ) -> None:
        self.spec = spec
        self._embedder = embedder
        self._sampler = sampler
        self._frames = frames
        self._scale = scale

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """The sampler's frames."""
        return self._sampler(len(times_us), self._frames)

    def measure(self, case: Case) -> Measurement:
        """Score one video against its own prompt."""
        if not case.prompt.strip():
            return not_applicable("no_prompt")
        embedder = self._embedder()
        frames = embedder.embed_images([case.frames[i] for i in self.plan(case.times_us)])
        text = embedder.embed_texts([case.prompt])[0]
        mean_frame = frames.astype(np.float64).mean(axis=0)
        score = text_score(mean_frame, text, self._scale)
        return scored(score, {}, {"mean_frame": mean_frame, "text": text})

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """Shuffled captions: the mean over all other prompts."""
        return other_prompts(peers, self._scale)


def other_prompts(peers: Sequence[Peer], scale: float = SCALE) -> list[float | None]:
    """Shuffled captions, without the luck of one shuffle: the mean over all *other* prompts.

    Unrelated videos and texts score well above zero (ViCLIP: about 20 of 100), so the distance
    from this level is what carries meaning.
    """
    texts = {
        p.prompt: p.measurement.array("text")[0] for p in peers if p.measurement.status == "scored"
    }
    levels: list[float | None] = []
    for peer in peers:
        others = [texts[k] for k in sorted(texts) if k != peer.prompt]
        if peer.measurement.status != "scored" or not others:
            levels.append(None)
            continue
        frame = peer.measurement.array("mean_frame")[0]
        levels.append(float(np.mean([text_score(frame, other, scale) for other in others])))
    return levels
