"""Subjects by a served model: spans of phrases, pixels of boxes, verdicts on both."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlm_double import (
    Handler,
    boxed,
    double,
    made,
    picture,
    pictures,
    says,
    subjects,
    words,
)

from s2v.datapipe.backends.vlm import phrases
from s2v.datapipe.roles import (
    AnswerError,
    Phrase,
)

MAN = Phrase("a man in black", 0, 14, "man", "person", category="human")
DOG = Phrase("a brown dog", 20, 31, "dog", "creature", category="animal")
CAPTION = "A man in black throws a red ball to a brown dog; a man watches."


# Phrases


def phrased(answer: str, caption: str = CAPTION) -> list[Phrase]:
    with double(says(answer)) as server:
        found: list[Phrase] = made("phrases", server, attempts=1).phrases(caption)
    return found


def test_phrases_are_spans_of_the_caption_whatever_their_case() -> None:
    found = phrased(
        subjects(
            {"phrase": "a brown dog", "noun": "dog", "class": "animal"},
            {"phrase": "a man in black"},
            {"phrase": "a red ball.", "noun": "Ball", "class": "product"},
        )
    )
    assert [p.text for p in found] == ["A man in black", "a red ball", "a brown dog"]
    assert all(CAPTION[p.start : p.end] == p.text for p in found)
    assert [p.bank for p in found] == ["person", "thing", "creature"]
    assert [p.category for p in found] == ["human", "product", "animal"]
    assert [p.noun for p in found] == ["man", "ball", "dog"]
    assert not any(p.reason for p in found)


def test_a_phrase_inside_another_takes_the_place_where_it_stands_alone() -> None:
    found = phrased(subjects({"phrase": "a man"}, {"phrase": "a man in black"}))
    assert [(p.text, p.start) for p in found] == [("A man in black", 0), ("a man", 49)]


def test_a_phrase_that_stands_only_inside_another_is_no_subject_of_its_own() -> None:
    found = phrased(
        subjects({"phrase": "red ball", "noun": "ball"}, {"phrase": "a red ball", "noun": "ball"})
    )
    assert [(p.text, p.reason) for p in found] == [
        ("a red ball", None),
        ("red ball", "stands only inside another phrase"),
    ]


@given(
    st.lists(
        st.sampled_from(["a", "man", "in", "black", "dog", "the", "red"]), min_size=1, max_size=12
    ),
    st.data(),
)
def test_spans_never_overlap_unless_they_say_so(words: list[str], data: st.DataObject) -> None:
    caption = " ".join(words)
    ends = st.tuples(st.integers(0, len(words) - 1), st.integers(1, len(words)))
    cuts = data.draw(st.lists(ends.filter(lambda two: two[0] < two[1]), max_size=6))
    asked = [" ".join(words[start:end]) for start, end in cuts]
    spans = phrases.place(asked, caption)
    for phrase, (start, end, _) in zip(asked, spans, strict=True):
        assert caption[start:end] == phrase
    own = sorted({(start, end) for start, end, inside in spans if not inside})
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(own))
    for start, end, inside in spans:
        if inside:
            assert any(s <= start < e or s < end <= e for s, e in own)


def test_words_are_whole_words() -> None:
    with pytest.raises(AnswerError, match="'man' is not in the caption"):
        phrased(subjects({"phrase": "man"}), "A woman runs.")


def test_a_subject_named_twice_is_one_and_two_of_a_kind_are_two() -> None:
    dog = {"phrase": "a dog", "noun": "dog", "class": "animal"}
    assert len(phrased(subjects(dog, dog), "Here is a dog.")) == 1
    twice = phrased(subjects(dog, dog), "Here is a dog and there is a dog.")
    assert [(p.text, p.start) for p in twice] == [("a dog", 8), ("a dog", 27)]


@pytest.mark.parametrize(
    ("phrase", "noun", "singular", "reason"),
    [
        ("two women in red", "women", True, "plural subject"),
        ("the 12 players", "players", True, "plural subject"),
        ("a group of children", "children", True, "plural subject"),
        ("children in coats", "children", False, "plural subject"),
        ("a tall tree", "tree", True, "vague subject"),
        ("a mossy rock", "rock", True, "vague subject"),
        ("the something", "something", True, "vague subject"),
        ("a raised hand", "hand", True, "part of a body"),
        ("a two-tone car", "car", True, None),
        ("a 50-year-old man", "man", True, None),
        ("a tree house", "tree house", True, None),
    ],
)
def test_what_can_be_no_subject_says_why(
    phrase: str, noun: str, singular: bool, reason: str | None
) -> None:
    found = phrased(
        subjects({"phrase": phrase, "noun": noun, "singular": singular}), f"We see {phrase} here."
    )
    assert [p.reason for p in found] == [reason]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (subjects({"phrase": "a man in white"}), "'a man in white' is not in the caption"),
        (subjects({"phrase": "A man", "noun": "dog"}), "the noun 'dog' is not in the phrase"),
        (subjects({"phrase": "A man", "class": "person"}), r"subjects\.0\.class"),
        (subjects({"phrase": "A man", "singular": "yes"}), r"subjects\.0\.singular"),
        (subjects(*[{"phrase": "A man"}] * 13), "at most 12"),
        (subjects({"phrase": " "}), "the phrase is empty"),
        (subjects({"phrase": "x" * 300}), "longer than 200"),
    ],
)
def test_phrases_that_are_not_in_the_caption_are_asked_for_again(wrong: str, message: str) -> None:
    with double(says(wrong)) as server, pytest.raises(AnswerError, match=message):
        made("phrases", server).phrases(CAPTION)
    assert len(server.requests) == 3
    with double(says(wrong, subjects({"phrase": "A man"}))) as server:
        assert [p.text for p in made("phrases", server).phrases(CAPTION)] == ["A man"]


def test_known_characters_are_creatures_as_no_face_verifies_them() -> None:
    found = phrased(
        subjects({"phrase": "Mickey Mouse", "noun": "Mouse", "class": "ip_character"}),
        "Mickey Mouse dances.",
    )
    assert (found[0].bank, found[0].category) == ("creature", "ip_character")


def test_a_caption_without_subjects_is_no_error() -> None:
    assert phrased('{"subjects": []}') == []


# Boxes


@pytest.mark.parametrize("coordinates", ["pixels", "thousandths"])
@pytest.mark.parametrize("size", [(320, 240), (1921, 1079), (3000, 200), (33, 700)])
def test_boxes_come_back_in_our_pixels_whatever_was_sent(
    coordinates: str, size: tuple[int, int]
) -> None:
    """The double finds a white patch in the picture it is sent, and answers in its own terms."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    patch = (0.25 * width, 0.5 * height, 0.75 * width, height)
    image[round(patch[1]) : round(patch[3]), round(patch[0]) : round(patch[2])] = 255

    def finds(request: dict[str, Any], handler: Handler) -> None:
        sent = pictures(request)[0]
        rows, columns = np.where(sent.mean(-1) > 128)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        if coordinates == "thousandths":
            down, across = sent.shape[:2]
            box = [
                box[0] * 1000 / across,
                box[1] * 1000 / down,
                box[2] * 1000 / across,
                box[3] * 1000 / down,
            ]
        handler.say(boxed(([round(float(v)) for v in box], MAN.text)))

    with double(finds) as server:
        detector = made("detector", server, coordinates=coordinates)
        (hits,) = detector.ground([image], [MAN])
    down, across = pictures(server.requests[0])[0].shape[:2]
    assert down % 28 == across % 28 == 0
    assert max(down, across) <= 1024
    slack = (width / across + width / 500, height / down + height / 500) * 2
    assert len(hits) == 1
    for found, wanted, within in zip(hits[0].box, patch, slack, strict=True):
        assert abs(found - wanted) <= within
    assert 0 <= hits[0].box[0] < hits[0].box[2] <= width
    assert 0 <= hits[0].box[1] < hits[0].box[3] <= height


def test_several_boxes_of_a_phrase_are_all_told_and_one_said_twice_is_one() -> None:
    answer = boxed(
        *[
            ([0, 0, 50, 50], DOG.text),
            ([60, 0, 90, 50], "A  brown DOG"),
            ([0, 0, 50, 50], DOG.text),
        ],
        ([10, 10, 40, 200], MAN.text),
    )
    with double(says(answer)) as server:
        (hits,) = made("detector", server, grid=1).ground([picture()], [MAN, DOG])
    assert [(h.phrase, h.box) for h in hits] == [
        (0, (10, 10, 40, 200)),
        (1, (0, 0, 50, 50)),
        (1, (60, 0, 90, 50)),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (boxed(([10, 10, 5, 50], DOG.text)), "no area"),
        (boxed(([10, 10, 10, 50], DOG.text)), "no area"),
        (boxed(([10, 10, 5000, 50], DOG.text)), "outside of 320 x 240"),
        (boxed(([-30, 10, 50, 50], DOG.text)), "outside"),
        (boxed(([10, 10, 50], DOG.text)), "at least 4"),
        (boxed(([10, 10, 50, 50], "a cat")), "'a cat' is none of the phrases"),
        (boxed(*[([0, 0, 5, 5], DOG.text)] * 25), "at most 24"),
        ('{"boxes": [{"bbox_2d": [0, 0, NaN, 5], "label": "a brown dog"}]}', "outside"),
        (
            '{"boxes": [{"bbox_2d": [0, 0, 1e999, 5], "label": "a brown dog"}]}',
            "JSON|finite|outside",
        ),
    ],
)
def test_boxes_that_are_none_are_asked_for_again(wrong: str, message: str) -> None:
    with double(says(wrong)) as server, pytest.raises(AnswerError, match=message):
        made("detector", server, grid=1).ground([picture()], [MAN, DOG])
    assert len(server.requests) == 3


def test_a_box_a_little_outside_is_cut_off_at_the_border() -> None:
    with double(says(boxed(([-2, 0, 324, 240], DOG.text)))) as server:
        (hits,) = made("detector", server, grid=1).ground([picture()], [DOG])
    assert hits[0].box == (0, 0, 320, 240)


def test_labels_can_be_only_the_phrases_of_the_question() -> None:
    with double(says('{"boxes": []}')) as server:
        assert made("detector", server).ground([picture(), picture()], [MAN, DOG]) == [[], []]
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    jsonschema.validate({"boxes": [{"bbox_2d": [0, 0, 1, 1], "label": MAN.text}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"boxes": [{"bbox_2d": [0, 0, 1, 1], "label": "a cat"}]}, schema)
    assert len(server.requests) == 2


def test_without_phrases_nobody_is_asked() -> None:
    with double(says("?")) as server:
        assert made("detector", server).ground([picture()], []) == [[]]
    assert not server.requests


# Checks


def test_a_checker_sees_the_box_in_the_frame_and_by_itself() -> None:
    grey = np.full((240, 320, 3), 90, np.uint8)
    grey[100:200, 50:150] = (0, 0, 255)
    said = '{"complete": true, "specific": false, "matches": true, "match": 7}'
    with double(says(said)) as server:
        found = made("checker", server).check(grey, (50.0, 100.0, 150.0, 200.0), DOG)
    assert (found.complete, found.specific, found.matches) == (True, False, True)
    assert found.match_score == pytest.approx(0.7)
    frame, crop = pictures(server.requests[0])
    assert frame.shape == (240, 320, 3)
    assert frame[100, 100, 0] > 180
    assert frame[100, 100, 2] < 90
    assert crop.shape == (100, 100, 3)
    assert crop[50, 50, 2] > 230
    assert '"a brown dog"' in words(server.requests[0])
    assert (grey[100, 100] == (0, 0, 255)).all()


@pytest.mark.parametrize("box", [(0, 0, 0.2, 0.2), (319.9, 239.9, 320, 240), (-5, -5, 900, 900)])
def test_a_box_of_any_size_can_be_checked(box: tuple[float, float, float, float]) -> None:
    said = '{"complete": true, "specific": true, "matches": true, "match": 0}'
    with double(says(said)) as server:
        assert made("checker", server).check(picture(), box, DOG).match_score == 0


@pytest.mark.parametrize("match", [11, -1, 2.5, "7", None])
def test_a_verdict_off_the_scale_is_no_verdict(match: object) -> None:
    said = json.dumps({"complete": True, "specific": True, "matches": True, "match": match})
    with double(says(said)) as server, pytest.raises(AnswerError, match="match: "):
        made("checker", server).check(picture(), (0, 0, 9, 9), DOG)
