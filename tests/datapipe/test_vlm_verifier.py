"""What the verifier sends, believes and refuses, and whose words it asks with."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from vlm_double import double, made, picture, pictures, says, status, words

from s2v.datapipe.backends import registry
from s2v.datapipe.backends.vlm import verifier
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.pair.evidence import UNANSWERED_RULES, VERIFIER_RULES
from s2v.datapipe.planning import doctor
from s2v.datapipe.roles import (
    CLASSES,
    OPTIONAL,
    AnswerError,
    RoleUnavailableError,
    Served,
    Sight,
    Verdict,
)

FAR = "http://127.0.0.1:1/v1"
BOX = (80.0, 60.0, 240.0, 180.0)
GOOD = {"note": "same coat", "same_identity": "yes", "different_context": "no"}


def sight(seed: int = 0, phrase: str = "a man in black") -> Sight:
    return Sight(f"d{seed}", picture(seed=seed), BOX, phrase)


def test_each_side_is_shown_as_frame_with_its_box_and_as_crop_in_order() -> None:
    first, second = sight(1, 'a "man" {second}'), sight(2, "a woman")
    with double(says(json.dumps(GOOD))) as server:
        found = made("verifier", server).verify(first, second, "human")
    assert found == Verdict("yes", "no", "same coat", 1)
    frame, crop, other_frame, other_crop = pictures(server.requests[0])
    for one, whole, part in ((first, frame, crop), (second, other_frame, other_crop)):
        assert whole.shape == one.image.shape
        assert part.shape == (120, 160, 3)
        inside = one.image[60:180, 80:240]
        assert np.abs(part.astype(int) - inside).mean() < 8
        assert tuple(whole[60, 160]) == pytest.approx((255, 0, 0), abs=40), "the box is drawn"
    said = words(server.requests[0])
    assert json.dumps(first.phrase) in said, "a phrase is data: its braces are no field"
    assert json.dumps(second.phrase) in said


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_is_asked_in_its_own_words_and_in_the_form_that_is_validated(name: str) -> None:
    with double(says(json.dumps(GOOD))) as server:
        model = made("verifier", server)
        model.verify(sight(1), sight(2), name)
        schema = server.requests[0]["response_format"]["json_schema"]
    assert schema["name"] == f"verify_{name}"
    assert model.prompts[name].name.startswith(f"verify_{name}-")
    jsonschema.validate(GOOD, schema["schema"])
    verifier._Answer.model_validate_json(json.dumps(GOOD))
    ours = verifier._Answer.model_json_schema()
    assert set(schema["schema"]["required"]) == set(ours["required"])
    for question in ("same_identity", "different_context"):
        allowed = set(schema["schema"]["properties"][question]["enum"])
        assert allowed == set(ours["properties"][question]["enum"])


def test_no_two_classes_share_a_prompt() -> None:
    prompts = made("verifier", FAR).prompts
    assert set(prompts) == set(CLASSES)
    assert len({prompt.sha256 for prompt in prompts.values()}) == len(CLASSES)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"same_identity": "maybe"}, "same_identity"),
        ({"different_context": True}, "different_context"),
        ({"note": ""}, "note is empty"),
        ({"note": "x" * 301}, "note is longer than 300"),
        ({"note": "a\u202eb"}, r"U\+202E"),
        ({"sure": 1}, "sure"),
    ],
)
def test_an_answer_of_another_form_is_asked_again_and_then_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with double(says(json.dumps({**GOOD, **changes}))) as server:
        model = made("verifier", server, attempts=2)
        with pytest.raises(AnswerError, match=problem):
            model.verify(sight(1), sight(2), "human")
    assert len(server.requests) == 2
    assert "cannot be used" in words(server.requests[1])


def test_a_slip_is_mended_by_asking_again() -> None:
    with double(says("yes", json.dumps(GOOD))) as server:
        assert made("verifier", server).verify(sight(1), sight(2), "other").attempts == 2


def test_a_server_that_is_down_is_no_pairs_fault() -> None:
    with double(status(503)) as server, pytest.raises(RoleUnavailableError):
        made("verifier", server).verify(sight(1), sight(2), "product")


def test_a_users_prompt_for_one_class_changes_that_class_alone(tmp_path: Path) -> None:
    ours = made("verifier", FAR).prompts
    own = tmp_path / "mine.toml"
    own.write_text('id = "mine"\nversion = 4\nuser = "{first} {second}?"\n')
    theirs = made("verifier", FAR, prompts={"product": str(own)}).prompts
    assert {name for name in CLASSES if ours[name] != theirs[name]} == {"product"}
    assert theirs["product"].name == "mine-4"
    everywhere = made("verifier", FAR, prompt=str(own)).prompts
    assert {prompt.name for prompt in everywhere.values()} == {"mine-4"}
    assert {n for n in CLASSES if made("verifier", FAR, image_side=512).prompts[n] != ours[n]} == {
        *CLASSES
    }, "other pictures are other questions"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": {"robot": "x.toml"}}, "no class 'robot'"),
        ({"prompts": {"human": "/nowhere.toml"}}, "No such file"),
        ({"concurency": 3}, "did you mean 'concurrency'"),
    ],
)
def test_options_that_cannot_be_used_are_told_before_the_run(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        made("verifier", FAR, **given)


def test_the_role_travels_to_actors_and_is_empty_in_the_embedded_profile() -> None:
    model = made("verifier", FAR, concurrency=5)
    assert isinstance(model, Served)
    copy = pickle.loads(pickle.dumps(model))  # noqa: S301  our own bytes
    assert (copy.model_id, copy.concurrency, copy.prompts) == (model.model_id, 5, model.prompts)
    with pytest.raises(RoleUnavailableError):
        copy.load()
    assert "verifier" in OPTIONAL
    assert registry.PROFILES["embedded"]["verifier"] == registry.NONE
    assert registry.PROFILES["production"]["verifier"] == "vlm"


def test_the_docs_know_every_class_rule_and_option() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "verification.md").read_text(encoding="utf-8")
    shared = (docs / "captions.md").read_text(encoding="utf-8")
    for name in CLASSES:
        assert f"\n| {name} |" in page
    for rule in (*VERIFIER_RULES, *UNANSWERED_RULES):
        assert f"| `{rule}` |" in page
    for name, field in verifier.VerifyOptions.model_fields.items():
        assert f"| `{name}` |" in page or f"| `{name}` |" in shared, name
        if name == "max_tokens":
            assert f"`max_tokens` is {field.default}" in page


def test_doctor_asks_every_role_once() -> None:
    assert set(doctor._ASK) == set(registry.BACKENDS)
    with double(says(json.dumps(GOOD))) as server:
        assert doctor._ASK["verifier"](made("verifier", server)) == "said same: yes, elsewhere: no"
