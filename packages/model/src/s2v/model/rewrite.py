"""Prompts rewritten so that each reference has a phrase of its own; off unless a server is named.

Paper, sections 3.4 and supplement 7: distinct phrases raise the success with several subjects
from 65 to 95 %. A vision-language model behind an OpenAI-compatible address reads the prompt and
the references and answers with a prompt and one phrase per reference. What it answers is checked;
an answer that does not fit is asked for once more and then is an error, never used half.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ValidationError

from s2v.model.config_sample import SampleConfig
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]
KEY_VARIABLE: Final = "S2V_REWRITER_KEY"
_LONGEST_PROMPT: Final = 2000
_MOST_BYTES: Final = 1 << 20
_PICTURE_SIDE: Final = 512

_ASK: Final = (
    "You prepare prompts for a subject-to-video model. The user gives a prompt and {count} "
    "reference image(s), numbered in order. Rewrite the prompt in its own language: keep what "
    "happens, and describe the subject of each reference once, by a short phrase of what is seen "
    "of it (kind, colours, clothes, material), so that no two phrases fit the same reference. "
    'Answer with JSON alone: {{"prompt": "...", "phrases": ["..."]}}. "phrases" has exactly '
    '{count} entries in the order of the references, all different, each copied from "prompt" '
    "letter by letter."
)


@dataclass(frozen=True)
class Rewritten:
    """A prompt in which every phrase of ``phrases`` stands; one per reference, in order."""

    prompt: str
    phrases: tuple[str, ...]


class _Answer(BaseModel):
    prompt: str
    phrases: list[str]


def rewrite(prompt: str, images: Sequence[Pixels], config: SampleConfig) -> Rewritten:
    """Ask the server of ``sample.rewriter_url``.

    The key, where the server wants one, is read from ``S2V_REWRITER_KEY``.

    Args:
        prompt: what the user wrote.
        images: the references, RGB ``[h, w, 3]``; at least one.
        config: address, model, time-out.

    Raises:
        ModelError: the server does not answer, refuses, or answers twice what does not fit.
    """
    address = _address(config.rewriter_url)
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
    content += [{"type": "image_url", "image_url": {"url": _picture(image)}} for image in images]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _ASK.format(count=len(images))},
        {"role": "user", "content": content},
    ]
    fault = ""
    for _ in range(2):
        said = _exchange(address, messages, config)
        found, fault = _check(said, len(images))
        if found is not None:
            return found
        messages = [
            *messages,
            {"role": "assistant", "content": said},
            {"role": "user", "content": f"This does not fit: {fault}. Answer again, JSON alone."},
        ]
    raise ModelError(
        f"{address}: its answer does not fit, asked twice: {fault}; write the prompt yourself and "
        "leave sample.rewriter_url empty, or serve another model"
    )


def _check(said: str, count: int) -> tuple[Rewritten | None, str]:
    """What was answered, or why it does not fit."""
    start, stop = said.find("{"), said.rfind("}")
    try:
        answer = _Answer.model_validate_json(said[start : stop + 1] if start >= 0 else said)
    except ValidationError as error:
        return None, f"no such JSON ({error.errors()[0]['msg']})"
    prompt = " ".join(answer.prompt.split())
    phrases = tuple(" ".join(phrase.split()) for phrase in answer.phrases)
    if not 0 < len(prompt) <= _LONGEST_PROMPT:
        return None, f"a prompt of {len(prompt)} characters"
    if len(phrases) != count:
        return None, f"{len(phrases)} phrases for {count} references"
    if len({phrase.casefold() for phrase in phrases}) != count:
        return None, f"phrases that are not distinct: {', '.join(phrases)}"
    for phrase in phrases:
        if not phrase or phrase not in prompt:
            return None, f"the phrase {phrase!r} is not in the prompt"
    return Rewritten(prompt, phrases), ""


def _address(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ModelError(
            f"sample.rewriter_url {url!r}: give http(s)://host[:port]/v1 without a name or password"
        )
    return f"{url.rstrip('/')}/chat/completions"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key and the pictures go where they were sent, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _exchange(address: str, messages: list[dict[str, Any]], config: SampleConfig) -> str:
    body = {"model": config.rewriter_model, "messages": messages, "temperature": 0}
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    if key := os.environ.get(KEY_VARIABLE):
        request.add_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=config.rewriter_timeout_s) as reply:
            raw = reply.read(_MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        told = error.read(200).decode("utf-8", "replace")
        raise ModelError(
            f"{address}: HTTP {error.code}: {told}; see sample.rewriter_url, sample.rewriter_model "
            f"and {KEY_VARIABLE}"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"{address}: does not answer ({error}); start the server, or leave "
            "sample.rewriter_url empty"
        ) from None
    try:
        if len(raw) > _MOST_BYTES:
            raise ValueError("more than 1 MiB")
        said = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{address}: answers no chat completion ({error!r})") from None
    return said if isinstance(said, str) else ""


def _picture(image: Pixels) -> str:
    """A data URL, at most 512 pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    out = io.BytesIO()
    picture.save(out, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
