"""The vLLM of the tests is a real one that sees what it is shown and keeps to a schema."""

from __future__ import annotations

import hashlib
import json
import urllib.error
from pathlib import Path

import jsonschema
import pytest
import torch
from tiny_server import TinyServer, picture, text
from tiny_vlm import build_tiny_vlm

pytestmark = pytest.mark.vllm

SCHEMA = {
    "type": "object",
    "properties": {
        "caption": {"type": "string", "minLength": 5, "maxLength": 30},
        "subjects": {"type": "integer", "minimum": 0, "maximum": 9},
        "sharp": {"type": "boolean"},
    },
    "required": ["caption", "subjects", "sharp"],
    "additionalProperties": False,
}


def test_a_question_in_words_is_answered(vllm_server: TinyServer) -> None:
    answer = vllm_server.chat("What is a shot?")
    assert answer["message"]["content"]
    assert answer["finish_reason"] in {"stop", "length"}


def test_both_pictures_of_a_request_are_seen_in_their_order(vllm_server: TinyServer) -> None:
    """Otherwise a client that loses or swaps pictures would pass its tests."""

    def said(*seeds: int) -> str:
        content = [*(picture(seed) for seed in seeds), text("What is this?")]
        return str(vllm_server.chat(content)["message"]["content"])

    answers = [said(1), said(2), said(1, 2), said(2, 1), said(1, 1)]
    assert all(answers)
    assert len(set(answers)) == len(answers)


def test_the_same_request_gets_the_same_answer(vllm_server: TinyServer) -> None:
    content = [picture(3), picture(4), text("Do they show the same subject?")]
    answers = [vllm_server.chat(content)["message"]["content"] for _ in range(3)]
    assert len(set(answers)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_keeps_to_its_schema(vllm_server: TinyServer, seed: int) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }
    content = [picture(seed), text("Describe it.")]
    answer = vllm_server.chat(content, response_format=wanted, max_tokens=400)
    assert answer["finish_reason"] == "stop"
    jsonschema.validate(json.loads(answer["message"]["content"]), SCHEMA)


def test_too_many_pictures_are_refused_and_the_server_stays(vllm_server: TinyServer) -> None:
    allowed = [picture(seed, 56) for seed in range(vllm_server.max_images)]
    assert vllm_server.chat([*allowed, text("Which?")])["message"]["content"]
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        vllm_server.chat([*allowed, picture(99, 56), text("Which?")])
    assert b"image" in refused.value.read()
    assert vllm_server.chat("Still there?")["message"]["content"]


def test_the_model_is_the_same_bytes_every_time(vllm_server: TinyServer, tmp_path: Path) -> None:
    """Its answers would otherwise differ between two runs that should agree."""
    torch.manual_seed(1)
    assert digests(build_tiny_vlm(tmp_path / "again")) == digests(vllm_server.folder)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
