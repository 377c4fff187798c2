"""Pairs that were refused, side by side, with the rule: near copies, other subjects, verdicts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.markup import Markup, element, join
from s2v.datapipe.pair.evidence import VERIFIER_RULES
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.report.pair_cards import PairCards, ends
from s2v.datapipe.report.run import RunFolder
from s2v.datapipe.report.wording import number

NEAR_COPY: Final = (
    "duplicate_clip",
    "near_copy_frame",
    "near_copy_crop",
    "near_copy_face",
    "above_upper",
    "face_too_similar",
    "background_too_similar",
    "same_source_frame",
)
OTHER_SUBJECT: Final = (
    "face_mismatch",
    "below_lower",
    "identity_conflict",
    "noun_mismatch",
)
BY_VERIFIER: Final = VERIFIER_RULES


@dataclass(frozen=True)
class Refusals:
    """Cards of refused pairs, and how many there are.

    Attributes:
        cards: HTML of each card shown.
        total: refused pairs of this kind.
    """

    cards: list[Markup]
    total: int


def make_refusals(
    run: RunFolder,
    maker: PairCards,
    rules: Iterable[str],
    most: int,
    fits: Callable[[int], bool],
) -> Refusals:
    """Cards of pairs that fail one of ``rules``, the rules by turns.

    Args:
        run: the run.
        maker: makes the cards.
        rules: names of :data:`s2v.datapipe.pair.evidence.RULES`.
        most: cards at most.
        fits: asked with the bytes of a card; ``False`` ends it.
    """
    wanted = list(rules)
    refused = [row for row in run.rows("pairs") if set(row["rules"]) & set(wanted)]
    return Refusals(maker.cards(_by_turns(run, refused, wanted)[:most], fits), len(refused))


def _by_turns(run: RunFolder, refused: list[Row], rules: list[str]) -> list[Row]:
    """One of each rule in turn; each two clips once, other files before the same file.

    Within a rule the nearest misses come first: the most alike.
    """
    video = {row["clip_id"]: row["video_id"] for row in run.rows("clips")}

    def order(row: Row) -> tuple[bool, float, str, str]:
        a, b = row["target_clip_id"], row["reference_clip_id"]
        return (video[a] == video[b], -row["similarity"], *ends(row))

    queues: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(refused, key=order):
        queues[next(rule for rule in rules if rule in row["rules"])].append(row)
    ordered: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for turn in range(max(map(len, queues.values()), default=0)):
        for rule in rules:
            if turn < len(queues[rule]):
                row = queues[rule][turn]
                first, second = sorted((row["target_clip_id"], row["reference_clip_id"]))
                if (first, second) not in seen:
                    seen.add((first, second))
                    ordered.append(row)
    return ordered


def render_refusals(found: Refusals, none: str) -> Markup:
    """The cards, and how many of how many they are."""
    if not found.total:
        return element("p", none)
    said = f"{len(found.cards)} of {number(found.total)} refused pairs, each two clips once."
    return join(
        element("p", said),
        element("div", *found.cards, class_="cards"),
    )
