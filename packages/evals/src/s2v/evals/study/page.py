"""The page on which one rater answers: from disk, by keyboard, without a network or a name."""

from __future__ import annotations

from pathlib import Path

from s2v.datapipe.base.atomic import write_bytes
from s2v.datapipe.base.markup import element
from s2v.datapipe.base.pages import asset, document
from s2v.evals.study.records import WORDS, Key

_HELP = {
    "scale": (
        "Look at the reference pictures and read the text, then watch the video to its end. "
        "Answer each question: 1 unusable, 2 usable, 3 satisfactory."
    ),
    "pairwise": (
        "Look at the reference pictures and read the text, then watch both videos to their end. "
        "For each question say which one is better, or that there is no difference."
    ),
}


def write_page(path: Path, key: Key, rater: str) -> None:
    """Write one rater's page; media lie in ``media/`` beside it.

    The page holds codes, prompts and questions, and nothing that tells a model, a gold item or a
    repeat from the rest.

    Args:
        path: the HTML file.
        key: of the study.
        rater: whose session.
    """
    data = {
        "schema": "s2v-eval-answers/1",
        "study": key.study,
        "rater": rater,
        "questions": [[q.id, q.text] for q in key.questions],
        "choices": [[c, WORDS[c]] for c in key.choices],
        "items": [
            [
                item.id,
                list(item.media),
                list(key.groups[item.group].references),
                key.groups[item.group].prompt,
            ]
            for item in key.sessions[rater]
        ],
    }
    write_bytes(path, _document(key, rater, data).encode())


def _document(key: Key, rater: str, data: object) -> str:
    # A page from disk has no origin that 'self' could name.
    local = "'self' file:"
    title = f"Video study, session {rater}"
    sides = ("",) if key.mode == "scale" else ("left", "right")
    videos = [
        element(
            "figure",
            element("video", id=f"video-{n}", controls=True, loop=True, muted=True,
                    playsinline=True, preload="auto"),
            element("figcaption", side) if side else None,
        )
        for n, side in enumerate(sides)
    ]  # fmt: skip
    questions = [
        element(
            "fieldset",
            element("legend", q.text),
            *(
                element(
                    "button",
                    element("kbd", str(n)),
                    f" {WORDS[choice]}",
                    type="button",
                    data_question=q.id,
                    data_choice=choice,
                    aria_pressed="false",
                )
                for n, choice in enumerate(key.choices, start=1)
            ),
            id=f"q-{q.id}",
        )
        for q in key.questions
    ]
    return document(
        title,
        element(
            "header",
            element("h1", title),
            element("p", _HELP[key.mode]),
            element(
                "p",
                element("progress", id="bar", value="0", max="1", aria_label="answered"),
                " ",
                element("output", "", id="count"),
                " ",
                element("button", "Save answers", id="save", type="button"),
            ),
            element("p", "", id="warning", role="status"),
        ),
        element(
            "main",
            element("h2", "", id="where", aria_live="polite"),
            element("p", "", id="prompt"),
            element(
                "div",
                element("div", id="references", class_="references"),
                element("div", *videos, class_="videos"),
                class_="beside",
            ),
            element("div", *questions, class_="questions"),
            element(
                "p",
                element("button", element("kbd", "←"), " back", id="back", type="button"),
                element("button", element("kbd", "→"), " next", id="next", type="button"),
                element("button", element("kbd", "space"), " play or stop", id="play",
                        type="button"),
                class_="moves",
            ),
        ),
        style=asset(__package__, "rate.css"),
        script=asset(__package__, "rate.js"),
        data=data,
        images=local,
        media=local,
    )  # fmt: skip
