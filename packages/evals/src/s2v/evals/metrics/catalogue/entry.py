"""What a catalogue holds: descriptions, each with how to make its metric."""

from __future__ import annotations

from collections.abc import Callable

from s2v.evals.encoders.production import Encoders
from s2v.evals.metrics.base import Metric, MetricSpec

Entry = tuple[MetricSpec, Callable[[MetricSpec, Encoders], Metric]]
"""A protocol and the function that makes it; no weights are loaded before the first measurement."""
