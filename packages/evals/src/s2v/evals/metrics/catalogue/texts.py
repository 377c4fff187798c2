"""Protocols of text alignment."""

from __future__ import annotations

from dataclasses import replace

from s2v.evals.frames import linspace_inclusive
from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.text import TextAlignment
from s2v.evals.metrics.video_text import VideoTextAlignment

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

VICLIP_INTERNVID = MetricSpec(
    protocol="viclip-t@internvid",
    version=1,
    family="text",
    title="ViCLIP-T (InternVid's preprocessing)",
    unit="cosine x100",
    low=-100.0,
    high=100.0,
    direction="higher",
    citation="arXiv 2502.11079 table 1; InternVid (arXiv 2307.06942), its demo: 8 frames, squashed",
    licence="InternVideo code Apache-2.0; ports of the weights are tagged CC-BY-NC-SA-4.0",
    caveat="Phantom does not say which preprocessing it used; unrelated pairs score about 20, read "
    "it against its baseline; a prompt beyond 32 tokens loses its tail",
    local=("viclip",),
    uses_prompt=True,
    uses_references=False,
)
VICLIP_VBENCH = replace(
    VICLIP_INTERNVID,
    protocol="viclip-t@vbench",
    title="ViCLIP-T (VBench's preprocessing)",
    citation="VBench overall consistency (arXiv 2311.17982): 8 interval middles, middle square",
)

GME = replace(
    VICLIP_INTERNVID,
    protocol="gme-score@gme-qwen2-vl.opens2v",
    title="GmeScore (OpenS2V)",
    unit="cosine",
    low=-1.0,
    high=1.0,
    citation="arXiv 2505.20292 (OpenS2V-Eval): GME-Qwen2-VL-7B (arXiv 2412.16855), mean over 32 "
    "frames, OpenS2V's instruction",
    licence="GME and Qwen2-VL Apache-2.0 (code and weights of 2B and 7B)",
    caveat="the leaderboard's is of the 7B release in half precision on a GPU; reads 1800 tokens "
    "of a prompt; the network was not run with its real weights here",
    local=("gme",),
)

ENTRIES: tuple[Entry, ...] = (
    (TEXT, lambda spec, e: TextAlignment(spec, lambda: e.image_text)),
    (VICLIP_INTERNVID, lambda s, e: VideoTextAlignment(s, lambda: e.viclip, "internvid")),
    (VICLIP_VBENCH, lambda s, e: VideoTextAlignment(s, lambda: e.viclip, "vbench")),
    (
        GME,
        lambda s, e: TextAlignment(s, lambda: e.gme, linspace_inclusive, 32, scale=1.0),
    ),
)
"""Light ones first, then those that need a user's weights."""
