"""Protocols of motion."""

from __future__ import annotations

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.motion import DynamicRate, MotionMagnitude

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

ENTRIES: tuple[Entry, ...] = (
    (MOTION, lambda spec, _: MotionMagnitude(spec)),
    (DYNAMIC, lambda spec, _: DynamicRate(spec)),
)
"""Light ones first, then those that need a user's weights."""
