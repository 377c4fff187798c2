"""The protocols this package can compute, and the suites that group them."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from s2v.evals.encoders.embedded import LightEncoders
from s2v.evals.errors import EvalError
from s2v.evals.metrics.base import Metric, MetricSpec
from s2v.evals.metrics.copying import Background, Paste, Pose
from s2v.evals.metrics.face import FaceSimilarity, cosine, one_minus_distance
from s2v.evals.metrics.motion import DynamicRate, MotionMagnitude
from s2v.evals.metrics.subject import SegmentedSubjectSimilarity, SubjectSimilarity
from s2v.evals.metrics.text import TextAlignment

_FACE = "arXiv 2411.17440 (ConsisID), arXiv 2502.11079 table 1: largest face, zeros kept"
_SUBJECT = "arXiv 2502.11079 table 2 (ten uniform frames against the reference)"

FACESIM_DLIB = MetricSpec(
    protocol="facesim.light.dlib",
    version=1,
    family="face",
    title="Face similarity (dlib)",
    unit="1 - distance",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=_FACE,
    licence="YuNet MIT; dlib ResNet-29 and 5-point predictor CC0",
    caveat="not ArcFace: never beside FaceSim-Arc, -Cur or -glink; 0.5 to 0.8 for one person, "
    "under 0.2 for strangers",
    rate="face_rate",
    assets=("yunet", "dlib-face"),
)
FACESIM_SFACE = MetricSpec(
    protocol="facesim.light.sface",
    version=1,
    family="face",
    title="Face similarity (SFace)",
    unit="cosine",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=_FACE,
    licence="YuNet MIT; SFace Apache-2.0",
    caveat="the embedded curation selects pairs with the same network: dlib is the independent one",
    rate="face_rate",
    assets=("yunet", "sface"),
)
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
TEXT = MetricSpec(
    protocol="text.light.conse",
    version=1,
    family="text",
    title="Text alignment (ConSE)",
    unit="cosine x100",
    low=-100.0,
    high=100.0,
    direction="higher",
    citation="Norouzi et al. 2013 (ConSE); mean over 8 frames in place of ViCLIP's video vector",
    licence="EfficientNet-Lite3 and SSD-MobileNet Apache-2.0 (unverified); MiniLM Apache-2.0",
    caveat="not ViCLIP-T; knows ImageNet's and COCO's nouns, not actions; read it against its "
    "baseline",
    assets=("efficientnet-lite3", "ssd-mobilenet-v2", "minilm"),
    uses_prompt=True,
    uses_references=False,
)
MOTION = MetricSpec(
    protocol="motion.light.farneback",
    version=1,
    family="motion",
    title="Motion magnitude (Farneback)",
    unit="frame heights/s",
    low=0.0,
    high=None,
    direction="neither",
    citation="mean |flow|; compare OpenS2V's signed MotionAmplitude (arXiv 2505.20292)",
    licence="none needed (OpenCV)",
    caveat="flicker and noise count as motion; more is not better, near the real clips is",
    uses_references=False,
)
DYNAMIC = MetricSpec(
    protocol="dynamic.light.farneback",
    version=1,
    family="motion",
    title="Dynamic rate (Farneback)",
    unit="share of videos",
    low=0.0,
    high=1.0,
    direction="neither",
    citation="VBench dynamic degree (arXiv 2311.17982) with Farneback in place of RAFT",
    licence="none needed (OpenCV)",
    caveat="not VBench's number: Farneback sees less motion than RAFT in flat regions",
    kind="rate",
    uses_references=False,
)
_COPY = "arXiv 2506.18851 (Phantom-Data) names copying; the measure is ours"
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

_METRICS: dict[str, tuple[MetricSpec, Callable[[MetricSpec, LightEncoders], Metric]]] = {
    spec.protocol: (spec, make)
    for spec, make in (
        (
            FACESIM_DLIB,
            lambda spec, e: FaceSimilarity(
                spec, lambda: e.face_detector, lambda: e.dlib_face, one_minus_distance
            ),
        ),
        (
            FACESIM_SFACE,
            lambda spec, e: FaceSimilarity(spec, lambda: e.face_detector, lambda: e.sface, cosine),
        ),
        (SUBJECT, lambda spec, e: SubjectSimilarity(spec, lambda: e.image)),
        (
            SUBJECT_SEG,
            lambda spec, e: SegmentedSubjectSimilarity(spec, lambda: e.image, lambda: e.segmenter),
        ),
        (TEXT, lambda spec, e: TextAlignment(spec, lambda: e.image_text)),
        (MOTION, lambda spec, _: MotionMagnitude(spec)),
        (DYNAMIC, lambda spec, _: DynamicRate(spec)),
        (PASTE, lambda spec, e: Paste(spec, lambda: e.segmenter)),
        (POSE, lambda spec, e: Pose(spec, lambda: e.segmenter)),
        (BACKGROUND, lambda spec, e: Background(spec, lambda: e.segmenter, lambda: e.image)),
    )
}

SUITES: dict[str, tuple[str, ...]] = {
    "light": tuple(p for p in _METRICS if not p.startswith("copy.")),
    "faces": (FACESIM_DLIB.protocol, FACESIM_SFACE.protocol),
    "motion": (MOTION.protocol, DYNAMIC.protocol),
    "copy": (PASTE.protocol, POSE.protocol, BACKGROUND.protocol),
}
"""Named groups of protocols; all of them run without hub weights.

``light`` asks how good a video is, ``copy`` whether it pastes its references."""


def specs() -> list[MetricSpec]:
    """Every protocol's description, in suite order."""
    return [spec for spec, _ in _METRICS.values()]


def protocols(suite: str) -> tuple[str, ...]:
    """Protocol ids of a suite, or of a comma-separated list of suites and protocols.

    Raises:
        EvalError: a name that is neither; the nearest known one is named.
    """
    wanted: list[str] = []
    for name in (part.strip() for part in suite.split(",")):
        if name in SUITES:
            wanted.extend(SUITES[name])
        elif name in _METRICS:
            wanted.append(name)
        else:
            known = [*SUITES, *_METRICS]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise EvalError(f"no suite or metric called {name!r}; {hint}")
    return tuple(p for p in _METRICS if p in wanted)


def build(suite: str, encoders: LightEncoders | None = None) -> list[Metric]:
    """The metrics of a suite; no weights are loaded before the first measurement.

    Args:
        suite: as for `protocols`.
        encoders: shared by all metrics; by default the embedded ones.

    Raises:
        EvalError: unknown suite or metric.
    """
    shared = encoders or LightEncoders()
    return [_METRICS[name][1](_METRICS[name][0], shared) for name in protocols(suite)]
