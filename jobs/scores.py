"""What samples of a training are worth: measures of ``packages/evals``, as the trainer asks.

The trainer knows no measure. Identity and text following stand beside the copying of references:
the first rises with the last, and only both together say what a network has learned.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2

from s2v.datapipe.base.assets import asset
from s2v.evals.encoders.production import Encoders
from s2v.evals.evaluator import make_evaluator
from s2v.evals.metrics import build, protocols
from s2v.evals.metrics.base import RefImage

if TYPE_CHECKING:
    from s2v.model.monitor import Evaluator, Sampled

#: Identity, text following, motion, and whether references are pasted.
SUITE = (
    "facesim.light.dlib,subjectsim.light.mobilenet.seg,text.light.conse,motion.light.farneback,copy"
)


def scorer(suite: str = SUITE) -> Evaluator:
    """Means over samples by protocol, and over those of each pair type.

    Args:
        suite: as for ``s2v-eval run --suite``.

    Returns:
        An evaluator. A measure that fails on a video is left out of that video and said on
        standard error: it does not end a training.

    Raises:
        AssetError: weights are missing; before the first step, not at the first sample.
    """
    for name in sorted({name for metric in build(suite) for name in metric.spec.assets}):
        asset(name)
    encoders = Encoders()
    together = make_evaluator(suite, encoders)
    single = {p: make_evaluator(p, encoders) for p in protocols(suite)}

    def scores_of(video: Sampled) -> dict[str, float]:
        given: dict[str, Any] = {
            "fps": video.fps,
            "prompt": video.prompt,
            "references": references_of(video),
        }
        try:  # at once, so that what several look at is made once
            return together(video.frames, **given)
        except (ValueError, cv2.error):
            scores: dict[str, float] = {}
        for protocol, measure in single.items():
            try:
                scores |= measure(video.frames, **given)
            except (ValueError, cv2.error) as error:
                print(f"scores: {video.id}: {protocol}: {error}", file=sys.stderr)
        return scores

    def evaluate(videos: Sequence[Sampled]) -> Mapping[str, float]:
        found: dict[str, list[float]] = defaultdict(list)
        for video in videos:
            scores = scores_of(video)
            for protocol in single.keys() & scores.keys():
                found[protocol].append(scores[protocol])
                found[f"{protocol}/{video.pair}"].append(scores[protocol])
        return {name: sum(values) / len(values) for name, values in sorted(found.items())}

    return evaluate


def references_of(video: Sampled) -> tuple[RefImage, ...]:
    """The references that a video was sampled from, as measures take them."""
    return tuple(
        RefImage(
            image=reference.crop,
            mask=reference.mask,
            phrase=said.phrase,
            is_face=said.scores.face_similarity is not None or said.class_ == "person",
        )
        for reference, said in zip(video.references, video.meta.refs, strict=False)
    )
