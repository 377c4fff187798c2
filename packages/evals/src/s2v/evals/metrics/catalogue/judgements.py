"""Protocols that ask a model; in no suite."""

from __future__ import annotations

from dataclasses import replace

from s2v.evals.metrics.base import MetricSpec
from s2v.evals.metrics.catalogue.entry import Entry
from s2v.evals.metrics.judged import NATURAL, STRUCTURE, Judged

JUDGED_STRUCTURE = MetricSpec(
    protocol="judged.structure@endpoint",
    version=1,
    family="judged",
    title="Structure (judged)",
    unit="1-5",
    low=1.0,
    high=5.0,
    direction="higher",
    citation="ours, in place of Phantom's undescribed structure score; 16 frames, three answers",
    licence="of the model that is asked",
    caveat="a declared proxy; a judge's taste, comparable only with the same model's answers",
    judge=True,
    uses_references=False,
)
JUDGED_NATURAL = replace(
    JUDGED_STRUCTURE,
    protocol="judged.natural@endpoint",
    title="Naturalness (judged)",
    citation="after OpenS2V's NaturalScore (arXiv 2505.20292): its frames, scale and three answers",
    caveat="not OpenS2V's number: another wording and another model; comparable only with the "
    "same model's answers",
)

ENTRIES: tuple[Entry, ...] = (
    (JUDGED_STRUCTURE, lambda spec, e: Judged(spec, lambda: e.judge, STRUCTURE)),
    (JUDGED_NATURAL, lambda spec, e: Judged(spec, lambda: e.judge, NATURAL)),
)
"""All need an endpoint of the user's."""
