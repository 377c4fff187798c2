"""Protocols of subjects on whole frames and alone."""

from __future__ import annotations

from typing import Final

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.subject import FRAMES, SegmentedSubjectSimilarity, SubjectSimilarity

_SUBJECT: Final = "arXiv 2502.11079 table 2 (ten uniform frames against the reference)"

SUBJECT = MetricSpec(
    protocol="subjectsim.light.mobilenet",
    version=1,
    family="subject",
    title="Subject similarity, whole frame (MobileNetV2)",
    unit="cosine",
    low=-1.0,
    high=1.0,
    direction="higher",
    citation=_SUBJECT,
    licence="BSD-3-Clause (torchvision)",
    caveat="not CLIP-I or DINO-I; unrelated images score around 0.6, read it against its baseline",
    assets=("mobilenet-v2",),
)
SUBJECT_SEG = MetricSpec(
    protocol="subjectsim.light.mobilenet.seg",
    version=1,
    family="subject",
    title="Subject similarity, segmented (MobileNetV2, U2-Net-p)",
    unit="cosine",
    low=-1.0,
    high=1.0,
    direction="higher",
    citation=_SUBJECT + ", -Seg; saliency in place of grounded segmentation, five frames",
    licence="BSD-3-Clause (torchvision); U2-Net-p Apache-2.0",
    caveat="segments what stands out, which need not be the named subject",
    rate="seg_rate",
    assets=("mobilenet-v2", "u2netp"),
)


def _published(
    protocol: str, title: str, local: str, licence: str, caveat: str, *, segmented: bool = False
) -> MetricSpec:
    return MetricSpec(
        protocol=protocol,
        version=1,
        family="subject",
        title=title,
        unit="cosine",
        low=-1.0,
        high=1.0,
        direction="higher",
        citation=_SUBJECT,
        licence=licence,
        caveat=caveat,
        rate="seg_rate" if segmented else None,
        assets=("u2netp",) if segmented else (),
        local=(local,),
    )


_CLIP: Final = "open_clip MIT; OpenAI's CLIP weights MIT, LAION's MIT, others as their cards say"
_DINO: Final = "DINOv2 Apache-2.0 (code and weights)"
_WHICH: Final = "Phantom names the paper and not the checkpoint: the digest says which one"
_SALIENT: Final = (
    "; the subject is what stands out (U2-Net-p), where Phantom grounds and segments the named one"
)
CLIP_I = _published("clip-i@open_clip", "CLIP-I", "open_clip", _CLIP, _WHICH)
DINO_I = _published("dino-i@dinov2", "DINO-I", "dinov2", _DINO, _WHICH)
CLIP_I_SEG = _published(
    "clip-i.seg@open_clip+u2netp", "CLIP-I-Seg", "open_clip", f"{_CLIP}; U2-Net-p Apache-2.0",
    _WHICH + _SALIENT, segmented=True,
)  # fmt: skip
DINO_I_SEG = _published(
    "dino-i.seg@dinov2+u2netp", "DINO-I-Seg", "dinov2", f"{_DINO}; U2-Net-p Apache-2.0",
    _WHICH + _SALIENT, segmented=True,
)  # fmt: skip

ENTRIES: tuple[Entry, ...] = (
    (SUBJECT, lambda spec, e: SubjectSimilarity(spec, lambda: e.image)),
    (
        SUBJECT_SEG,
        lambda spec, e: SegmentedSubjectSimilarity(spec, lambda: e.image, lambda: e.segmenter),
    ),
    (CLIP_I, lambda spec, e: SubjectSimilarity(spec, lambda: e.open_clip)),
    (DINO_I, lambda spec, e: SubjectSimilarity(spec, lambda: e.dinov2)),
    (
        CLIP_I_SEG,
        lambda spec, e: SegmentedSubjectSimilarity(
            spec, lambda: e.open_clip, lambda: e.segmenter, frames=FRAMES
        ),
    ),
    (
        DINO_I_SEG,
        lambda spec, e: SegmentedSubjectSimilarity(
            spec, lambda: e.dinov2, lambda: e.segmenter, frames=FRAMES
        ),
    ),
)
"""Light ones first, then those that need a user's weights."""
