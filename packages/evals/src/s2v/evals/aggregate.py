"""From measurements to results: groups, intervals, chance levels, and who is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2v.evals import statistics
from s2v.evals.manifest import Sample
from s2v.evals.metrics.base import DIGITS, Measurement, Metric, MetricSpec, Peer
from s2v.evals.summary import Result


@dataclass(frozen=True)
class Row:
    """One metric on one sample.

    Attributes:
        sample: as in the manifest.
        spec: of the metric.
        measurement: what it said, or why it could not.
        baseline: its chance level, if there is one.
        video_sha256: None when the video could not be read.
        frames: of the video; None likewise.
        message: what a person needs to mend a failure.
    """

    sample: Sample
    spec: MetricSpec
    measurement: Measurement
    baseline: float | None = None
    video_sha256: str | None = None
    frames: int | None = None
    message: str = ""

    @property
    def rate(self) -> float | None:
        """The share of frames the score stands on."""
        return self.measurement.parts.get(self.spec.rate) if self.spec.rate else None


def group_of(sample: Sample) -> tuple[str, str]:
    """What is averaged together: one model's videos, or the real clips."""
    return sample.source, sample.made_by


def baselines(metric: Metric, rows: Sequence[Row]) -> list[float | None]:
    """Chance level of each row: its video against the other samples' references or prompts.

    Those of all groups are taken, real clips' too: what a stranger is does not depend on who
    made the video.

    Args:
        metric: whose rows these are.
        rows: of all samples, sorted by sample id.

    Returns:
        One level per row, rounded as scores are.
    """
    peers = [Peer(r.sample.reference_id, r.sample.prompt, r.measurement) for r in rows]
    return [
        None if level is None else round(level, DIGITS) + 0.0 for level in metric.baselines(peers)
    ]


def results(
    specs: Sequence[MetricSpec], rows: Sequence[Row], *, seed: int, replicates: int
) -> tuple[Result, ...]:
    """Results of every metric: whole groups, then slices by scenario.

    A slice is given only where a group has more than one scenario.

    Args:
        specs: in the order wanted.
        rows: of all metrics and samples.
        seed: of the bootstrap.
        replicates: B.
    """
    whole: list[Result] = []
    slices: list[Result] = []
    for spec in specs:
        mine = [row for row in rows if row.spec.protocol == spec.protocol]
        for group in sorted({group_of(row.sample) for row in mine}):
            members = [row for row in mine if group_of(row.sample) == group]
            whole.append(_result(spec, members, None, seed=seed, replicates=replicates))
            scenarios = sorted({r.sample.scenario for r in members if r.sample.scenario})
            if len(scenarios) > 1:
                slices.extend(
                    _result(
                        spec,
                        [r for r in members if r.sample.scenario == scenario],
                        scenario,
                        seed=seed,
                        replicates=replicates,
                    )
                    for scenario in scenarios
                )
    return (*whole, *slices)


def _result(
    spec: MetricSpec, rows: Sequence[Row], scenario: str | None, *, seed: int, replicates: int
) -> Result:
    sample = rows[0].sample
    good = [row for row in rows if row.measurement.score is not None]
    scores = np.array([row.measurement.score for row in good], dtype=np.float64)
    interval = None
    if good:
        clusters = [row.sample.reference_id for row in good]
        interval = (
            statistics.clustered_rate(scores, clusters)
            if spec.kind == "rate"
            else statistics.cluster_bootstrap(scores, clusters, seed=seed, replicates=replicates)
        )
    levels = [row.baseline for row in good if row.baseline is not None]
    rates = [row.rate for row in good if row.rate is not None]
    names = sorted({name for row in good for name in row.measurement.parts})
    reasons = Counter(r.measurement.reason for r in rows if r.measurement.status == "failed")
    skipped = Counter(
        r.measurement.reason for r in rows if r.measurement.status == "not_applicable"
    )
    return Result(
        protocol=spec.protocol,
        version=spec.version,
        source=sample.source,
        model=sample.made_by,
        scenario=scenario,
        mean=_rounded(interval.estimate if interval else None),
        ci_low=_rounded(_inside(spec, interval.low if interval else None)),
        ci_high=_rounded(_inside(spec, interval.high if interval else None)),
        interval=interval.method if interval else "none (nothing scored)",
        sd=_rounded(float(np.std(scores, ddof=1)) if scores.size > 1 else None),
        median=_rounded(float(np.median(scores)) if scores.size else None),
        n=len(good),
        clusters=interval.clusters if interval else 0,
        n_expected=len(rows) - sum(skipped.values()),
        failed=dict(sorted(reasons.items())),
        not_applicable=dict(sorted(skipped.items())),
        baseline=_rounded(float(np.mean(levels)) if levels else None),
        baseline_n=len(levels),
        rate=_rounded(float(np.mean(rates)) if rates else None),
        parts={name: round(float(np.mean(_part(good, name))), DIGITS) + 0.0 for name in names},
    )


def _part(rows: Sequence[Row], name: str) -> list[float]:
    """One companion of the samples that have it: confusion counts depend on the references."""
    return [r.measurement.parts[name] for r in rows if name in r.measurement.parts]


def _inside(spec: MetricSpec, end: float | None) -> float | None:
    """An end of an interval, not beyond what a mean of scores can be."""
    if end is None:
        return None
    return max(spec.low, end if spec.high is None else min(spec.high, end))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS) + 0.0
