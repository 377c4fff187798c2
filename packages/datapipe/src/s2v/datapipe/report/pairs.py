"""The pairs of a run: from candidates to accepted ones, the accepted side by side, the verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from s2v.datapipe.base.markup import Content, Markup, element, join, table
from s2v.datapipe.pair.evidence import ANSWERS
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.settings import BANKS
from s2v.datapipe.report import bars
from s2v.datapipe.report.figures import Figures
from s2v.datapipe.report.pair_cards import ANSWER_TEXT, PairCards, ends
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.selected import SAID
from s2v.datapipe.report.wording import BANK_TEXT, RULE_TEXT, listed, number, share

_REASONS: Final = 3


@dataclass(frozen=True)
class Accepted:
    """Cards of accepted pairs, and how many there are.

    Attributes:
        cards: HTML of each card shown.
        total: accepted pairs.
    """

    cards: list[Markup]
    total: int


def make_accepted(
    run: RunFolder, maker: PairCards, most: int, fits: Callable[[int], bool]
) -> Accepted:
    """Cards of accepted pairs, the classes by turns, within a class the most doubtful first.

    Args:
        run: the run.
        maker: makes the cards.
        most: cards at most.
        fits: asked with the bytes of a card; ``False`` ends it.
    """
    accepted = [row for row in run.rows("pairs") if row["accepted"]]
    chosen = _by_turns(run, accepted)[:most]
    return Accepted(maker.cards(chosen, fits, heading=True), len(accepted))


def _by_turns(run: RunFolder, accepted: list[Row]) -> list[Row]:
    """One of each class in turn; each two clips once."""
    subjects = run.by("subjects", "subject_id")
    queues: dict[str, list[Row]] = defaultdict(list)
    seen: set[frozenset[str]] = set()
    for row in sorted(accepted, key=lambda row: (doubt(run, row), *ends(row))):
        clips = frozenset((row["target_clip_id"], row["reference_clip_id"]))
        if clips not in seen:
            seen.add(clips)
            queues[subjects[row["target_subject_id"]]["class"] or ""].append(row)
    turns = zip_longest(*(queues[name] for name in sorted(queues)))
    return [row for turn in turns for row in turn if row is not None]


def doubt(run: RunFolder, pair: Row) -> float:
    """How near a pair lies to a bound that would have refused it, as cosine; less is nearer."""
    own, face = run.settings.pair.of(pair["bank"]), run.settings.face
    room = [pair["similarity"] - own.lower, own.upper - pair["similarity"]]
    if pair["bank"] == "person" and pair["face_similarity"] is not None:
        room += [pair["face_similarity"] - face.lower, face.upper - pair["face_similarity"]]
    if pair["background_similarity"] is not None and own.max_background is not None:
        room.append(own.max_background - pair["background_similarity"])
    return float(round(min(room), 6))


def render_pairs(found: Figures, accepted: Accepted) -> Markup:
    """Steps, accepted pairs, verdicts."""
    return join(
        element("h3", "From candidates to pairs"),
        _steps(found),
        element("h3", "Accepted"),
        _accepted(accepted),
        element("h3", "What the verifier said"),
        _verdicts(found),
    )


def _steps(found: Figures) -> Markup:
    steps = found["pairs"]["steps"]
    whole = steps[0]["left"]
    if not whole:
        return element("p", "The search found no candidates.")
    banks = [bank for bank in BANKS if bank in steps[0]["by_bank"]]
    rows: list[list[Content]] = []
    for step in steps:
        label = f"{step['step']}: {number(step['left'])} of {number(whole)} candidates left"
        parts = [("kept", step["left"]), ("dropped", step["lost"])]
        rows.append(
            [
                step["step"],
                bars.bar(parts, whole, label),
                number(step["left"]),
                number(step["lost"]) if step["lost"] else "–",
                *(number(step["by_bank"].get(bank, 0)) for bank in banks),
                _reasons(step["reasons"]),
            ]
        )
    columns = ("", "", "left", "refused here", *(BANK_TEXT[bank] for bank in banks), "mostly for")
    note = (
        f"{number(steps[-1]['left'])} of {number(whole)} candidates are accepted "
        f"({share(steps[-1]['left'], whole)}). A candidate goes at the first step that refuses it."
    )
    return join(
        element("p", note), table(columns, rows, "From candidates to pairs", class_="funnel quiet")
    )


def _reasons(reasons: dict[str, int]) -> Markup | None:
    if not reasons:
        return None
    shown = list(reasons.items())[:_REASONS]
    items = [
        element("li", element("b", number(count)), " ", RULE_TEXT.get(rule, rule))
        for rule, count in shown
    ]
    return element("ul", *items, class_="reasons")


def _accepted(accepted: Accepted) -> Markup:
    if not accepted.total:
        return element("p", "No pair was accepted.")
    said = (
        f"{len(accepted.cards)} of {number(accepted.total)} accepted pairs, each two clips once, "
        "the classes by turns. In each class those come first that lie nearest to a bound: if "
        "pairs are wrong, it is more likely these."
    )
    return join(element("p", said), element("div", *accepted.cards, class_="cards"))


def _verdicts(found: Figures) -> Markup:
    by_class = found["pairs"]["verdicts"]
    if not by_class:
        return element("p", "No second model was asked: the rules alone decided.")
    rows: list[list[Content]] = []
    for name, one in by_class.items():
        parts = [
            ("kept", one["passed"]),
            ("dropped", one["asked"] - one["passed"] - one["no_answer"]),
            ("quarantined", one["no_answer"]),
        ]
        label = f"{name}: {one['passed']} of {one['asked']} questions answered with two times yes"
        rows.append(
            [
                name.replace("_", " "),
                bars.bar(parts, one["asked"], label),
                number(one["asked"]),
                number(one["passed"]),
                *(" / ".join(number(one[answer][said]) for said in SAID) for answer in ANSWERS),
                number(one["no_answer"]) if one["no_answer"] else "–",
                number(one["repeated"]) if one["repeated"] else "–",
            ]
        )
    asked = [f"{ANSWER_TEXT[answer]}? {' / '.join(SAID)}" for answer in ANSWERS]
    columns = ("", "", "asked", "two times yes", *asked, "no answer", "asked again")
    who = sorted({name for one in by_class.values() for name in one["verifiers"]})
    prompts = sorted({name for one in by_class.values() for name in one["prompts"]})
    return join(
        element("p", f"Asked: {listed(who)}, with the prompts {listed(prompts)}. A pair has no "
                     "direction, so it is asked about once."),
        table(columns, rows, "What the verifier said", class_="funnel quiet"),
    )  # fmt: skip
