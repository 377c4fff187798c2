"""The page on which one rater answers: from disk, by keyboard, without a network or a name."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path

from s2v.datapipe.base.atomic import write_bytes
from s2v.datapipe.base.markup import Markup, element
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
    style, script = _asset("rate.css"), _asset("rate.js")
    # A page from disk has no origin that 'self' could name.
    local = "'self' file:"
    policy = (
        f"default-src 'none'; img-src {local}; media-src {local}; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    # "<" would let a prompt end the script element; JSON reads the escape as the same letter.
    stored = json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    title = f"Video study, session {rater}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
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
    body = element(
        "body",
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
        element("script", Markup(stored), type="application/json", id="data"),
        element("script", Markup(script)),
    )  # fmt: skip
    return "<!doctype html>\n" + element("html", head, "\n", body, lang="en") + "\n"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
