"""Two runs against each other: paired by reference, prompt and seed, metric by metric."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2v.evals import statistics
from s2v.evals.errors import EvalError
from s2v.evals.reference.protocols import PublishedColumn, beside
from s2v.evals.summary import MetricInfo, Summary, load_summary
from s2v.evals.write import load_rows

Key = tuple[str, str, int | None]
"""(reference_id, prompt, seed): what makes two videos a pair."""


@dataclass(frozen=True)
class Difference:
    """B - A for one metric.

    Attributes:
        metric: description.
        n: pairs.
        clusters: references among them.
        unpaired: scored videos of either run without a partner.
        mean_a: over the pairs.
        mean_b: over the pairs.
        difference: mean of B - A.
        ci_low: of the difference, 95 %.
        ci_high: likewise.
        p_value: sign-flip, two-sided.
        p_holm: adjusted over the metrics of this comparison.
        exact: all sign patterns were enumerated.
        detectable: difference that this many references would show with 80 % power.
    """

    metric: MetricInfo
    n: int
    clusters: int
    unpaired: int
    mean_a: float
    mean_b: float
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_value: float
    p_holm: float
    exact: bool
    detectable: float | None


@dataclass(frozen=True)
class Comparison:
    """Two runs compared.

    Attributes:
        model_a: whose videos A are.
        model_b: whose videos B are.
        partial: one of the runs left samples out.
        differences: metrics with the same protocol and version in both, with pairs.
        skipped: protocol -> why it was not compared.
        published: protocol -> published columns that it follows; nothing is tested against them.
    """

    model_a: str
    model_b: str
    partial: bool
    differences: tuple[Difference, ...]
    skipped: dict[str, str]
    published: dict[str, tuple[PublishedColumn, ...]]


def compare(
    a: str | Path,
    b: str | Path,
    *,
    model_a: str | None = None,
    model_b: str | None = None,
    seed: int = 0,
    replicates: int = statistics.REPLICATES,
) -> Comparison:
    """Compare the generated videos of two finished runs.

    Args:
        a: folder of the first run.
        b: folder of the second; may be the same one when it holds two models.
        model_a: which model of A; needed when A holds several.
        model_b: likewise.
        seed: of bootstrap and sign patterns.
        replicates: of both.

    Raises:
        EvalError: not a finished run; several models and none chosen; an unknown model; nothing
            in common.
    """
    summaries = load_summary(a), load_summary(b)
    tables = [load_rows(folder) for folder in (a, b)]
    names = [
        _model(table, folder, wanted, option)
        for table, folder, wanted, option in (
            (tables[0], a, model_a, "--model-a"),
            (tables[1], b, model_b, "--model-b"),
        )
    ]
    skipped = _unlike(*summaries)
    scores = [_scores(t, n) for t, n in zip(tables, names, strict=True)]
    found: list[tuple[MetricInfo, statistics.PairedTest, dict[str, Any]]] = []
    for info in summaries[0].metrics:
        if info.protocol in skipped:
            continue
        first, second = (s.get(info.protocol, {}) for s in scores)
        keys = sorted(set(first) & set(second), key=lambda k: (k[0], k[1], k[2] is None, k[2] or 0))
        if not keys:
            skipped[info.protocol] = "no pair of videos with the same reference, prompt and seed"
            continue
        pair = [first[k] for k in keys], [second[k] for k in keys]
        test = statistics.paired_difference(
            *pair, [k[0] for k in keys], seed=seed, replicates=replicates
        )
        means = {
            "mean_a": float(np.mean(pair[0])),
            "mean_b": float(np.mean(pair[1])),
            "unpaired": len(set(first) ^ set(second)),
        }
        found.append((info, test, means))
    if not found:
        reasons = "; ".join(f"{k}: {v}" for k, v in skipped.items())
        raise EvalError(f"{a} and {b} have nothing to compare: {reasons}")
    adjusted = statistics.holm({info.protocol: test.p_value for info, test, _ in found})
    return Comparison(
        model_a=names[0],
        model_b=names[1],
        partial=any(s.partial for s in summaries),
        differences=tuple(
            Difference(
                metric=info,
                n=test.difference.n,
                clusters=test.difference.clusters,
                difference=test.difference.estimate,
                ci_low=_possible(info, test.difference.low),
                ci_high=_possible(info, test.difference.high),
                p_value=test.p_value,
                p_holm=adjusted[info.protocol],
                exact=test.exact,
                detectable=test.mde,
                **means,
            )
            for info, test, means in found
        ),
        skipped=skipped,
        published={
            info.protocol: columns for info, _, _ in found if (columns := beside(info.protocol))
        },
    )


def _possible(info: MetricInfo, end: float | None) -> float | None:
    """An end of a difference's interval, not beyond the range that a difference can have."""
    if end is None or info.high is None:
        return end
    span = info.high - info.low
    return min(span, max(-span, end))


def _model(
    rows: Sequence[dict[str, Any]], folder: str | Path, wanted: str | None, option: str
) -> str:
    models = sorted({row["model"] for row in rows if row["source"] == "generated"})
    if wanted is not None:
        if wanted not in models:
            raise EvalError(f"{folder}: no generated videos of {wanted!r}, only of {models}")
        return wanted
    if len(models) != 1:
        raise EvalError(f"{folder}: holds videos of {models}; choose one with {option}")
    return str(models[0])


def _unlike(a: Summary, b: Summary) -> dict[str, str]:
    """Protocols that only one run has, or that were computed by different versions."""
    versions = [{m.protocol: m.version for m in s.metrics} for s in (a, b)]
    skipped = {}
    for protocol in sorted({*versions[0], *versions[1]}):
        first, second = (v.get(protocol) for v in versions)
        if first is None or second is None:
            skipped[protocol] = "only in " + ("B" if first is None else "A")
        elif first != second:
            skipped[protocol] = f"version {first} in A, {second} in B: not the same number"
    return skipped


def _scores(rows: Sequence[dict[str, Any]], model: str) -> dict[str, dict[Key, float]]:
    """Protocol -> pair key -> score; several videos of one key are averaged."""
    collected: dict[str, dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["source"] == "generated" and row["model"] == model and row["score"] is not None:
            key = (row["reference_id"], row["prompt"], row["seed"])
            collected[row["protocol"]][key].append(row["score"])
    return {
        protocol: {key: float(np.mean(values)) for key, values in by_key.items()}
        for protocol, by_key in collected.items()
    }
