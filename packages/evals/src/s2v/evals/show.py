"""Results as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2v.datapipe.base.markup import clean
from s2v.evals import reference
from s2v.evals.compare import Comparison
from s2v.evals.leaderboard import OURS, Board, Cell
from s2v.evals.metrics.base import MetricSpec
from s2v.evals.statistics import can_show
from s2v.evals.summary import Result, Summary

_ARROWS = {"higher": "↑", "lower": "↓", "neither": "≈ real"}


def summary_text(summary: Summary) -> str:
    """The table of a run, what is missing from it, and the published rows apart from it."""
    lines = []
    if summary.partial:
        lines.append(
            f"PARTIAL: {summary.n_samples} of {summary.n_manifest} samples; for testing only"
        )
    rows = [("metric", "videos of", "mean", "95 % interval", "n", "on frames", "chance")]
    for row in summary.table():
        counted = str(row["n"])
        if row["n"] != row["n_expected"]:
            counted += f" of {row['n_expected']}"
        who = f"{row['model']} (ceiling)" if row["source"].startswith("real") else row["model"]
        rows.append(
            (
                f"{row['metric']} {_ARROWS[row['direction']]}",
                who,
                number(row["mean"]),
                "-" if row["mean"] is None else interval(row["ci_low"], row["ci_high"]),
                counted,
                "" if row["rate"] is None else f"{row['rate']:.0%}",
                number(row["baseline"]),
            )
        )
    lines += columns(rows)
    whole = [r for r in summary.results if r.scenario is None]
    if gone := [_reasons(r, r.failed) for r in whole if r.failed]:
        lines += ["", "Not scored (failures.csv has each):", *gone]
    if spared := [_reasons(r, r.not_applicable) for r in whole if r.not_applicable]:
        lines += ["", "Not asked, as the metric is not about them:", *spared]
    if summary.published.rows:
        lines += ["", summary.published.notice]
        published = [("published", "model", "value", "unit", "source")]
        published += [
            (
                str(r["metric"]),
                str(r["model"]),
                f"{r['value']:g}",
                str(r["unit"]),
                f"{r['source']}, {r['table']}",
            )
            for r in summary.published.rows
        ]
        lines += columns(published)
    return "\n".join(lines)


def _reasons(result: Result, reasons: Mapping[str, int]) -> str:
    counted = ", ".join(f"{n} {why}" for why, n in reasons.items())
    return f"  {result.protocol}, {clean(result.model)}: {counted}"


def comparison_text(found: Comparison) -> str:
    """The table of a comparison and why some metrics are not in it."""
    names = f"A = {found.model_a}, B = {found.model_b}; paired by reference, prompt and seed"
    lines = [clean(names)]
    if found.partial:
        lines.append("PARTIAL: a run left samples out; for testing only")
    rows = [("metric", "A", "B", "B - A", "95 % interval", "p (Holm)", "pairs", "detectable")]
    for d in found.differences:
        rows.append(
            (
                f"{d.metric.title} {_ARROWS[d.metric.direction]}",
                number(d.mean_a),
                number(d.mean_b),
                f"{d.difference:+.4f}",
                interval(d.ci_low, d.ci_high, signed=True),
                p_value(d.p_holm),
                f"{d.n} over {d.clusters} refs",
                number(d.detectable),
            )
        )
    lines += columns(rows)
    few = [d.metric.protocol for d in found.differences if not can_show(d.clusters)]
    if few:
        lines.append(f"too few references to show any difference (six at least): {', '.join(few)}")
    lines += [f"not paired: {line}" for line in unpaired(found)]
    lines += [f"not compared: {k}: {why}" for k, why in sorted(found.skipped.items())]
    if found.published:
        lines += ["", reference.NOTICE, *_beside(found)]
    return "\n".join(lines)


def unpaired(found: Comparison) -> list[str]:
    """Videos that only one side scored, by number: a failure must not leave a test in silence."""
    by_number: dict[int, list[str]] = {}
    for d in found.differences:
        if d.unpaired:
            by_number.setdefault(d.unpaired, []).append(d.metric.protocol)
    return [
        f"{n} video{'s' if n > 1 else ''} scored on one side only ({', '.join(protocols)})"
        for n, protocols in sorted(by_number.items())
    ]


def _beside(found: Comparison) -> list[str]:
    """A line per published column that a protocol of the comparison follows."""
    lines = []
    for protocol, columns in found.published.items():
        for column in columns:
            figures = ", ".join(f"{model} {value:g}" for model, value in column.figures)
            scaled = "" if column.factor == 1 else f", ours x{column.factor:g}"
            lines.append(
                f"  {protocol}, {column.certainty} certainty: {column.place} "
                f"({column.unit}{scaled}): {figures}"
            )
    return lines


def boards_text(boards: Sequence[Board]) -> str:
    """Leaderboards, one table each; a figure of ours has its interval beside it."""
    lines: list[str] = []
    warned = False
    for board in boards:
        if board.source != OURS and not warned:
            lines += [reference.NOTICE, ""]
            warned = True
        lines.append(board.title)
        heads = (f"{c.name} {_ARROWS[c.direction]} ({c.unit})" for c in board.columns)
        rows = [("model", *heads)]
        notes = []
        for line in board.lines:
            who = line.model if line.origin != OURS or board.source == OURS else f"{line.model} *"
            who += " (PARTIAL)" if line.partial else ""
            rows.append((who, *(_cell(cell) for cell in line.cells)))
            notes += [f"  {line.model}: {cell.note}" for cell in line.cells if cell and cell.note]
        lines += columns(rows)
        lines += [*dict.fromkeys(notes), ""]
    return "\n".join(lines).rstrip()


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.n is None:
        return f"{cell.value:g}"
    return f"{number(cell.value)} {interval(cell.ci_low, cell.ci_high)} n={cell.n}"


def metrics_text(specs: Sequence[MetricSpec]) -> str:
    """What each protocol is."""
    lines = []
    for spec in specs:
        high = "" if spec.high is None else f"{spec.high:g}"
        lines += [
            f"{spec.protocol} (version {spec.version})",
            f"  {spec.title}; {spec.unit}, {spec.low:g} to {high or 'unbounded'}, "
            f"better: {spec.direction}",
            f"  from: {spec.citation}",
            f"  note: {spec.caveat}",
            f"  licence: {spec.licence}",
        ]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """A figure to four digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def p_value(p: float) -> str:
    """Three digits; never 0, which no test can show."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Both ends, or why there are none."""
    if low is None or high is None:
        return "- (one reference)"
    return f"[{low:+.4f}, {high:+.4f}]" if signed else f"[{number(low)}, {number(high)}]"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Left-aligned columns with a rule below the heading."""
    rows = [tuple(" ".join(clean(cell).split()) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]
