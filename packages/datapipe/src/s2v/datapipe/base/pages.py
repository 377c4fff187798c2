"""The shell of every page of this project: it fetches nothing and runs its own script only.

A content security policy names the style and the script by their hashes, so that nothing that a
caption or a file name smuggled in could ever run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources

from s2v.datapipe.base.markup import Content, Markup, element


def document(
    title: str,
    *body: Content,
    style: str,
    script: str | None = None,
    data: object = None,
    images: str = "data:",
    media: str | None = None,
) -> str:
    """A whole page.

    Args:
        title: of the window.
        body: its elements.
        style: a style sheet.
        script: a program that runs when the rest is there, or none.
        data: what the script finds as JSON in the element ``data``, or None.
        images: where pictures may come from, in the policy's words; by default the page itself.
        media: where videos may come from; None: nowhere.
    """
    allowed = [
        "default-src 'none'",
        f"img-src {images}",
        f"media-src {media}" if media else None,
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'" if script else None,
        "base-uri 'none'",
        "form-action 'none'",
    ]
    policy = "; ".join(one for one in allowed if one)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    inside = element(
        "body",
        *body,
        None
        if data is None
        else element("script", _stored(data), type="application/json", id="data"),
        element("script", Markup(script)) if script else None,
    )
    return "<!doctype html>\n" + element("html", head, "\n", inside, lang="en") + "\n"


def asset(package: str, name: str) -> str:
    """A style sheet or script that lies in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _stored(data: object) -> Markup:
    # "<" would let a prompt or an id end the element; JSON reads the escape as the same letter.
    said = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return Markup(said.replace("<", "\\u003c"))


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
