"""The page to label on: the same pairs in the order of their ids, and not one score.

Whoever sees a verdict is drawn to it, and whoever starts at the worst and stops early has labelled
no sample. The answers stay in the browser, also when the page is closed, until they are saved as
a CSV; nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from s2v.datapipe.audit.document import CARDS, document, side_by_side
from s2v.datapipe.audit.judges import Judges
from s2v.datapipe.audit.pairs import Pair
from s2v.datapipe.base.markup import Markup, element, joined


def blind_page(run: str, pairs: Iterable[Pair], judges: Judges) -> str:
    """The page.

    Args:
        run: name of the run, for the heading.
        pairs: the sample; the first 400 by id, a random part, are shown.
        judges: for the pictures; they are not asked.

    Raises:
        StoreError: a stored frame is missing or damaged.
    """
    ordered = sorted(pairs, key=lambda pair: pair.pair_id)[:CARDS]
    return document(
        f"Pairs of {run} to label",
        element(
            "header",
            element("h1", f"Pairs of {run} to label"),
            element(
                "p",
                "Same subject: the very same person, animal, character or product, not one of "
                "its kind. Near copy: the same picture, or the same moment of the same shot, also "
                "when scaled, cut, mirrored or brightened. Leave out what you cannot say.",
            ),
            element(
                "p",
                element("button", "Save labels.csv", type="button", id="save"),
                " ",
                element("button", "Take all back", type="button", id="clear"),
                " ",
                element("output", f"0 of {len(ordered)} labelled", id="count"),
            ),
        ),
        element("main", joined(_card(pair, judges) for pair in ordered)),
        script="blind.js",
    )


def _card(pair: Pair, judges: Judges) -> Markup:
    return element(
        "article",
        element("h2", element("code", pair.pair_id)),
        side_by_side(judges, pair.target, pair.reference),
        element(
            "div",
            _question(pair.pair_id, "same_subject", "Same subject?"),
            _question(pair.pair_id, "near_copy", "Near copy?"),
            class_="ask",
        ),
        class_="card",
        data_pair=pair.pair_id,
    )


def _question(pair: str, name: str, text: str) -> Markup:
    return element(
        "fieldset",
        element("legend", text),
        *(
            element(
                "label",
                element("input", type="radio", name=f"{name}-{pair}", value=value),
                f" {value}",
            )
            for value in ("yes", "no", "unsure")
        ),
        data_column=name,
    )
