"""Asks a model behind an OpenAI-compatible server, and tells whose fault it is when it fails.

Three ways to end: a whole answer; :class:`AnswerError`, when it is this request that the server
cannot do; :class:`RoleUnavailableError`, when it is the server. The last leaves the unit of work
open, so that an overloaded or restarting server never costs a clip.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import ssl
import time
import uuid
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel, Field, ValidationError

from s2v.datapipe.backends.vlm.options import VlmOptions
from s2v.datapipe.backends.vlm.pictures import grey_url
from s2v.datapipe.backends.vlm.text import shown
from s2v.datapipe.backends.vlm.wire import Endpoint, Reply, WireError, endpoint, exchange
from s2v.datapipe.roles import AnswerError, RoleUnavailableError, WeightsError

MAX_REPLY_BYTES: Final = 1 << 20
MAX_WAIT_S: Final = 60.0
_SERVERS_PER_ROUND: Final = 3  # asked at once when the first gives no answer, before any wait

_log = logging.getLogger(__name__)

#: The request as such is what the server refuses: too long, too many pictures, not readable.
_REQUEST_REFUSED: Final = frozenset((400, 413, 422))
_WILL_PASS: Final = frozenset((408, 409, 425, 429))


class ServerUnavailableError(RoleUnavailableError):
    """Which server, and what it did."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path  # the engine's reports name what an error names


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    id: str = Field(max_length=256)
    choices: list[_Choice] = Field(min_length=1, max_length=16)


class _Card(BaseModel):
    id: str = Field(max_length=1024)
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Card] = Field(max_length=10_000)


@dataclass(frozen=True)
class Answer:
    """The model's text, and whether ``max_tokens`` cut it off."""

    text: str
    cut_off: bool


class _FaultError(Exception):
    """What went wrong in one exchange."""

    def __init__(
        self,
        message: str,
        *,
        lasting: bool = False,  # asking again changes nothing
        suspect: bool = False,  # the request itself may be the cause
        after_s: float = 0.0,  # the server's own word when to come back
    ) -> None:
        super().__init__(message)
        self.lasting, self.suspect, self.after_s = lasting, suspect, after_s


class ChatClient:
    """One served model at one or more addresses; may be used from many threads.

    The key is read where the client is loaded. It is in no message, file or pickle.
    """

    def __init__(self, options: VlmOptions, where: str) -> None:
        self.options = options
        self._endpoints = [endpoint(url, f"{where}.urls.{n}") for n, url in enumerate(options.urls)]
        self._where = where
        self._key: str | None = None
        self._context: ssl.SSLContext | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_key": None, "_context": None}

    def load(self) -> None:
        """Read the key, and see that the servers serve the model.

        Raises:
            WeightsError: a server serves other models.
            RoleUnavailableError: no server answers, or the key is not there.
        """
        self._key = self._read_key()
        if any(at.tls for at in self._endpoints):
            self._context = ssl.create_default_context()
        silent = [error for at in self._endpoints if (error := self._check_model(at))]
        if len(silent) == len(self._endpoints):
            raise silent[0]
        for error in silent:  # the others do its work, and it may come back
            _log.warning("%s", error)

    def ask(self, request: dict[str, Any]) -> Answer:
        """Send a chat completion and return its answer, whatever it says.

        Args:
            request: of ``/v1/chat/completions``, without the model.

        Raises:
            AnswerError: this request is refused, or fails the server that answers others.
            RoleUnavailableError: the server gives no whole answer to the last try.
        """
        whole = {"model": self.options.model, **request}
        body = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
        # By content, so that the same request goes to the same server; a failed one moves on.
        first = int.from_bytes(hashlib.sha256(body).digest()[:8], "big")
        round_ = min(len(self._endpoints), _SERVERS_PER_ROUND)
        at = self._endpoints[0]
        fault = _FaultError("never asked")
        asked = lasting = 0
        for n in range(self.options.tries * round_):
            if n and n % round_ == 0:
                self._wait(n // round_, fault, at)
            at = self._endpoints[(first + n) % len(self._endpoints)]
            try:
                return self._complete(at, body)
            except _FaultError as error:
                fault, asked = error, n + 1
                lasting += fault.lasting
                if lasting == round_:
                    break
        told = f"{at}: {fault}, asked {_times(asked)}"
        if fault.suspect and self._answers_others(with_picture=b'"image_url"' in body):
            raise AnswerError(f"{told}; it answers other requests")
        raise ServerUnavailableError(told, str(at))

    def _complete(self, at: Endpoint, body: bytes) -> Answer:
        request_id = uuid.uuid4().hex
        reply = self._exchange(at, "POST", "/chat/completions", body, request_id)
        if reply.status in _REQUEST_REFUSED:
            raise AnswerError(f"{at} refuses the request: HTTP {reply.status}, {_excerpt(reply)}")
        _require_ok(reply)
        try:
            completion = _Completion.model_validate_json(reply.body)
        except ValidationError:
            raise _FaultError(f"no chat completion: {_excerpt(reply)}", suspect=True) from None
        if self.options.server == "vllm" and completion.id != f"chatcmpl-{request_id}":
            raise _FaultError(
                "the answer carries the id of another request (a vLLM repeats the X-Request-Id "
                f'that it is sent; for other servers set {self._where}.server = "openai")'
            )
        choice = completion.choices[0]
        return Answer(choice.message.content or "", choice.finish_reason == "length")

    def _answers_others(self, with_picture: bool) -> bool:
        """Whether any server does a tiny request of the same kind just now."""
        content: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
        if with_picture:
            content.append({"type": "image_url", "image_url": {"url": grey_url()}})
        request = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4,
            "temperature": 0,
        }
        body = json.dumps(request).encode()
        for at in self._endpoints:
            try:
                self._complete(at, body)
            except (_FaultError, AnswerError):
                continue
            return True
        return False

    def _check_model(self, at: Endpoint) -> ServerUnavailableError | None:
        """See what a server serves; return why it does not say."""
        fault, asked = _FaultError("never asked"), 0
        while asked < self.options.tries and not fault.lasting:
            if asked:
                self._wait(asked, fault, at)
            asked += 1
            try:
                self._compare(at, self._models(at))
                return None
            except _FaultError as error:
                fault = error
        told = f"{at}: {fault}, asked {_times(asked)}"
        return ServerUnavailableError(f"{told}; is the server of {self._where} up?", str(at))

    def _models(self, at: Endpoint) -> list[_Card]:
        reply = self._exchange(at, "GET", "/models", None, uuid.uuid4().hex)
        _require_ok(reply)
        try:
            return _Models.model_validate_json(reply.body).data
        except ValidationError:
            raise _FaultError(
                f"its /models is no list of models: {_excerpt(reply)}", lasting=True
            ) from None

    def _compare(self, at: Endpoint, served: list[_Card]) -> None:
        mine = next((card for card in served if card.id == self.options.model), None)
        if mine is None:
            names = ", ".join(shown(card.id) for card in served[:5]) or "no model"
            raise WeightsError(
                f"{at} serves {names}, not {self.options.model!r}; mend {self._where}.model"
            )
        if mine.max_model_len is not None and mine.max_model_len <= self.options.max_tokens:
            raise WeightsError(
                f"{at}: {self.options.model} has room for {mine.max_model_len} tokens, question "
                f"and answer together; lower {self._where}.max_tokens = {self.options.max_tokens}"
            )

    def _exchange(
        self, at: Endpoint, method: str, call: str, body: bytes | None, request_id: str
    ) -> Reply:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "X-Request-Id": request_id,
            **({"Content-Type": "application/json"} if body is not None else {}),
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        try:
            reply = exchange(
                *(at, method, call, headers, body),
                connect_s=self.options.connect_timeout_s,
                total_s=self.options.timeout_s,
                max_bytes=MAX_REPLY_BYTES,
                context=self._context,
            )
        except WireError as error:
            raise _FaultError(str(error), suspect=error.begun) from None
        if self._key:  # servers have been seen to repeat a key that they refuse
            reply = replace(reply, body=reply.body.replace(self._key.encode(), b"[key]"))
        return reply

    def _wait(self, n: int, fault: _FaultError, at: Endpoint) -> None:
        wait = min(MAX_WAIT_S, max(self.options.first_wait_s * 2.0 ** (n - 1), fault.after_s))
        # All who were turned away together must not come back together.
        wait *= 1 - uuid.uuid4().int % 1000 / 4000
        _log.info("%s: %s; try %d in %.1f s", at, fault, n + 1, wait)
        time.sleep(wait)

    def _read_key(self) -> str | None:
        variable = self.options.api_key_env
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ServerUnavailableError(
                f"{self._where}.api_key_env: the variable {variable} is not set on this machine",
                variable,
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ServerUnavailableError(
                f"{self._where}.api_key_env: what the variable {variable} holds is no key (it is "
                "not shown)",
                variable,
            )
        return key


def _times(count: int) -> str:
    return f"{count} time{'s' if count != 1 else ''}"


def _require_ok(reply: Reply) -> None:
    status = reply.status
    if status == 200:
        return
    if 300 <= status < 400:
        raise _FaultError(f"HTTP {status}: it redirects, which is not followed", lasting=True)
    said = f"HTTP {status}, {_excerpt(reply)}"
    if status in _WILL_PASS or status >= 500:
        raise _FaultError(said, suspect=status == 500, after_s=_retry_after(reply))
    raise _FaultError(said, lasting=True)


def _retry_after(reply: Reply) -> float:
    said = reply.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0.0


def _excerpt(reply: Reply) -> str:
    return f"it says {shown(reply.body[:4000].decode(errors='replace'))}"
