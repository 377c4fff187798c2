"""Finished runs as the report reads them: summaries, rows, previews, and whose videos are whose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from s2v.evals import previews
from s2v.evals.errors import EvalError
from s2v.evals.summary import MetricInfo, Result, Summary, load_summary
from s2v.evals.write import RECORD_SCHEMA, load_rows

Row = dict[str, Any]
"""One row of ``per_sample.parquet``."""
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: of the run.
        summary: its numbers.
        rows: one per sample and metric, as stored.
        pictures: previews, by sample.
        about: ``weights`` and ``packages`` of ``run.json``.
    """

    folder: Path
    summary: Summary
    rows: tuple[Row, ...]
    pictures: previews.Index
    about: dict[str, Any]

    @staticmethod
    def load(folder: str | Path) -> Run:
        """Read a run.

        Raises:
            EvalError: not a finished run, or one of its files is damaged.
        """
        where = Path(folder)
        summary = load_summary(where)
        rows = load_rows(where)
        known = {metric_key(info) for info in summary.metrics}
        if strange := sorted({row_key(row) for row in rows} - known):
            raise EvalError(
                f"{where}: per_sample.parquet holds {strange[0]} and summary.json does not; they "
                "are of two runs: run the evaluation again"
            )
        return Run(where, summary, tuple(rows), previews.load(where), _about(where / "run.json"))

    def picture(self, name: str) -> bytes | None:
        """A preview's bytes, or None when it is gone or no picture any more."""
        try:
            data = (self.folder / previews.FOLDER / name).read_bytes()
        except OSError:
            return None
        return data if data.startswith(_JPEG) else None


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["schema"] != RECORD_SCHEMA:
            raise ValueError(f"schema {about['schema']!r}")
        # What the page shows of it; copied, so that nothing else is relied on.
        return {key: dict(about[key]) for key in ("weights", "packages")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EvalError(f"{path}: cannot be read: {error}; run the evaluation again") from error


@dataclass(frozen=True)
class Method:
    """Videos that are averaged together: one model of one run, or its real clips.

    Attributes:
        label: unique on the page.
        run: they were scored in.
        model: as in the manifest.
        source: ``generated`` or ``real``.
    """

    label: str
    run: Run
    model: str
    source: str

    @property
    def is_real(self) -> bool:
        """The ceiling, not a model."""
        return self.source == "real"

    def results(self, scenario: str | None = None) -> dict[str, Result]:
        """Key of the metric -> result, of all samples or of a slice."""
        return {
            metric_key(r): r
            for r in self.run.summary.results
            if (r.source, r.model, r.scenario) == (self.source, self.model, scenario)
        }

    @cached_property
    def scenarios(self) -> list[str]:
        """Slices that have results of their own."""
        return sorted(
            {
                r.scenario
                for r in self.run.summary.results
                if (r.source, r.model) == (self.source, self.model) and r.scenario is not None
            }
        )

    @cached_property
    def rows(self) -> list[Row]:
        """Its rows."""
        return [r for r in self.run.rows if (r["source"], r["model"]) == (self.source, self.model)]


def run_name(run: Run, runs: Sequence[Run]) -> str:
    """Its folder's name where there are several; a page of one run is the same wherever it lies."""
    return run.folder.resolve().name if len(runs) > 1 else "This run"


def metric_key(one: Result | MetricInfo) -> str:
    """Protocol and version: what makes two numbers the same kind of number."""
    return f"{one.protocol} v{one.version}"


def row_key(row: Row) -> str:
    """`metric_key` of a row."""
    return f"{row['protocol']} v{row['version']}"


def methods(runs: Sequence[Run]) -> list[Method]:
    """Models first, in the order of the runs, then real clips.

    A name that several runs have gets its run's folder behind it.
    """
    found = [
        (run, r.model, r.source) for run in runs for r in run.summary.results if r.scenario is None
    ]
    unique = list(dict.fromkeys((run.folder, model, source) for run, model, source in found))
    by_folder = {run.folder: run for run in runs}
    named = Counter((model, source) for _, model, source in unique)
    made = []
    for folder, model, source in unique:
        label = f"{model} (ceiling)" if source == "real" else model
        if named[model, source] > 1:
            label += f" · {folder.resolve().name}"
        made.append(Method(label, by_folder[folder], model, source))
    labels = Counter(m.label for m in made)
    made = [
        Method(f"{m.label} · run {runs.index(m.run) + 1}", m.run, m.model, m.source)
        if labels[m.label] > 1
        else m
        for m in made
    ]
    return sorted(made, key=lambda m: m.is_real)


def metrics(runs: Sequence[Run]) -> dict[str, MetricInfo]:
    """Key -> description, in suite order, of all runs; versions are metrics of their own."""
    found: dict[str, MetricInfo] = {}
    for run in runs:
        for info in run.summary.metrics:
            found.setdefault(metric_key(info), info)
    return found
