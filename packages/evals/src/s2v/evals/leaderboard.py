"""Published tables and our own runs, each protocol in its own column.

Published figures come without intervals, because nobody published what they were made of; ours
come with them. One of ours enters a published table only where its protocol re-implements that
column (`s2v.evals.reference.protocols`), and the certainty of that stands with it.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from s2v.evals import reference
from s2v.evals.errors import EvalError
from s2v.evals.reference import PublishedRow
from s2v.evals.reference.protocols import Certainty, follows, rank
from s2v.evals.summary import Result, Summary, load_summary

OURS = "measured here"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: as published, or the mean of our run.
        ci_low: None for published figures, always.
        ci_high: likewise.
        n: videos behind it; None where unpublished.
        note: self-reported, a known slip, how certain the protocol is; or empty.
    """

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One protocol.

    Attributes:
        name: published metric, or protocol id of ours.
        unit: of its figures.
        direction: which way is better.
    """

    name: str
    unit: str
    direction: str


@dataclass(frozen=True)
class Line:
    """One model.

    Attributes:
        model: whose videos; with its run's folder where several runs have that name.
        origin: `OURS`, or ``published``.
        cells: one per column; None where there is no figure.
        partial: the run left samples out.
    """

    model: str
    origin: str
    cells: tuple[Cell | None, ...]
    partial: bool = False


@dataclass(frozen=True)
class Board:
    """A table in which the figures of a column follow one protocol.

    Attributes:
        title: source, table and test set.
        source: as published, or `OURS`.
        columns: protocols.
        lines: models; published tables have the best by their first column first.
    """

    title: str
    source: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def leaderboard(
    runs: Sequence[str | Path] = (), *, source: str | None = None, split: str | None = None
) -> list[Board]:
    """Boards of the published tables, and of our runs.

    Args:
        runs: folders of finished runs.
        source: only published sources that contain this, whatever the case.
        split: only test sets that contain this, likewise.

    Returns:
        Our own board first when there are runs, then the published ones in the order of their
        file.

    Raises:
        EvalError: a folder without a finished run; nothing of that source or split.
    """
    summaries = _named([Path(run) for run in runs])
    rows = _chosen(source, split)
    boards = [_ours(summaries)] if summaries else []
    keys = list(dict.fromkeys((r.source, r.table, r.split) for r in rows))
    for key in keys:
        table = [r for r in rows if (r.source, r.table, r.split) == key]
        boards.append(_published(table, summaries))
    return boards


@dataclass(frozen=True)
class _Named:
    """A run with what its models are called on the boards."""

    summary: Summary
    labels: dict[tuple[str, str], str]


def _named(runs: Sequence[Path]) -> list[_Named]:
    """One name in several runs is several lines: each gets its folder behind it."""
    summaries = [load_summary(run) for run in runs]
    counts = Counter(group for summary in summaries for group in _groups(summary))
    named = []
    for n, (run, summary) in enumerate(zip(runs, summaries, strict=True), start=1):
        folder = run.resolve().name
        alike = sum(other.resolve().name == folder for other in runs) > 1
        labels = {}
        for source, model in _groups(summary):
            label = f"{model} (ceiling)" if source == "real" else model
            if counts[source, model] > 1:
                label += f" · {folder}" + (f" {n}" if alike else "")
            labels[source, model] = label
        named.append(_Named(summary, labels))
    return named


def _chosen(source: str | None, split: str | None) -> list[PublishedRow]:
    rows = list(reference.published())
    for wanted, field in ((source, "source"), (split, "split")):
        if wanted is None:
            continue
        known = sorted({str(getattr(r, field)) for r in rows})
        rows = [r for r in rows if wanted.casefold() in str(getattr(r, field)).casefold()]
        if not rows:
            near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.2)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise EvalError(f"no published {field} contains {wanted!r}{hint}")
    return rows


def _best_first(lines: list[Line], columns: Sequence[Column], by: int) -> tuple[Line, ...]:
    """Best by one column, lines without that figure last; ties by name."""
    sign = -1 if columns[by].direction == "higher" else 1

    def rank(line: Line) -> tuple[bool, float, str]:
        cell = line.cells[by]
        return cell is None, 0.0 if cell is None else sign * cell.value, line.model

    return tuple(sorted(lines, key=rank))


def _published(rows: Sequence[PublishedRow], runs: Sequence[_Named]) -> Board:
    first = rows[0]
    columns = {r.metric: Column(r.metric, r.unit, r.direction) for r in rows}
    names = sorted(columns, key=lambda name: "total" not in name.casefold())  # stable
    lines = []
    for model in dict.fromkeys(r.model for r in rows):
        cells = {r.metric: Cell(r.value, note=r.note) for r in rows if r.model == model}
        lines.append(Line(model, "published", tuple(cells.get(n) for n in names)))
    for run in runs:
        for group, label in run.labels.items():
            mine = tuple(_counterpart(run.summary, group, first.source, n) for n in names)
            if any(cell is not None for cell in mine):
                lines.append(Line(label, OURS, mine, run.summary.partial))
    ordered = tuple(columns[n] for n in names)
    return Board(
        f"{first.source}, {first.table}: {first.split}",
        first.source,
        ordered,
        _best_first(lines, ordered, 0),
    )


def _ours(runs: Sequence[_Named]) -> Board:
    """Our runs side by side; versions of one protocol are different columns."""
    columns: dict[str, Column] = {}
    for run in runs:
        for info in run.summary.metrics:
            name = f"{info.protocol} v{info.version}"
            columns.setdefault(name, Column(name, info.unit, info.direction))
    lines = []
    for run in runs:
        for group, label in run.labels.items():
            cells = {
                f"{r.protocol} v{r.version}": Cell(r.mean, r.ci_low, r.ci_high, r.n)
                for r in _whole(run.summary, group)
                if r.mean is not None
            }
            mine = tuple(cells.get(n) for n in columns)
            lines.append(Line(label, OURS, mine, run.summary.partial))
    ordered = tuple(columns.values())
    return Board("Measured here", OURS, ordered, tuple(lines))


def _whole(summary: Summary, group: tuple[str, str]) -> list[Result]:
    return [r for r in summary.results if r.scenario is None and (r.source, r.model) == group]


def _groups(summary: Summary) -> list[tuple[str, str]]:
    """(source, model), real clips last."""
    found = dict.fromkeys((r.source, r.model) for r in summary.results if r.scenario is None)
    return sorted(found, key=lambda group: group[0] == "real")


def _counterpart(summary: Summary, group: tuple[str, str], source: str, metric: str) -> Cell | None:
    """Our figure for a published column, in its unit: of the protocol that follows it surest."""
    found = [
        (related, result, result.mean * related.factor)
        for result in _whole(summary, group)
        if result.mean is not None
        and result.source == "generated"
        and (related := follows(result.protocol, source, metric)) is not None
    ]
    if not found:
        return None
    (related, result, mean), *others = sorted(found, key=lambda one: rank(one[0]))
    low, high = (
        None if end is None else end * related.factor for end in (result.ci_low, result.ci_high)
    )
    note = _badge(result.protocol, related.certainty, related.why)
    note += "".join(f"; by {other.protocol} {value:.4g}" for _, other, value in others)
    return Cell(mean, low, high, result.n, note)


def _badge(protocol: str, certainty: Certainty, why: str) -> str:
    return f"{protocol}, same protocol with {certainty} certainty ({why}); other test videos"
