"""The embedded captioner and its phrases: what is said of a person's clothes, kinds and classes."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image as Pillow

from s2v.datapipe.backends.embedded.captioner import FactsCaptioner
from s2v.datapipe.backends.embedded.clothes import clothes_mask
from s2v.datapipe.backends.embedded.phrases import ChunkPhrases
from s2v.datapipe.backends.embedded.proposals import Proposer
from s2v.datapipe.backends.nouns import BANK_OF_CLASS, category_of
from s2v.datapipe.base import assets
from s2v.datapipe.base.embedded.ssd import COCO_CLASSES
from s2v.datapipe.roles import BANKS, CLASSES, ClipView, Image


def frames(path: Path, *shares: float) -> list[Image]:
    with av.open(str(path)) as film:
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    return [decoded[int(share * len(decoded))] for share in shares]


@pytest.fixture(scope="module")
def captioner() -> FactsCaptioner:
    nets = ["yunet", "ssd-mobilenet-v2", "efficientnet-lite3", "u2netp"]
    assets.fetch([*nets, "man-clip", "man-leaves", "man-photo", "obama-3", "biden", "astronaut"])
    return FactsCaptioner(Proposer())


@pytest.mark.assets
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_man_in_a_black_shirt_before_a_white_door_wears_black(
    captioner: FactsCaptioner, share: float
) -> None:
    """He was said to wear brown, as the box's lower middle shows his face and the door."""
    shown = frames(assets.asset("man-clip"), share)
    text = captioner.caption(ClipView("c", tuple(shown), (0,), 0.1)).text
    assert text.startswith("A person in black clothes is moving slowly")


@pytest.mark.assets
@pytest.mark.parametrize(
    ("photo", "colours"),
    [
        ("man-photo", {"black"}),
        ("obama-3", {"black", "blue"}),  # a dark blue suit
        ("biden", {"black"}),
        ("astronaut", {"orange"}),
    ],
)
def test_clothes_of_people_on_photographs_have_the_colour_one_sees(
    captioner: FactsCaptioner, photo: str, colours: set[str]
) -> None:
    image = np.asarray(Pillow.open(assets.asset(photo)).convert("RGB"))
    text = captioner.caption(ClipView("c", (image,), (0,))).text.lower()
    assert any(f"a person in {colour} clothes" in text for colour in colours), text


def test_clothes_lie_below_the_chin_inside_the_outline() -> None:
    body = np.zeros((100, 100), np.bool_)
    body[10:50, 40:60] = True  # head
    body[50:, 20:80] = True
    worn = clothes_mask(body, (10.0, 5.0, 95.0, 100.0), (40.0, 10.0, 60.0, 50.0))
    assert not worn[:56].any()
    assert worn[56:, 20:80].all()
    assert worn.sum() == worn[56:, 20:80].sum()


@pytest.mark.parametrize("face", [None, (40.0, 10.0, 60.0, 40.0)])
def test_without_an_outline_clothes_are_sought_between_the_shoulders(
    face: tuple[float, float, float, float] | None,
) -> None:
    worn = clothes_mask(np.zeros((100, 100), np.bool_), (0.0, 0.0, 100.0, 100.0), face)
    rows, columns = np.where(worn)
    assert rows.min() >= 44
    assert columns.min() >= 19
    assert columns.max() <= 80


def test_a_frame_that_ends_at_the_chin_shows_no_clothes() -> None:
    everything = np.ones((100, 100), np.bool_)
    assert not clothes_mask(everything, (0.0, 0.0, 100.0, 100.0), (20.0, 0.0, 80.0, 98.0)).any()


@pytest.fixture(scope="module")
def phrases() -> ChunkPhrases:
    assets.fetch(["en-core-web-sm"])
    return ChunkPhrases()


@pytest.mark.assets
def test_every_phrase_has_a_class_of_the_paper_and_the_bank_that_goes_with_it(
    phrases: ChunkPhrases,
) -> None:
    caption = (
        "A person in black clothes and a brown dog are moving in a medium shot, in a bright scene. "
        "A red car stands near a stone bridge. A blue jacket hangs on a tree."
    )
    found = {p.text: (p.noun, p.bank, p.category, p.reason) for p in phrases.phrases(caption)}
    assert found["A person in black clothes"] == ("person", "person", "human", None)
    assert found["a brown dog"] == ("dog", "creature", "animal", None)
    assert found["A red car"] == ("car", "thing", "product", None)
    assert found["a stone bridge"] == ("bridge", "thing", "landmark", None)
    assert found["A blue jacket"] == ("jacket", "thing", "clothes", None)
    assert found["a tree"] == ("tree", "thing", "other", "vague subject")


@pytest.mark.assets
def test_several_at_once_are_no_subject(phrases: ChunkPhrases) -> None:
    caption = "Several people in blue clothes and a group of animals are moving in a wide shot."
    assert {p.reason for p in phrases.phrases(caption)} == {"plural subject"}


def test_every_kind_the_detector_knows_has_its_class() -> None:
    """The class decides with what a subject is compared."""
    living = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"}
    for label in COCO_CLASSES.values():
        noun = label.split()[-1]
        found = category_of(noun, f"a red {label}")
        assert found in CLASSES
        assert BANK_OF_CLASS[found] in BANKS
        if label == "mouse":  # the captioner says "computer mouse"
            assert category_of("mouse", "a computer mouse") == "product"
        else:
            assert (found == "animal") == (label in living), label
            assert (found == "human") == (label == "person"), label


@pytest.mark.parametrize(
    ("noun", "phrase", "expected"),
    [
        ("bear", "a brown teddy bear", "product"),
        ("bear", "a brown bear", "animal"),
        ("dog", "a hot dog", "other"),
        ("shirt", "a red t-shirt", "clothes"),
        ("lighthouse", "a white lighthouse", "landmark"),
        ("quark", "a strange quark", "other"),
    ],
)
def test_nouns_are_filed_by_what_they_name(noun: str, phrase: str, expected: str) -> None:
    assert category_of(noun, phrase) == expected
