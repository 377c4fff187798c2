"""A study's result as a page and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.evals import show
from s2v.evals.report import charts
from s2v.evals.report.page import document
from s2v.evals.statistics import Interval

if TYPE_CHECKING:
    from s2v.evals.study.agreement import Alpha
    from s2v.evals.study.result import Finding, StudyResult

_WORDS = {
    "min_gold": "gold items answered rightly, share at least",
    "min_repeat": "repeated answers that agree, share at least",
    "min_seconds": "median seconds per item, at least",
    "max_same": "share of the commonest answer, at most",
    "min_answered": "share of the session answered, at least",
}


_PREFERENCES = (
    "Win rate: share of the comparisons that a model won, a tie counting half; the dashed tick is "
    "one half. Bradley-Terry: a strength per model, mean 0, so that the odds of winning are the "
    "exponential of the difference; rank: the best and the worst in 95 % of the resamples. Good, "
    "same, bad (G, S, B): how often the first of a pair was better, neither, worse. Agreement: 1 "
    "where raters agree, 0 where they answer as by chance."
)
_WHAT_IS_WHAT = {
    "scale": "Marks: 1 unusable, 2 usable, 3 satisfactory; the columns 1, 2, 3 are their shares. "
    "Usable: marked 2 or 3. Mean of all raters: also of those who are left out. A comparison is "
    "two marks that one rater gave two models on one prompt. " + _PREFERENCES,
    "pairwise": _PREFERENCES,
}


def render(result: StudyResult) -> str:
    """The page: a part per question, then raters and rules."""
    header = element(
        "header",
        element("p", f"User study {result.study}, {result.mode}", class_="small"),
        element("h1", "What raters said"),
        element("p", _people(result)),
        element(
            "p",
            "Intervals are 95 %, from resampling raters and prompts together "
            f"(seed {result.seed}); they speak of other raters and other prompts too.",
        ),
        element("p", _WHAT_IS_WHAT[result.mode], class_="small"),
    )
    parts = [(finding.text, _question(result, finding)) for finding in result.findings]
    parts += [("Raters", _raters(result)), ("Left out", _log(result))]
    return document("User study", header, parts)


def _people(result: StudyResult) -> str:
    gone = f"; left out: {', '.join(result.left_out)}" if result.left_out else "; nobody left out"
    return (
        f"{len(result.raters)} raters of {result.sessions} sessions, {result.groups} references "
        f"and prompts, {len(result.models)} models, {result.ratings} answers{gone}."
    )


def _question(result: StudyResult, finding: Finding) -> Markup:
    parts: list[Content] = []
    if finding.marks:
        marks = [
            charts.Whisker(m.model, m.mean.estimate, m.mean.low, m.mean.high, None, n)
            for n, m in enumerate(finding.marks)
        ]
        rows: list[list[Content]] = [
            [
                m.model,
                f"{m.mean.estimate:.3f}",
                _ends(m.mean),
                f"{m.usable.estimate:.0%}",
                _ends(m.usable),
                *(f"{share:.0%}" for share in m.shares.values()),
                m.mean.n,
                f"{m.everybody:.3f}",
            ]
            for m in finding.marks
        ]
        columns = ("model", "mean", "95 %", "usable", "95 %", "1", "2", "3", "answers",
                   "mean of all raters")  # fmt: skip
        parts += [_figure("Marks, 1 to 3", "mark", marks), table(columns, rows, "Marks")]
    if finding.wins:
        wins = [
            charts.Whisker(model, w.estimate, w.low, w.high, 0.5, n)
            for n, (model, w) in enumerate(finding.wins.items())
        ]
        win_rows: list[list[Content]] = [
            [model, f"{w.estimate:.1%}", _ends(w), w.n] for model, w in finding.wins.items()
        ]
        parts += [
            _figure("Win rate, ties by half", "share of comparisons", wins),
            table(("model", "win rate", "95 %", "comparisons"), win_rows, "Win rates"),
            _strengths(finding),
            _pairs(finding),
        ]
    parts.append(element("p", f"Agreement: {alpha_text(finding.alpha)}"))
    return join(*parts)


def _figure(title: str, unit: str, entries: list[charts.Whisker]) -> Markup:
    chart = charts.whiskers(title, unit, entries)
    figure = element("figure", element("figcaption", title), chart)
    return element("div", figure, class_="charts")


def _strengths(finding: Finding) -> Markup:
    rows: list[list[Content]] = [
        [s.model, f"{s.value:+.3f}", f"[{s.low:+.3f}, {s.high:+.3f}]",
         f"{s.rank_low} to {s.rank_high}"]
        for s in finding.strengths
    ]  # fmt: skip
    return table(("model", "log strength", "95 %", "rank"), rows, "Bradley-Terry")


def _pairs(finding: Finding) -> Markup:
    rows: list[list[Content]] = [
        [
            f"{p.a} against {p.b}",
            p.good,
            p.same,
            p.bad,
            f"{p.net:+.3f}",
            "–" if p.ratio is None else f"{p.ratio:.3f}",
        ]
        for p in finding.pairs
    ]
    columns = ("pair", "good", "same", "bad", "(G-B)/(G+S+B)", "(G+S)/(B+S)")
    return table(columns, rows, "Good, same, bad")


def _raters(result: StudyResult) -> Markup:
    questions = [f for f in result.findings if f.severity]
    if not questions:
        return element("p", "Severity is a matter of marks; this study compares pairs.")
    rows: list[list[Content]] = [
        [rater, *(f"{f.severity[rater]:+.2f}" if rater in f.severity else "" for f in questions)]
        for rater in result.raters
    ]
    return join(
        element("p", "Own mark less the others' on the same videos: below zero is strict."),
        table(("rater", *(f.question for f in questions)), rows, "Severity"),
    )


def _log(result: StudyResult) -> Markup:
    rows: list[list[Content]] = [
        [
            entry.rater,
            _WORDS[entry.rule],
            f"{entry.limit:g}",
            "not known" if entry.value is None else f"{entry.value:.2f}",
            "left out" if entry.broken else "",
        ]
        for entry in result.log
    ]
    return table(("rater", "rule", "limit", "seen", ""), rows, "Every rule on every rater")


def _ends(interval: Interval) -> str:
    return show.interval(interval.low, interval.high)


def alpha_text(alpha: Alpha) -> str:
    """Krippendorff's alpha in words."""
    if alpha.value is None:
        return "nothing can be said: too few answers to the same items, or all alike"
    ends = "" if alpha.low is None else f" [{alpha.low:.3f}, {alpha.high:.3f}]"
    bands = ((0.8, "good"), (0.667, "tentative"))
    verdict = next((word for least, word in bands if alpha.value >= least), "too low to rely on")
    return (
        f"Krippendorff's alpha {alpha.value:.3f}{ends}, {verdict} "
        f"({alpha.ratings} answers to {alpha.units} items)"
    )


def text(result: StudyResult) -> str:
    """The same for a terminal."""
    lines = [_people(result)]
    for finding in result.findings:
        lines += ["", finding.text]
        if finding.marks:
            rows = [("model", "mean", "95 % interval", "usable", "answers")]
            rows += [
                (m.model, f"{m.mean.estimate:.3f}", _ends(m.mean), f"{m.usable.estimate:.0%}",
                 str(m.mean.n))
                for m in finding.marks
            ]  # fmt: skip
            lines += show.columns(rows)
        if finding.strengths:
            wins = finding.wins
            table_rows = [("model", "win rate", "95 % interval", "Bradley-Terry", "rank")]
            table_rows += [
                (s.model, f"{wins[s.model].estimate:.1%}", _ends(wins[s.model]),
                 f"{s.value:+.3f} [{s.low:+.3f}, {s.high:+.3f}]", f"{s.rank_low} to {s.rank_high}")
                for s in finding.strengths
            ]  # fmt: skip
            lines += show.columns(table_rows)
        lines.append(f"agreement: {alpha_text(finding.alpha)}")
    left = [e for e in result.log if e.broken]
    if left:
        lines += ["", "Left out:"]
        lines += [
            f"  {e.rater}: {_WORDS[e.rule]} {e.limit:g}, seen {e.value:.2f}"
            for e in left
            if e.value is not None
        ]
    return "\n".join(lines)
