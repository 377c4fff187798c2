"""The page on which people label: one file, no network, no score, no name of a clip shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.markup import Markup, data_uri, element
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.pages import asset, document
from s2v.datapipe.calibrate.candidates import Candidate
from s2v.datapipe.calibrate.pictures import Views

_KEYS = (("1", "same"), ("2", "different"), ("3", "near copy"), ("4", "unsure"))
_HELP = (
    "Same: one and the same subject, in another picture. Different: two subjects, or one side "
    "shows no subject at all. Near copy: the same subject in essentially the same picture - same "
    "pose, place and framing. Unsure: you cannot tell; the pair will not be counted."
)


def write_page(
    out: Path, title: str, pairs: Sequence[Candidate], pictures: Mapping[str, Views]
) -> Path:
    """Write ``out/index.html``, which holds all it shows.

    Args:
        out: folder, made if need be.
        title: what is labelled.
        pairs: in the order they are shown.
        pictures: of every subject in them.

    Returns:
        the page.
    """
    names = sorted({name for one in pairs for name in (one.target, one.reference)})
    at = {name: n for n, name in enumerate(names)}
    data = {
        # Another set of pairs keeps its labels apart in the browser's storage.
        "key": "s2v-labels-" + stable_hash([title, *(t for c in pairs for t in c.key)]),
        "subjects": [
            [name, *(data_uri(encode_jpeg(v, 85)) for v in (pictures[name].crop,
                                                             pictures[name].frame))]
            for name in names
        ],
        "pairs": [[at[one.target], at[one.reference]] for one in pairs],
        "labels": [label for _, label in _KEYS],
    }  # fmt: skip
    atomic.write_bytes(out / "index.html", _document(title, data).encode())
    return out / "index.html"


def _document(title: str, data: Mapping[str, object]) -> str:
    buttons = [
        element("button", element("kbd", key), " ", label, type="button", data_label=label)
        for key, label in _KEYS
    ]
    return document(
        title,
        element(
            "header",
            element("h1", title),
            element("p", _HELP),
            element(
                "p",
                element("label", "Your name ", element("input", id="who", autocomplete="name")),
                " ",
                element("progress", id="bar", value="0", max="1", aria_label="labelled"),
                " ",
                element("output", "", id="count"),
                " ",
                element("button", "Save labels as CSV", id="save", type="button"),
                " ",
                element("button", "Take all back", id="forget", type="button"),
            ),
            element("p", "", id="warning", role="status"),
        ),
        element(
            "main",
            element("p", "", id="where", aria_live="polite"),
            element("div", _side("left"), _side("right"), class_="pair"),
            element("div", *buttons, class_="choices", role="group", aria_label="What is it?"),
            element(
                "p",
                element("button", element("kbd", "u"), " undo", id="undo", type="button"),
                element("button", element("kbd", "←"), " back", id="back", type="button"),
                element("button", element("kbd", "→"), " on", id="on", type="button"),
                element("button", element("kbd", "n"), " next without label", id="next",
                        type="button"),
                class_="moves",
            ),
        ),
        style=asset(__package__, "label.css"),
        script=asset(__package__, "label.js"),
        data=data,
    )  # fmt: skip


def _side(name: str) -> Markup:
    return element(
        "figure",
        element("img", id=f"{name}-crop", alt=f"subject on the {name}", class_="crop"),
        element("img", id=f"{name}-frame", alt=f"frame on the {name}, its box marked"),
    )
