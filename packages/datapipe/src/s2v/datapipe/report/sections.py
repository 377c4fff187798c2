"""What callers add to the page: sections of paragraphs, tables, line charts and media.

Data only. The page escapes every string; media are given as bytes and sniffed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from s2v.datapipe.base.markup import Content, Markup, data_uri, element, join, media_type, table
from s2v.datapipe.report import charts
from s2v.datapipe.report.charts import Series
from s2v.datapipe.report.wording import short

__all__ = ["Block", "Card", "LineChart", "Media", "MediaGrid", "Paragraph", "Section", "Series",
           "Table"]  # fmt: skip

Cell = str | int | float | None
MARKS: Final = 6
"""Colours a phrase and its reference share; references beyond repeat them."""
_PAIR: Final = 2  # media that a narrow card holds side by side


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Columns and rows; ``note`` stands under it. The first column heads the rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: a row has another number of cells than there are columns.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: {len(row)} cells for columns {list(self.columns)}"
                )


@dataclass(frozen=True)
class LineChart:
    """Lines over steps; ``log_y`` for losses that fall by decades."""

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    log_y: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Media:
    """One picture or clip: encoded bytes (JPEG, PNG, WebP, MP4) and what it shows.

    Bytes go into the page as they are: :func:`s2v.datapipe.report.media.thumbnail` makes small
    pictures, and :func:`s2v.datapipe.base.media.cut.preview_clip` small clips.

    Attributes:
        data: the file.
        alt: what one who does not see it should know; required.
        label: a word or two under it.
        poster: JPEG or PNG shown before a clip plays.
        mark: number of the reference, from 0, for its colour; ``None`` for none.
    """

    data: bytes
    alt: str
    label: str | None = None
    poster: bytes | None = None
    mark: int | None = None


@dataclass(frozen=True)
class Card:
    """Media that belong together, as a sample and its references, with one caption.

    Attributes:
        media: left to right.
        caption: shown under them.
        spans: ``(start, end, mark)`` in ``caption``: phrases marked in their reference's colour.
        title: heads the card.
        notes: short facts under the caption.
    """

    media: Sequence[Media]
    caption: str = ""
    spans: Sequence[tuple[int, int, int]] = ()
    title: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class MediaGrid:
    """Cards side by side; the page shows as many, from the first, as its size allows."""

    cards: Sequence[Card]
    note: str | None = None


Block = Paragraph | Table | LineChart | MediaGrid


@dataclass(frozen=True)
class Section:
    """A heading and its blocks."""

    title: str
    blocks: Sequence[Block]


def marked(caption: str, spans: Sequence[tuple[int, int, int]]) -> Markup:
    """A caption with phrases marked in their reference's colour and numbered as it is.

    Spans that overlap an earlier one or leave the caption are not marked.
    """
    pieces: list[Content] = []
    at = 0
    for start, end, mark in sorted(spans):
        if at <= start < end <= len(caption):
            pieces += [caption[at:start], _mark(caption[start:end], mark)]
            at = end
    return join(*pieces, caption[at:])


def _mark(phrase: str, mark: int) -> Markup:
    return element("mark", phrase, element("sup", mark + 1), class_=f"m{mark % MARKS}")


def picture(media: Media, overlay: Markup | None = None) -> Markup:
    """A figure with an image or a muted, looping clip.

    Clips do not start by themselves: the script plays those in sight unless the reader
    prefers reduced motion, and without script they have controls.

    Raises:
        ValueError: the bytes are no known image or MP4.
    """
    if media_type(media.data) == "video/mp4":
        shown = element(
            "video",
            src=data_uri(media.data),
            poster=data_uri(media.poster) if media.poster else None,
            muted=True,
            loop=True,
            controls=True,
            playsinline=True,
            preload="none",
            aria_label=media.alt,
        )
    else:
        shown = element("img", src=data_uri(media.data), alt=media.alt, decoding="async")
    number = None if media.mark is None else element("b", media.mark + 1, class_="number")
    label = join(number, " " if number and media.label else None, media.label)
    return element(
        "figure",
        element("div", shown, overlay, class_="frame"),
        element("figcaption", label) if label else None,
        class_=None if media.mark is None else f"m{media.mark % MARKS}",
    )


def render_card(card: Card) -> Markup:
    """One card of a media grid."""
    return element(
        "article",
        element("h4", card.title) if card.title else None,
        element("div", *(picture(one) for one in card.media), class_="media"),
        element("p", marked(card.caption, card.spans), class_="caption") if card.caption else None,
        element("ul", *(element("li", note) for note in card.notes), class_="chips")
        if card.notes
        else None,
        class_="card",
    )


def render_block(block: Block, fits: Callable[[int], bool]) -> Markup:
    """HTML of one block.

    Args:
        block: what to show.
        fits: asked with the bytes of a card before it is shown; ``False`` ends the grid.
    """
    if isinstance(block, Paragraph):
        return element("p", block.text)
    if isinstance(block, Table):
        rows = [[_cell(one) for one in row] for row in block.rows]
        return join(table(block.columns, rows, block.title), _note(block.note))
    if isinstance(block, LineChart):
        return _chart(block)
    return _grid(block, fits)


def _cell(value: Cell) -> Content:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else value


def _note(note: str | None) -> Markup | None:
    return element("p", note, class_="note") if note else None


def _chart(block: LineChart) -> Markup:
    rows = [(one.name, one.points(positive=block.log_y), len(one.x)) for one in block.series]
    said = [
        f"{name}: from {short(points[0][1])} to {short(points[-1][1])}"
        for name, points, _ in rows
        if points
    ]
    description = f"{block.y_label} over {block.x_label}. " + "; ".join(said) + "."
    figures: list[list[Content]] = []
    for name, points, given in rows:
        if points:
            ys = [y for _, y in points]
            ends = [short(y) for y in (ys[0], ys[-1], min(ys), max(ys))]
            figures.append([name, len(points), *ends, given - len(points)])
    columns = ("line", "points", "first", "last", "lowest", "highest", "left out")
    return element(
        "figure",
        element("figcaption", block.title),
        charts.line_chart(
            block.title, description, block.series, block.x_label, block.y_label, log_y=block.log_y
        ),
        charts.legend([one.name for one in block.series]),
        element("details", element("summary", "Figures"), table(columns, figures, block.title)),
        _note(block.note),
        class_="wide-chart",
    )


def _grid(block: MediaGrid, fits: Callable[[int], bool]) -> Markup:
    shown: list[Markup] = []
    for card in block.cards:
        made = render_card(card)
        if not fits(len(made.encode())):
            break
        shown.append(made)
    left_out = len(block.cards) - len(shown)
    several = max((len(card.media) for card in block.cards), default=0) > _PAIR
    return join(
        element("div", *shown, class_="cards wide" if several else "cards"),
        _note(f"{len(shown)} of {len(block.cards)} shown, for the page's size.")
        if left_out
        else None,
        _note(block.note),
    )
