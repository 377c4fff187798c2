"""Protocols of copying: is the reference pasted."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.copying import Background, Leak, Paste, Pose

_COPY: Final = "arXiv 2506.18851 (Phantom-Data) names copying; the measure is ours"
PASTE = MetricSpec(
    protocol="copy.light.paste",
    version=1,
    family="copy",
    title="Pasted reference (masked correlation)",
    unit="correlation",
    low=0.0,
    high=1.0,
    direction="lower",
    citation=_COPY,
    licence="none needed (OpenCV); U2-Net-p Apache-2.0 where a reference has no mask",
    caveat="0 is no aim: read it beside real cross-pairs, which show the subject and copy nothing",
    assets=("u2netp",),
)
LEAK = replace(
    PASTE,
    protocol="copy.light.leak",
    title="Pasted reference, most copied frame",
    caveat="from about 0.8 on a frame holds the reference as an image; real cross-pairs of the "
    "sample film lie at 0.45 to 0.8",
)
POSE = MetricSpec(
    protocol="copy.light.pose",
    version=1,
    family="copy",
    title="Copied pose (overlap of outlines)",
    unit="IoU",
    low=0.0,
    high=1.0,
    direction="lower",
    citation=_COPY,
    licence="U2-Net-p Apache-2.0",
    caveat="outlines of unrelated subjects overlap by about a half: read it against its baseline",
    rate="seg_rate",
    assets=("u2netp",),
)
BACKGROUND = MetricSpec(
    protocol="copy.light.background",
    version=1,
    family="copy",
    title="Copied background (MobileNetV2 around the subject)",
    unit="cosine",
    low=-1.0,
    high=1.0,
    direction="lower",
    citation=_COPY,
    licence="BSD-3-Clause (torchvision); U2-Net-p Apache-2.0",
    caveat="only for references that show a background; read it against its baseline",
    assets=("mobilenet-v2", "u2netp"),
)

ENTRIES: tuple[Entry, ...] = (
    (PASTE, lambda spec, e: Paste(spec, lambda: e.segmenter)),
    (LEAK, lambda spec, e: Leak(spec, lambda: e.segmenter)),
    (POSE, lambda spec, e: Pose(spec, lambda: e.segmenter)),
    (BACKGROUND, lambda spec, e: Background(spec, lambda: e.segmenter, lambda: e.image)),
)
"""None needs a user's weights."""
