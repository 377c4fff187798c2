"""The contact sheet: every judged pair with its verdicts, the worst first."""

from __future__ import annotations

from typing import Final

from s2v.datapipe.audit.audit import ALL, Audit, Budget
from s2v.datapipe.audit.document import CARDS, document, notice, side_by_side
from s2v.datapipe.audit.judges import FAULTS, Answer, Fault, Judged, Judges
from s2v.datapipe.base.markup import Content, Markup, element, join, joined, table

_FAULT: Final[dict[Fault, str]] = {"wrong": "wrong subject", "copy": "near copy"}
_WORDS: Final[dict[Fault, dict[Answer, str]]] = {
    "wrong": {"yes": "wrong subject", "no": "same subject", "unsure": "subject in doubt"},
    "copy": {"yes": "near copy", "no": "no copy", "unsure": "copy in doubt"},
}
_WORST: Final[tuple[Answer, ...]] = ("yes", "unsure", "no judge", "no")
_CLASS: Final[dict[Answer, str]] = {"yes": "bad", "no": "good", "unsure": "doubt"}


def contact_sheet(run: str, audit: Audit, judges: Judges) -> str:
    """The page.

    Args:
        run: name of the run, for the heading.
        audit: what was found.
        judges: for the pictures.

    Returns:
        HTML with its pictures in it.

    Raises:
        StoreError: a stored frame is missing or damaged.
    """
    judged = sorted(audit.judged, key=lambda one: _order(audit, one))
    shown = judged[:CARDS]
    cards = joined(_card(audit, one, judges) for one in shown)
    total = sum(audit.drawn.population.values())
    apart = len(audit.labels.disputed)
    return document(
        f"Audit of {run}",
        element(
            "header",
            element("p", "What is wrong with the pairs that were accepted", class_="small"),
            element("h1", f"Audit of {run}"),
            element(
                "p",
                f"{len(judged)} of {total} accepted cross pairs, drawn by class and scenario "
                f"with seed {audit.settings.seed}, judged by what selection did not use.",
            ),
            joined(_budget(one) for one in audit.budgets),
            notice(f"People differ on {apart} pairs, which count as in doubt.") if apart else None,
            _estimates(audit),
            *_unjudged(audit),
            _judges(audit),
        ),
        element(
            "main",
            element("h2", "Every judged pair, the worst first"),
            notice(f"The first {len(shown)} of {len(judged)}; pairs.csv has all.")
            if len(shown) < len(judged)
            else None,
            cards,
        ),
    )


def _order(audit: Audit, one: Judged) -> tuple[int, float, str]:
    """The worst first: faults found by anybody, then doubts, then what nobody judged."""
    said = [found.answer for found in one.findings.values()]
    said += [answer for fault in FAULTS if (answer := audit.labels.of(one.pair, fault))]
    worst = min(_WORST.index(answer) for answer in said)
    return worst, -max(found.score for found in one.findings.values()), one.pair.pair_id


def _budget(one: Budget) -> Markup:
    limit = f"at most {_percent(one.limit)} {_FAULT[one.fault]}"
    said = {
        "met": f"Budget kept: {limit}"
        + (
            ", and the interval lies below it."
            if one.shown
            else ", by the estimate; the sample is too small to show it."
        ),
        "exceeded": f"Budget exceeded: {limit} in "
        + ", ".join(kind for kind, state in one.classes.items() if state == "exceeded")
        + ".",
        "unknown": f"Budget not checked: {limit}; nobody judged "
        + ", ".join(kind for kind, state in one.classes.items() if state == "unknown")
        + ". Fill in labels.csv.",
    }[one.state]
    return element("p", said, class_=f"notice {'good' if one.state == 'met' else 'bad'}")


def _estimates(audit: Audit) -> Markup:
    rows: list[list[Content]] = []
    for one in audit.estimates:
        found = one.share
        left = [f"{one.unsure} in doubt"] * bool(one.unsure)
        left += [f"{one.unjudged} not judged"] * bool(one.unjudged)
        rows.append(
            [
                "all classes" if one.kind == ALL else one.kind,
                _FAULT[one.fault],
                one.by,
                f"{found.hits} of {found.judged}" if found.judged else "no judge",
                _percent(found.estimate),
                f"{_percent(found.low)} to {_percent(found.high)}" if found.judged else "–",
                _percent(found.three_over_n),
                f"{found.worth:.3g} of {found.judged}, {one.sources} source"
                + "s" * (one.sources != 1)
                if found.judged
                else "–",
                ", ".join(left) or "–",
            ]
        )
    columns = (
        *("class", "fault", "judged by", "found", "share"),
        f"{100 * audit.settings.confidence:g} % interval",
        *("none found: 3/N", "worth independent pairs", "left out"),
    )
    return table(columns, rows, "Estimated share of all accepted pairs")


def _unjudged(audit: Audit) -> list[Markup]:
    """What only a person can say, and where to say it."""
    said = []
    for fault in FAULTS:
        left = sum(
            one.findings[fault].answer == "no judge" and audit.labels.of(one.pair, fault) is None
            for one in audit.judged
        )
        if left:
            said.append(
                notice(
                    f"{left} of {len(audit.judged)} pairs have no judge for {_FAULT[fault]} and no "
                    "label: label them on ",
                    element("a", "blind.html", href="blind.html"),
                    ".",
                )
            )
    return said


def _judges(audit: Audit) -> Markup:
    rows: list[list[Content]] = [[name, said] for name, said in sorted(audit.judges.items())]
    return element(
        "details",
        element("summary", "Who judged, and how to label"),
        table(("question", "judge"), rows),
        element(
            "p",
            "Where there is no judge, open blind.html, which shows no verdict, label there or in "
            "labels.csv, and call the audit again with --labels. Pairs that share a subject, or a "
            "long video where there are ten or more, are not independent: what a sample is worth "
            "says so.",
        ),
    )


def _card(audit: Audit, one: Judged, judges: Judges) -> Markup:
    pair = one.pair
    badges: list[Markup] = []
    for fault in FAULTS:
        badges.append(_badge(fault, one.findings[fault].answer, "judge"))
        if (said := audit.labels.of(pair, fault)) is not None:
            badges.append(_badge(fault, said, "people"))
    why = [one.findings[fault].why for fault in FAULTS]
    why += [
        f"{_FAULT[fault]}, people differ: " + ", ".join(f"{p} says {a}" for p, a in by.items())
        for fault, by in audit.labels.disputed.get(pair.pair_id, {}).items()
    ]
    reasons = joined(element("li", line) for line in why)
    scores = f"selection: similarity {pair.similarity:.2f}"
    if pair.face_similarity is not None:
        scores += f", faces {pair.face_similarity:.2f}"
    if pair.background_similarity is not None:
        scores += f", backgrounds {pair.background_similarity:.2f}"
    if pair.gap_us is not None:
        scores += f", {pair.gap_us / 1e6:.1f} s apart"
    return element(
        "article",
        element(
            "h2",
            element("code", pair.pair_id),
            element("span", f"{pair.kind}, {pair.scenario}", class_="small"),
            *badges,
        ),
        side_by_side(judges, pair.target, pair.reference),
        element("ul", reasons, element("li", scores, class_="small")),
        class_="card",
        id=pair.pair_id,
    )


def _badge(fault: Fault, answer: Answer, by: str) -> Markup:
    word = _WORDS[fault].get(answer, f"{_FAULT[fault]}: no judge")
    who = "" if by == "judge" else "people: "
    return element("b", join(who, word), class_=f"badge {_CLASS.get(answer, 'none')}")


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"
