"""Every subject has a class, and who said so is known."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from s2v.datapipe.backends.nouns import _PAIRS, BANK_OF_CLASS, category_of
from s2v.datapipe.base import assets
from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
from s2v.datapipe.base.embedded.ssd import COCO_CLASSES
from s2v.datapipe.pair.classes import SOURCES, class_of, of_words, word_table
from s2v.datapipe.pair.select import select
from s2v.datapipe.roles import BANKS, CLASSES

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import film_world

LIVING = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}


def test_every_label_of_coco_has_a_class_of_its_own() -> None:
    """Not one falls through to its bank: that would hide a word that nobody thought of."""
    found = {label: of_words(label, f"a red {label}") for label in COCO_CLASSES.values()}
    assert [label for label, name in found.items() if name is None] == []
    assert {label for label, name in found.items() if name == "animal"} == LIVING | {"mouse"}
    assert {label for label, name in found.items() if name == "human"} == {"person"}
    assert Counter(found.values()) == {
        "product": 49,
        "other": 18,
        "animal": 11,
        "clothes": 1,
        "human": 1,
    }


@pytest.mark.assets
def test_imagenets_labels_are_known_but_for_the_counted_rest() -> None:
    assets.fetch(["efficientnet-lite3"])
    labels = EfficientNetLite.from_assets().labels
    found = [of_words(name[0].lower(), name[0].lower()) for name in labels]
    counts = Counter(name or "unknown" for name in found)
    assert sum(counts.values()) == 1000
    assert counts == {
        "animal": 371,
        "product": 355,
        "unknown": 89,
        "other": 66,
        "clothes": 61,
        "landmark": 54,
        "human": 4,
    }
    # The first 398 labels are animals; words with another sense must not make them products.
    living = Counter(name or "unknown" for name in found[:398])
    assert living["animal"] == 370
    assert "human" not in living
    assert Counter(found[398:])["animal"] == 1  # a mouse, where a computer's is meant


def test_the_table_agrees_with_the_one_that_files_phrases_when_they_are_measured() -> None:
    for words, name in word_table().items():
        measured = category_of(words.split()[-1], f"a {words}")
        # Two words that only this table knows may say what the last of them alone does not.
        assert measured in (name, "other") or " " in words, words
        assert name in CLASSES
    for words in _PAIRS:
        assert of_words(words.split()[-1], f"a {words}") == category_of(words.split()[-1], words)


@pytest.mark.parametrize(
    ("noun", "phrase", "expected"),
    [
        ("bear", "a brown teddy bear", "product"),
        ("bear", "a brown bear", "animal"),
        ("dog", "a hot dog", "other"),
        ("light", "a traffic light", "other"),
        ("vest", "a man in a bulletproof vest", "clothes"),
        ("tower", "the tall Eiffel Tower", "landmark"),
        ("police officer", "a police officer", "human"),
        ("quark", "a strange quark", None),
        ("pair", "a pair of red shoes", "clothes"),
        ("pair", "a pair of glasses", "product"),
        ("group", "a group of people on a beach", "human"),
        ("set", "a set of strange quarks", None),
        ("pair", "a pair", None),
        ("", "", None),
    ],
)
def test_several_words_overrule_one(noun: str, phrase: str, expected: str | None) -> None:
    assert of_words(noun, phrase) == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (("rabbit", "a rabbit", "creature", "animal", True), ("ip_character", "origin")),
        (("man", "a man", "person", "human", True), ("ip_character", "origin")),
        (("cup", "a cup", "thing", "product", True), ("product", "extractor")),
        (("mascot", "a mascot", "creature", "ip_character", False), ("ip_character", "extractor")),
        (("shirt", "a shirt", "thing", "clothes", False), ("clothes", "extractor")),
        (("scarf", "a scarf", "thing", "other", False), ("clothes", "words")),
        (("scarf", "a scarf", "thing", None, False), ("clothes", "words")),
        (("quark", "a quark", "thing", "other", False), ("other", "extractor")),
        (("quark", "a quark", "thing", None, False), ("other", "bank")),
        (("quark", "a quark", "creature", None, False), ("animal", "bank")),
        (("quark", "a quark", "person", "nonsense", False), ("human", "bank")),
        # The bank was measured: another sense of the noun is not taken against it.
        (("mouse", "a mouse", "thing", None, False), ("other", "bank")),
        (("model", "a model", "thing", None, False), ("other", "bank")),
        ((None, "it", None, None, False), ("other", "bank")),
    ],
)
def test_who_says_what_a_subject_is(
    subject: tuple[str | None, str, str | None, str | None, bool], expected: tuple[str, str]
) -> None:
    assert class_of(*subject) == expected


def test_a_class_from_words_never_contradicts_the_bank() -> None:
    banks = {name: {BANK_OF_CLASS[name]} for name in CLASSES}
    banks["ip_character"] = {"person", "creature"}
    for words in word_table():
        for bank in BANKS:
            name, source = class_of(words.split()[-1], words, bank, None)
            assert bank in banks[name]
            assert source in SOURCES


def test_subjects_of_a_run_carry_their_class_and_its_source() -> None:
    world = film_world()
    by_default = {r["subject_id"]: r for r in rows(select(world.tables(), DEFAULT), "subjects")}
    assert {(r["class"], r["class_source"]) for r in by_default.values()} == {
        ("animal", "words"),
        ("human", "bank"),
        ("product", "words"),
    }
    for row in world.rows["sources"]:
        if row["long_video_id"] == "bunny":
            row["origin"] = "animation"
    drawn = {r["subject_id"]: r for r in rows(select(world.tables(), DEFAULT), "subjects")}
    bunny = {s for s, r in drawn.items() if r["long_video_id"] == "bunny"}
    assert {(drawn[s]["class"], drawn[s]["class_source"]) for s in bunny} == {
        ("ip_character", "origin")
    }
    plain = select(world.tables(), changed(classes={"drawn_origins": ()}))
    assert {r["class"] for r in rows(plain, "subjects")} == {"animal", "human", "product"}


def test_what_the_extractor_said_comes_before_the_words() -> None:
    world = film_world()
    for row in world.rows["phrases"]:
        if row["noun"] == "cup":
            row["class"] = "landmark"
    found = select(world.tables(), DEFAULT).subjects
    cups = found.filter(pa.compute.equal(found["noun"], "cup"))
    assert set(zip(cups["class"].to_pylist(), cups["class_source"].to_pylist(), strict=True)) == {
        ("landmark", "extractor")
    }
