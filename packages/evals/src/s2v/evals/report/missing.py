"""What is not among the scores: what failed, and what a metric is not about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.evals.report.runs import Run

_MAX_FAILURES = 60


def failures(runs: Sequence[Run]) -> Markup:
    """What should have been scored and was not, counted and listed; what was not asked, counted."""
    return join(_failures(runs), _not_asked(runs))


def _not_asked(runs: Sequence[Run]) -> Markup | None:
    spared = Counter(
        (r["protocol"], r["reason"])
        for run in runs
        for r in run.rows
        if r["status"] == "not_applicable"
    )
    if not spared:
        return None
    rows: list[list[Content]] = [
        [element("code", protocol), reason, n] for (protocol, reason), n in sorted(spared.items())
    ]
    columns = ("protocol", "reason", "videos")
    return table(columns, rows, "Not asked, as the metric is not about them")


def _failures(runs: Sequence[Run]) -> Markup:
    rows = [(run, r) for run in runs for r in run.rows if r["status"] == "failed"]
    if not rows:
        return element("p", "Every sample that should have been scored was.")
    counts = Counter((r["protocol"], r["reason"]) for _, r in rows)
    summary: list[list[Content]] = [
        [element("code", protocol), reason, n] for (protocol, reason), n in sorted(counts.items())
    ]
    listed: list[list[Content]] = [
        [r["sample_id"], element("code", r["protocol"]), r["reason"], r["video"]]
        for _, r in rows[:_MAX_FAILURES]
    ]
    shown = f"The first {_MAX_FAILURES} of {len(rows)}" if len(rows) > len(listed) else "Each"
    return join(
        element("p", "They stay among the expected; failures.csv of the run has the messages."),
        table(("protocol", "reason", "videos"), summary, "By reason"),
        table(("sample", "protocol", "reason", "video"), listed, shown),
    )
