"""A sample as foreign formats describe it, before any pixel is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2v.datapipe.backends.nouns import category_of
from s2v.datapipe.base import ids
from s2v.datapipe.base.media.boxes import Box
from s2v.datapipe.base.media.masks import Rle
from s2v.datapipe.base.shards import PairType
from s2v.datapipe.interop.errors import RowError

#: Where a phrase's describing words begin: its head noun stands before them.
_DESCRIBING = """in with wearing of on at holding and from near behind beside by under over to for
    who that which sitting standing riding carrying walking driving playing"""
_AFTER_NOUN = frozenset(_DESCRIBING.split())


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame, as formats name it: its number in the file, or its share of a span.

    Attributes:
        index: number of the frame in the file, from 0; ``None`` where a share is given.
        share: of the clip's frames, in [0, 1).
    """

    index: int | None = None
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """The part of a video that a dataset calls a clip.

    Attributes:
        name: its id there.
        names: names under which the user may have its file, best first.
        path: the file as the dataset names it, below a folder; ``None`` where only names are known.
        long_name: id of the long video; clips of one pair inside it.
        offset_us: where the clip begins in the long video, where known.
        seconds: begin and end in a file of the *whole* video, for files found under ``whole``.
        whole: names of the whole video.
        frames: first frame and the one behind the last, by number in the file; ``None``: all.
        crop: ``x0, y0, x1, y1`` of the picture that is used, in displayed pixels.
        url: where it was published.
    """

    name: str
    names: tuple[str, ...] = ()
    path: str | None = None
    long_name: str = ""
    offset_us: int | None = None
    seconds: tuple[float, float] | None = None
    whole: tuple[str, ...] = ()
    frames: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that may become the reference of a phrase.

    Attributes:
        id: unique in the dataset; goes into the sample's id.
        clip: what it is seen in.
        moment: on which frame.
        box: xyxy in ``canvas`` pixels.
        canvas: longer side of the picture that the box was measured on, where that was shrunk;
            ``None``: the frame itself, after the clip's crop.
        mask: of the frame after the crop; ``None``: the box is all that is known.
        similarity: to the target's subject, where the dataset says.
    """

    id: str
    clip: Clip
    moment: Moment
    box: tuple[float, float, float, float]
    canvas: int | None = None
    mask: Rle | None = None
    similarity: float | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """A phrase of the caption with what may be its reference, best first."""

    phrase: str
    span: tuple[int, int]
    noun: str
    category: str  # one of roles.CLASSES
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """One sample to be.

    Attributes:
        pair_type: ``in`` or ``cross``.
        row: id of the foreign row it comes from.
        where: file and row, for messages.
        clip: the target.
        caption: as given.
        subjects: at least one.
        verifier: who said yes to both questions about every pair; ``None``: nobody was asked.
        aesthetic: score of the clip, where it is of the LAION head.
    """

    pair_type: PairType
    row: str
    where: str
    clip: Clip
    caption: str
    subjects: tuple[Subject, ...]
    verifier: str | None = None
    aesthetic: float | None = None


#: Who gave the verdicts of Phantom-Data's pairs; which model and prompt was not published.
PHANTOM_VERIFIER = "phantom-data"


def find_phrase(phrase: str, caption: str) -> tuple[int, int]:
    """Character positions of a phrase in its caption: as whole words, in its case if it can be.

    Raises:
        RowError: it is not there.
    """
    for text, words in ((caption, phrase), (caption.lower(), phrase.lower())):
        if len(text) != len(caption):
            break  # lower case that changes lengths ("İ") would shift positions
        at = text.find(words)
        first = at
        while at >= 0:
            end = at + len(words)
            if not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
                return at, end
            at = text.find(words, at + 1)
        if first >= 0:
            return first, first + len(words)
    raise RowError("phrase not in the caption", f"{phrase[:100]!r} is not in {caption[:160]!r}")


def head_noun(phrase: str) -> str:
    """The noun that a phrase is about, by its place: the last word before describing ones."""
    words = [word.strip(".,;:'\"()").lower() for word in phrase.split()]
    words = [word for word in words if word]
    for number, word in enumerate(words[1:], start=1):
        if word in _AFTER_NOUN:
            return words[number - 1]
    return words[-1] if words else ""


def class_of(phrase: str) -> tuple[str, str]:
    """Head noun of a phrase, and its class: one of ``roles.CLASSES``."""
    noun = head_noun(phrase)
    return noun, category_of(noun, phrase)


def subject(phrase: str, span: tuple[int, int], candidates: Sequence[Candidate]) -> Subject:
    """A subject with its noun and class worked out."""
    noun, category = class_of(phrase)
    return Subject(phrase, span, noun, category, tuple(candidates))


def name_to_id(prefix: str, name: str) -> str:
    """An id of our alphabet for a foreign name: itself if it may be one, else a hash."""
    if ids.VIDEO_ID.fullmatch(name):
        return name
    return f"{prefix}{ids.stable_hash([name], 16)}"


def to_frame(
    box: Box, canvas: int | None, width: int, height: int
) -> tuple[float, float, float, float]:
    """A box in pixels of a frame.

    Args:
        box: xyxy in pixels of the frame, or of the frame shrunk to ``canvas``.
        canvas: longer side of that shrunk frame; smaller frames were not enlarged.
        width, height: of the frame.

    Raises:
        RowError: it has no area, or lies outside by more than a pixel of the canvas. What lies
            outside has been measured on another picture, and no scale is known to mend it.
    """
    scale = max(width, height) / canvas if canvas and max(width, height) > canvas else 1.0
    x0, y0, x1, y1 = (v * scale for v in box)
    slack = max(1.0, scale)
    if x0 < -slack or y0 < -slack or x1 > width + slack or y1 > height + slack:
        on = f" on a canvas of {canvas}" if canvas else ""
        raise RowError(
            "box outside the frame",
            f"{[round(float(v), 1) for v in box]}{on} does not lie in {width}x{height}",
        )
    x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise RowError("box outside the frame", f"{list(box)} has no area in {width}x{height}")
    return x0, y0, x1, y1
