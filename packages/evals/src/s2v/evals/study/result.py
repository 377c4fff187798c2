"""``study report``: what the answers say, with intervals, agreement and who was left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.evals import statistics
from s2v.evals.crossed import crossed_bootstrap
from s2v.evals.errors import EvalError
from s2v.evals.statistics import Interval
from s2v.evals.study import preference, sheet
from s2v.evals.study.agreement import Alpha, krippendorff
from s2v.evals.study.exclude import Entry, Rules, check, excluded, meaning
from s2v.evals.study.ingest import load_rows
from s2v.evals.study.preference import Gsb, Match, Strength
from s2v.evals.study.records import SCALE, Key, load_key

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
USABLE = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A model on the scale.

    Attributes:
        model: whose videos.
        mean: of the marks 1 to 3, over raters and prompts.
        usable: share of marks of at least 2.
        shares: of each mark.
        everybody: mean without leaving anybody out.
    """

    model: str
    mean: Interval
    usable: Interval
    shares: dict[str, float]
    everybody: float


@dataclass(frozen=True)
class Finding:
    """The answers to one question.

    Attributes:
        question: id.
        text: as asked.
        marks: of a scale; empty for pairs.
        wins: model -> share of comparisons won, ties by half; of a scale, comparisons are the
            marks that one rater gave two models on one prompt.
        pairs: good, same, bad.
        strengths: Bradley-Terry, strongest first.
        alpha: agreement of raters.
        severity: rater -> mean distance of their marks from the others' on the same videos.
    """

    question: str
    text: str
    marks: tuple[Mark, ...]
    wins: dict[str, Interval]
    pairs: tuple[Gsb, ...]
    strengths: tuple[Strength, ...]
    alpha: Alpha
    severity: dict[str, float]


@dataclass(frozen=True)
class StudyResult:
    """What a study says.

    Attributes:
        study: its id.
        mode: ``scale`` or ``pairwise``.
        models: compared.
        raters: whose answers count.
        left_out: whose do not.
        sessions: pages that were made.
        groups: references and prompts.
        ratings: that count, without gold and repeats.
        seed: of the resampling.
        replicates: of the means and shares.
        rules: limits.
        log: every rule on every rater.
        findings: question by question.
    """

    study: str
    mode: str
    models: tuple[str, ...]
    raters: tuple[str, ...]
    left_out: tuple[str, ...]
    sessions: int
    groups: int
    ratings: int
    seed: int
    replicates: int
    rules: dict[str, float]
    log: tuple[Entry, ...]
    findings: tuple[Finding, ...]


def report(
    study: str | Path,
    *,
    rules: Rules | None = None,
    seed: int = 0,
    replicates: int = statistics.REPLICATES,
) -> StudyResult:
    """Evaluate a study and write ``report.json`` and ``report.html`` into its folder.

    Args:
        study: folder with ``key.json`` and ``answers.parquet``.
        rules: who is left out.
        seed: of the resampling.
        replicates: of the intervals of means and shares.

    Raises:
        EvalError: no answers, or nobody left.
    """
    folder = Path(study)
    key, rows = load_key(folder), load_rows(folder)
    limits = rules or Rules()
    if strange := sorted({r["rater"] for r in rows} - set(key.sessions)):
        raise EvalError(
            f"{folder}: answers.parquet has {strange[0]!r}, which is no session of key.json; "
            f"bring this study's files together again: s2v-eval study ingest {folder} FILES"
        )
    log = check(key, rows, limits)
    gone = excluded(log)
    plain = [r for r in rows if r["kind"] == "item"]
    kept = [r for r in plain if r["rater"] not in gone]
    if not kept:
        broken = [f"{e.rater}: {e.rule} {e.limit:g}, seen {e.value:.2f}" for e in log
                  if e.broken and e.value is not None]  # fmt: skip
        why = "; ".join(broken[:4]) or "nobody answered an item"
        more = f"; and {len(broken) - 4} more" if len(broken) > 4 else ""
        raise EvalError(f"{folder}: no rater is left of {len({r['rater'] for r in rows})} ({why}"
                        f"{more}); looser limits are options, see --help")  # fmt: skip
    result = StudyResult(
        study=key.study,
        mode=key.mode,
        models=key.models,
        raters=tuple(sorted({r["rater"] for r in kept})),
        left_out=tuple(sorted(gone)),
        sessions=len(key.sessions),
        groups=len({r["group"] for r in kept}),
        ratings=len(kept),
        seed=seed,
        replicates=replicates,
        rules=limits.model_dump(),
        log=tuple(log),
        findings=tuple(
            _finding(key, q.id, q.text, kept, plain, seed, replicates) for q in key.questions
        ),
    )
    write_json(folder / REPORT_JSON, {"schema": "s2v-eval-study-report/1", **asdict(result)})
    write_bytes(folder / REPORT_HTML, sheet.render(result).encode())
    return result


def _finding(
    key: Key, question: str, text: str, kept: Sequence[Row], every: Sequence[Row], seed: int,
    replicates: int,
) -> Finding:  # fmt: skip
    mine = [r for r in kept if r["question"] == question]
    everybody = [r for r in every if r["question"] == question]
    if key.mode == "scale":
        matches = _derived(mine)
        marks = tuple(_marks(mine, everybody, m, seed, replicates) for m in key.models
                      if any(r["models"] == [m] for r in mine))  # fmt: skip
        alpha = krippendorff(
            [SCALE.index(r["choice"]) for r in mine],
            [(r["group"], r["models"][0]) for r in mine],
            len(SCALE),
            level="ordinal",
            seed=seed,
        )
    else:
        matches, marks = [_match(r) for r in mine], ()
        kinds = [_side_of_names(r) for r in mine]
        units = [(r["group"], *sorted(r["models"])) for r in mine]
        alpha = krippendorff(kinds, units, 3, level="nominal", seed=seed)
    return Finding(
        question=question,
        text=text,
        marks=marks,
        wins=preference.win_rates(matches, seed=seed, replicates=replicates),
        pairs=tuple(preference.good_same_bad(matches)),
        strengths=tuple(preference.bradley_terry(matches, seed=seed)),
        alpha=alpha,
        severity=_severity(mine) if key.mode == "scale" else {},
    )


def _marks(
    rows: Sequence[Row], everybody: Sequence[Row], model: str, seed: int, replicates: int
) -> Mark:
    mine = [r for r in rows if r["models"] == [model]]
    values = [float(r["choice"]) for r in mine]
    raters, groups = [r["rater"] for r in mine], [r["group"] for r in mine]
    usable = [float(v >= USABLE) for v in values]
    given = [float(r["choice"]) for r in everybody if r["models"] == [model]]
    return Mark(
        model=model,
        mean=crossed_bootstrap(values, raters, groups, seed=seed, replicates=replicates),
        usable=crossed_bootstrap(usable, raters, groups, seed=seed, replicates=replicates),
        shares={c: sum(r["choice"] == c for r in mine) / len(mine) for c in SCALE},
        everybody=sum(given) / len(given),
    )


def _match(row: Row) -> Match:
    outcome = {"left": 1.0, "same": 0.5, "right": 0.0}[row["choice"]]
    return Match(row["rater"], row["group"], row["models"][0], row["models"][1], outcome)


def _side_of_names(row: Row) -> int:
    """0 or 2 for the model that comes first or second by name, 1 for neither."""
    names = [*sorted(row["models"])]
    preferred = meaning(row)
    return 1 if preferred == "same" else 2 * names.index(preferred)


def _derived(rows: Sequence[Row]) -> list[Match]:
    """Marks of one rater for two models on one prompt, as a comparison."""
    by_place: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in rows:
        by_place[row["rater"], row["group"]][row["models"][0]] = int(row["choice"])
    matches = []
    for (rater, group), marks in sorted(by_place.items()):
        names = sorted(marks)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                gap = marks[a] - marks[b]
                matches.append(Match(rater, group, a, b, 0.5 + 0.5 * (gap > 0) - 0.5 * (gap < 0)))
    return matches


def _severity(rows: Sequence[Row]) -> dict[str, float]:
    """Mean of (own mark - mean of the others' marks of the same video); negative is strict."""
    by_video: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in rows:
        by_video[row["group"], row["models"][0]][row["rater"]] = int(row["choice"])
    gaps: dict[str, list[float]] = defaultdict(list)
    for marks in by_video.values():
        total = sum(marks.values())
        for rater, mark in marks.items():
            if len(marks) > 1:
                gaps[rater].append(mark - (total - mark) / (len(marks) - 1))
    return {rater: sum(found) / len(found) for rater, found in sorted(gaps.items())}
