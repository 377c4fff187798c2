"""What a run found, in a form that is stored, shown and read back.

``summary.json`` carries a schema version; a reader that does not know it refuses instead of
guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2v.evals import reference
from s2v.evals.errors import EvalError
from s2v.evals.manifest import Source, explain
from s2v.evals.metrics.base import MetricSpec

SUMMARY_FILE = "summary.json"
SCHEMA: Literal["s2v-eval-summary/1"] = "s2v-eval-summary/1"


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricInfo(_Stored):
    """A metric's description as stored with its numbers; fields as in `MetricSpec`."""

    protocol: str
    version: int
    family: str
    title: str
    unit: str
    low: float
    high: float | None
    direction: Literal["higher", "lower", "neither"]
    kind: Literal["mean", "rate"]
    rate: str | None
    citation: str
    licence: str
    caveat: str

    @staticmethod
    def of(spec: MetricSpec) -> MetricInfo:
        """The stored part of a spec."""
        return MetricInfo(**{k: getattr(spec, k) for k in MetricInfo.model_fields})


class Result(_Stored):
    """One metric over one group of samples.

    Attributes:
        protocol: metric, with ``version``.
        source: ``generated``, or ``real`` for the ceiling.
        model: what made the videos.
        scenario: slice, or None for all.
        mean: of the scored videos; None when none was.
        ci_low: lower end of the 95 % interval; None where it cannot be known.
        ci_high: upper end.
        interval: how the interval was made.
        sd: standard deviation over videos (ddof 1); None below two.
        median: over videos.
        n: videos scored.
        clusters: distinct references among them.
        n_expected: videos that should have been scored.
        failed: reason -> videos that should have been scored and were not.
        not_applicable: reason -> videos the metric is not about.
        baseline: mean chance level of the scored videos that have one.
        baseline_n: how many have one.
        rate: mean share of frames the scores stand on (face or segmentation rate).
        parts: means of the metric's companions.
    """

    protocol: str
    version: int
    source: Source
    model: str
    scenario: str | None
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    interval: str
    sd: float | None
    median: float | None
    n: int
    clusters: int
    n_expected: int
    failed: dict[str, int]
    not_applicable: dict[str, int]
    baseline: float | None
    baseline_n: int
    rate: float | None
    parts: dict[str, float]


class Published(_Stored):
    """Other people's figures, by other protocols; see `s2v.evals.reference`."""

    notice: str
    rows: tuple[dict[str, str | float], ...]


class Bootstrap(_Stored):
    """How the intervals were made."""

    unit: Literal["reference_id"] = "reference_id"
    seed: int
    replicates: int
    confidence: float


class Summary(_Stored):
    """The result of one run.

    Attributes:
        schema_version: ``schema`` in the file.
        partial: ``--limit`` left samples out: not a result to publish.
        suite: as asked for.
        n_samples: in the run.
        n_manifest: in the manifest.
        manifest_sha256: of the manifest file.
        config_sha256: of everything that decides the numbers but the media.
        bootstrap: of the intervals.
        metrics: descriptions, in suite order.
        results: whole groups first, then scenario slices; in suite order, generated before real.
        published: shown apart, never compared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)

    schema_version: Literal["s2v-eval-summary/1"] = Field(default=SCHEMA, alias="schema")
    partial: bool
    suite: str
    n_samples: int
    n_manifest: int
    manifest_sha256: str
    config_sha256: str
    bootstrap: Bootstrap
    metrics: tuple[MetricInfo, ...]
    results: tuple[Result, ...]
    published: Published

    def info(self, protocol: str) -> MetricInfo:
        """Description of a metric of this run."""
        return next(m for m in self.metrics if m.protocol == protocol)

    def table(self, scenario: str | None = None) -> list[dict[str, Any]]:
        """Rows for a report, one per metric and group.

        Args:
            scenario: slice to show; None for all samples.

        Returns:
            Dicts with ``metric, protocol, unit, direction, caveat, source, model, mean, ci_low,
            ci_high, n, n_expected, clusters, rate_name, rate, baseline``. ``source`` is
            ``generated`` or ``real (ceiling)``. Figures are floats or None, not formatted.
        """
        rows = []
        for r in self.results:
            if r.scenario != scenario:
                continue
            info = self.info(r.protocol)
            rows.append(
                {
                    "metric": info.title,
                    "protocol": r.protocol,
                    "unit": info.unit,
                    "direction": info.direction,
                    "caveat": info.caveat,
                    "source": "real (ceiling)" if r.source == "real" else "generated",
                    "model": r.model,
                    "mean": r.mean,
                    "ci_low": r.ci_low,
                    "ci_high": r.ci_high,
                    "n": r.n,
                    "n_expected": r.n_expected,
                    "clusters": r.clusters,
                    "rate_name": info.rate,
                    "rate": r.rate,
                    "baseline": r.baseline,
                }
            )
        return rows

    def published_table(self) -> list[dict[str, str | float]]:
        """Published rows of the same families; print ``published.notice`` above them."""
        return [dict(row) for row in self.published.rows]

    def to_json(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        return self.model_dump(mode="json", by_alias=True)


def published_block(families: Sequence[str]) -> Published:
    """The published rows that ask what these families of metrics ask."""
    unique = list(dict.fromkeys(families))
    rows = [{"family": f, **asdict(row)} for f in unique for row in reference.related(f)]
    return Published(notice=reference.NOTICE, rows=tuple(rows))


def load_summary(folder: str | Path) -> Summary:
    """Read ``summary.json`` of a finished run.

    Raises:
        EvalError: no such file, another schema version, or a broken file.
    """
    path = Path(folder) / SUMMARY_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EvalError(
            f"{path}: {error.strerror}; `s2v-eval run MANIFEST --out {folder}` writes it"
        ) from error
    except UnicodeDecodeError as error:
        raise EvalError(f"{path}: damaged ({error.reason}); run the evaluation again") from error
    try:
        return Summary.model_validate_json(text)
    except ValidationError as error:
        raise EvalError(
            f"{path}: not a summary of this version: {explain(error)}; run the evaluation again"
        ) from error
