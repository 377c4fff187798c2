"""HTML without a template language: text is escaped where it enters, and only there.

Every function that returns markup returns a :class:`Markup`; what is not one is text, and is
escaped when it is put into an element. So a caption cannot become a tag by being forgotten.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import Final

_VOID: Final = frozenset({"br", "img", "input", "meta", "source"})
_MAGIC: Final = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftyp", "video/mp4"),
)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = Markup | str | int | float | None


def element(tag: str, /, *content: Content, **attributes: Content | bool) -> Markup:
    """An element; content that is not :class:`Markup` is escaped, attributes always are.

    Args:
        tag: its name.
        content: what is in it; ``None`` is nothing.
        attributes: ``True`` writes the bare name, ``False`` and ``None`` leave it out. A
            trailing underscore is dropped (``class_``), others become hyphens.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{join(*content)}</{tag}>")


def join(*content: Content) -> Markup:
    """Pieces one after another; what is not :class:`Markup` is escaped."""
    return Markup("".join(one if isinstance(one, Markup) else text(one) for one in content))


def joined(content: Iterable[Content]) -> Markup:
    """As :func:`join`, of an iterable."""
    return join(*content)


def text(value: Content | bool) -> str:
    """Escaped text, for content and for quoted attributes."""
    return "" if value is None else html.escape(clean(value), quote=True)


def media_type(data: bytes) -> str:
    """The MIME type by the first bytes.

    Raises:
        ValueError: neither JPEG, PNG, WebP nor MP4.
    """
    for at, magic, kind in _MAGIC:
        if data[at : at + len(magic)] == magic:
            return kind
    raise ValueError(f"neither JPEG, PNG, WebP nor MP4: {len(data)} bytes that start {data[:12]!r}")


def data_uri(data: bytes) -> str:
    """A file as an address that holds it.

    Raises:
        ValueError: not one of the known types.
    """
    return f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Content]],
    caption: str | None = None,
    *,
    class_: str | None = None,
) -> Markup:
    """A table whose first column heads its rows; wide ones scroll by themselves."""
    cells = [list(row) for row in rows]
    names = list(columns)
    figures = [n > 0 and all(_is_figure(row[n]) for row in cells) for n in range(len(names))]
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_="figure" if figure else None)
            for name, figure in zip(names, figures, strict=True)
        ),
    )
    body = joined(_row(row, figures) for row in cells)
    made = element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", head),
        element("tbody", body),
        class_=class_,
    )
    # Focusable, so that a keyboard can scroll it (WCAG 2.1.1).
    named = {"role": "group", "aria_label": caption} if caption else {}
    return element("div", made, class_="scroll", tabindex="0", **named)


def _row(cells: list[Content], figures: list[bool]) -> Markup:
    first, *others = cells
    return element(
        "tr",
        element("th", first, scope="row"),
        *(
            element("td", one, class_="figure" if figure else None)
            for one, figure in zip(others, figures[1:], strict=True)
        ),
    )


def _is_figure(one: Content) -> bool:
    """Whether a cell is a number, perhaps with a unit, or the dash that stands for none."""
    if one is None or isinstance(one, int | float):
        return True
    plain = one.lstrip("-<>+−≥")
    return (
        not isinstance(one, Markup) and len(one) < 20 and (one in ("–", "") or plain[:1].isdigit())
    )


def clean(text: object) -> str:
    """Text from strangers and models without what upsets terminals and readers.

    Control characters, bidirectional overrides and lone surrogates become U+FFFD, so that a
    caption can neither move the cursor nor show its letters in another order than it has.
    """
    return "".join("\ufffd" if _hostile(letter) else letter for letter in str(text))


def _hostile(letter: str) -> bool:
    code = ord(letter)
    if code < 0x20 or 0x7F <= code < 0xA0:
        return letter not in "\n\t"
    return 0xD800 <= code < 0xE000 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
