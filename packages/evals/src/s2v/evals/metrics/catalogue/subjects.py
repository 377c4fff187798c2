"""Protocols of subjects on whole frames and alone."""

from __future__ import annotations

from typing import Final

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.subject import SegmentedSubjectSimilarity, SubjectSimilarity

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

ENTRIES: tuple[Entry, ...] = (
    (SUBJECT, lambda spec, e: SubjectSimilarity(spec, lambda: e.image)),
    (
        SUBJECT_SEG,
        lambda spec, e: SegmentedSubjectSimilarity(spec, lambda: e.image, lambda: e.segmenter),
    ),
)
"""Light ones first, then those that need a user's weights."""
