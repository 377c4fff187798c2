"""Protocols of text alignment."""

from __future__ import annotations

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.text import TextAlignment

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

ENTRIES: tuple[Entry, ...] = ((TEXT, lambda spec, e: TextAlignment(spec, lambda: e.image_text)),)
"""Light ones first, then those that need a user's weights."""
