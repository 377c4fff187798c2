"""What class of subject a phrase names: the classes of Phantom's figure 11 (supplement, 5).

Banks (person, creature, thing) decide how a subject is searched for and were settled when it was
measured. Classes are finer, decide nothing about a pair, and are told anew at every selection, so
that a better table of words costs no measuring. Who said it is kept beside the class:

- ``origin``: a person or an animal of a source that states it is drawn is a character of it. An
  animated rabbit is the film's rabbit, whatever a detector or a word calls it.
- ``extractor``: what the phrase extractor said, save ``other``, which says only that it knew no
  better.
- ``words``: the table ``class_words.toml``, several words of the phrase before its noun alone,
  where the bank agrees: a noun's other sense is not taken against what was measured.
- ``bank``: nothing knew the noun; people are ``human``, creatures ``animal``, things ``other``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.columns import Ints, codes, positions, whole
from s2v.datapipe.pair.rows import Tables, measured
from s2v.datapipe.pair.sample_rules import ClassRules
from s2v.datapipe.roles import CLASSES

SOURCES: Final = ("origin", "extractor", "words", "bank")
_OF_BANK: Final = {"person": "human", "creature": "animal", "thing": "other"}
_BANKS: Final = {
    "human": ("person",),
    "animal": ("creature",),
    "ip_character": ("person", "creature"),
}
_MOST_WORDS: Final = 4
#: Nouns that only count another one: a pair of shoes is shoes.
_MEASURES: Final = frozenset(
    (
        *("bunch", "couple", "dozen", "group", "kind", "lot", "number", "pack"),
        *("pair", "piece", "pile", "row", "set", "sort", "stack", "type"),
    )
)


def class_of(
    noun: str | None,
    phrase: str,
    bank: str | None,
    said: str | None,
    drawn: bool = False,
) -> tuple[str, str]:
    """The class of one subject, and who said so.

    Args:
        noun: head noun, a lemma in lower case.
        phrase: the words that it stands in.
        bank: ``person``, ``creature`` or ``thing``.
        said: what the phrase extractor said, ``None`` where it says nothing.
        drawn: its source states that it is an animation.

    Returns:
        One of ``roles.CLASSES`` and one of :data:`SOURCES`.
    """
    if drawn and bank in _BANKS["ip_character"]:
        return "ip_character", "origin"
    if said in CLASSES and said != "other":
        return str(said), "extractor"
    known = of_words(noun or "", phrase)
    if known is not None and (bank not in _OF_BANK or bank in _BANKS.get(known, ("thing",))):
        return known, "words"
    return (
        (str(said), "extractor") if said in CLASSES else (_OF_BANK.get(bank or "", "other"), "bank")
    )


def of_words(noun: str, phrase: str = "") -> str | None:
    """What the table says of a noun: the longest of its words known, ``None`` when none is.

    Args:
        noun: head noun, perhaps of several words.
        phrase: the words it stands in: "hot dog" is known only where both are there, and "a pair
            of red shoes" is shoes.
    """
    table, noun = word_table(), noun.lower().strip()
    last = noun.split()[-1:] or [""]
    words = [word.strip(".,;:!?\"'()") for word in phrase.lower().split()]
    if last[0] in _MEASURES and table.get(noun) is None:
        return _counted(words, last[0])
    for end in (n for n, word in enumerate(words, 1) if word == last[0]):
        for start in range(max(0, end - _MOST_WORDS), end - 1):
            if (found := table.get(" ".join(words[start:end]))) is not None:
                return found
    return table.get(noun) or table.get(last[0])


def _counted(words: list[str], measure: str) -> str | None:
    """What the table says of the first word it knows behind "<measure> of"; plurals are met."""
    table = word_table()
    begin = next(
        (n for n in range(len(words) - 1) if words[n] == measure and words[n + 1] == "of"), None
    )
    if begin is None:
        return None
    behind = words[begin + 2 :]
    for n in range(len(behind)):
        for length in range(_MOST_WORDS, 0, -1):
            whole = " ".join(behind[n : n + length])
            for one in (whole, whole.removesuffix("s"), whole.removesuffix("es")):
                if (found := table.get(one)) is not None:
                    return found
    return None


@cache
def word_table() -> Mapping[str, str]:
    """Word, or words, to class.

    Raises:
        ValueError: the file names an unknown class or a word twice.
    """
    text = files("s2v.datapipe.pair").joinpath("class_words.toml").read_text(encoding="utf-8")
    table: dict[str, str] = {}
    for name, listed in tomllib.loads(text).items():
        if name not in CLASSES:
            raise ValueError(f"class_words.toml: {name!r} is no class; they are {CLASSES}")
        for word in (" ".join(part.split()) for part in listed.split(",")):
            if word in table:
                raise ValueError(f"class_words.toml: {word!r} is there twice")
            table[word] = name
    return MappingProxyType(table)


def _different(columns: Sequence[pa.Array]) -> tuple[Ints, Ints]:
    """Which of the different rows each is, ``[n]``, and where each of those is first met."""
    at = np.zeros(len(columns[0]), np.int64)
    first = at[:1]
    for column in columns:
        code, known = codes(column)
        pairs = at * (len(known) + 1) + code + 1
        _, first, at = np.unique(pairs, return_index=True, return_inverse=True)
    return at, first


def name_classes(subjects: pa.Table, tables: Tables, rules: ClassRules) -> pa.Table:
    """Fill columns ``class`` and ``class_source`` of table SUBJECTS.

    Args:
        subjects: all rows, kept or not; vectors may be missing.
        tables: phrases, for what the extractor said, and sources, for their origin.
        rules: which origins are drawn.

    Returns:
        The table with both columns, in its order.
    """
    phrases, sources = measured(tables, "phrases"), measured(tables, "sources")
    at = positions(subjects["subject_id"], phrases["subject_id"])
    said = whole(phrases["class"]).take(pa.array(at, mask=at < 0))
    stated = pc.is_in(sources["origin"], value_set=pa.array(rules.drawn_origins, pa.string()))
    of_drawn = pc.is_in(subjects["video_id"], value_set=whole(sources["video_id"].filter(stated)))
    columns = [whole(subjects[name]) for name in ("noun", "phrase", "bank")]
    at, first = _different([*columns, said, whole(of_drawn)])  # a phrase is met again and again
    rows = (
        column.take(pa.array(first)).to_pylist() for column in (*columns, said, whole(of_drawn))
    )
    found = [class_of(*row) for row in zip(*rows, strict=True)]
    made = {
        name: pa.array([row[n] for row in found], pa.string()).take(pa.array(at))
        for n, name in enumerate(("class", "class_source"))
    }
    for name, column in made.items():
        at_column = subjects.schema.get_field_index(name)
        subjects = (
            subjects.append_column(name, column)
            if at_column < 0
            else subjects.set_column(at_column, name, column)
        )
    return subjects
