"""A vision-language model behind an OpenAI-compatible endpoint, asked only when a user names one.

Answers are kept by what was asked of whom, so a second run asks nothing and gives the same
numbers; what an answer cost stands with it. The key never comes from a file: it is read from an
environment variable.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from s2v.datapipe.base.atomic import write_bytes
from s2v.datapipe.base.media.images import encode_jpeg
from s2v.evals.encoders import Image
from s2v.evals.errors import EvalError

LONG_SIDE: Final = 512
KEY: Final = "S2V_JUDGE_KEY"
TRIES: Final = 4
_LARGEST: Final = 1 << 20
"""Bytes of an answer that are read."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """The key and the pictures go to the address that was named, and are sent on to no other."""

    def redirect_request(self, *_: Any) -> None:
        """Never: a redirect is an answer of the wrong status."""


_OPENER: Final = urllib.request.build_opener(_Stay)


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: as it came.
        tokens_in: as the endpoint counts; 0 where it does not say.
        tokens_out: likewise.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class VisionJudge(Protocol):
    """Answers a question about pictures."""

    id: str

    def ask(self, images: Sequence[Image], question: str, run: int = 0) -> Answer:
        """One answer; ``run`` tells repeated askings of the same thing apart."""


class Endpoint:
    """``POST <url>/chat/completions``.

    Args:
        url: of the API, such as ``http://localhost:8000/v1``.
        model: as the endpoint names it.
        timeout_s: of one request.
        pause_s: before the second try; it doubles.

    Raises:
        EvalError: not an http(s) address.
    """

    def __init__(
        self, url: str, model: str, *, timeout_s: float = 120.0, pause_s: float = 2.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EvalError(f"judge: {url!r} is no http(s) address")
        if parts.username or parts.password:
            raise EvalError(f"judge: put the key into {KEY}, not into the address")
        self.id = model
        self._url = url.rstrip("/") + "/chat/completions"
        self._timeout, self._pause = timeout_s, pause_s

    def ask(self, images: Sequence[Image], question: str, run: int = 0) -> Answer:
        """One answer.

        Raises:
            EvalError: refused, or still unreachable after four tries: the run stops and goes on
                where it was when it is started again.
        """
        pictures = [
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + _jpeg64(image)}}
            for image in images
        ]
        content = [*pictures, {"type": "text", "text": question}]
        body = {
            "model": self.id,
            "messages": [{"role": "user", "content": content}],
            "seed": run,
            "stream": False,
        }
        reply = self._post(json.dumps(body).encode())
        try:
            text = reply["choices"][0]["message"]["content"] or ""
            used = reply.get("usage") or {}
            return Answer(
                str(text),
                int(used.get("prompt_tokens") or 0),
                int(used.get("completion_tokens") or 0),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise EvalError(f"judge: {self._url}: an answer without a message") from error

    def _post(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        said = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self._pause * 2 ** (attempt - 1))
            # The scheme was checked: no file is ever opened.
            request = urllib.request.Request(self._url, body, headers)  # noqa: S310
            try:
                with _OPENER.open(request, timeout=self._timeout) as reply:
                    return json.loads(reply.read(_LARGEST))
            except urllib.error.HTTPError as error:
                said = f"status {error.code}"
                if error.code < 500 and error.code != 429:
                    raise EvalError(f"judge: {self._url}: {said}; is {self.id!r} there?") from error
            except (OSError, ValueError, http.client.HTTPException) as error:
                said = type(error).__name__
        raise EvalError(f"judge: {self._url}: {said} after {TRIES} tries")


class KeptAnswers:
    """A judge whose answers are kept in a folder, one file each.

    Args:
        judge: who is asked what was not asked before.
        folder: created at the first answer.
    """

    def __init__(self, judge: VisionJudge, folder: Path) -> None:
        self.id = judge.id
        self._judge = judge
        self._folder = folder

    def ask(self, images: Sequence[Image], question: str, run: int = 0) -> Answer:
        """As the judge answered the first time; a damaged file is asked for again."""
        digest = hashlib.sha256(f"{self.id}\0{question}\0{run}\0".encode())
        for image in images:
            digest.update(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
        path = self._folder / f"{digest.hexdigest()}.json"
        try:
            return _kept(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            answer = self._judge.ask(images, question, run)
            write_bytes(path, json.dumps(asdict(answer), sort_keys=True).encode())
            return answer


def _kept(content: object) -> Answer:
    answer = Answer(**content) if isinstance(content, dict) else None
    kinds = [type(v) for v in asdict(answer).values()] if answer else []
    if answer is None or kinds != [str, int, int]:
        raise ValueError("no answer")
    return answer


def _jpeg64(image: Image) -> str:
    height, width = image.shape[:2]
    scale = LONG_SIDE / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return base64.b64encode(encode_jpeg(image, 90)).decode()
