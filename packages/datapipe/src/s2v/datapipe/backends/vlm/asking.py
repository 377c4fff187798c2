"""Asks until the answer is valid: prompt, pictures and schema out, a checked value back.

A schema binds the server, not the model's truthfulness, and servers differ in how well they keep
it; so every answer is validated here too. An answer that is wrong goes back with what was wrong
about it, at most ``attempts`` times in all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from s2v.datapipe.backends.vlm.answers import AnswerStore, StoredAnswer
from s2v.datapipe.backends.vlm.client import ChatClient
from s2v.datapipe.backends.vlm.options import VlmOptions
from s2v.datapipe.backends.vlm.prompting import Prompt
from s2v.datapipe.backends.vlm.text import WrongAnswerError, shown
from s2v.datapipe.roles import AnswerError

MAX_ANSWER_CHARS: Final = 65_536
_REPEATED_CHARS: Final = 2000  # of a wrong answer, when it is sent back

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Base of the answers: nothing unknown, no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def parsed(kind: type[M], text: str) -> M:
    """Read a JSON answer.

    Raises:
        WrongAnswerError: not JSON, or not of that form; says where.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WrongAnswerError(f"{place}: {first['msg']}" if place else first["msg"]) from None


class Asker:
    """A prompt at a server.

    Args:
        options: of the role.
        prompt: what is asked.
        where: the role's section, for messages.
        pictures: how pictures are prepared; part of the prompt's digest.
        client: of another asker of the same role, to be shared.
    """

    def __init__(
        self,
        options: VlmOptions,
        prompt: Prompt,
        where: str,
        pictures: Mapping[str, Any],
        client: ChatClient | None = None,
    ) -> None:
        self.client = client or ChatClient(options, where)
        self.options = options
        self.prompt = prompt
        self._sampling: dict[str, Any] = {
            "temperature": 0,
            "seed": options.seed,
            "max_tokens": options.max_tokens,
        }
        if options.repetition_penalty != 1:
            self._sampling["repetition_penalty"] = options.repetition_penalty
        self.prompt_sha256 = prompt.digest({**self._sampling, **pictures})
        # Absolute, as actors on other machines stand in other folders.
        kept = Path(options.answers).expanduser().absolute() if options.answers else None
        self._store = AnswerStore(kept) if kept else None

    @property
    def model_id(self) -> str:
        """Server family, the model's name there, and the revision that the user stated."""
        revision = f"@{self.options.revision}" if self.options.revision else ""
        return f"{self.options.server}:{self.options.model}{revision}"

    @property
    def prompt_name(self) -> str:
        """Id and version of the prompt."""
        return f"{self.prompt.id}-{self.prompt.version}"

    @property
    def prompt_id(self) -> str:
        """Id, version and short digest of the prompt, for roles whose rows do not carry it."""
        return f"{self.prompt_name}-{self.prompt_sha256[:12]}"

    def ask(
        self,
        fields: Mapping[str, str],
        pictures: Sequence[str],
        check: Callable[[str], T],
        schema: dict[str, Any] | None = None,
    ) -> tuple[T, int]:
        """Ask until the answer is valid; return its value and how often was asked.

        Args:
            fields: for the prompt.
            pictures: ``data:`` addresses, shown before the words.
            check: the answer's text to a value; raises WrongAnswerError for a wrong one.
            schema: in place of the prompt's, where it depends on the question.

        Raises:
            AnswerError: the answer stays wrong, or the server refuses the question.
            RoleUnavailableError: the server gives no answer.
        """
        messages = self._messages(fields, pictures)
        shape = schema or self.prompt.schema_
        if self._store is None:
            value, _, attempts = self._until_valid(messages, shape, check)
            return value, attempts
        asked = (self.model_id, self.prompt_sha256, _digest([messages, shape]))
        stored = self._store.get(*asked)
        if stored is not None:
            try:
                return check(stored.text), stored.attempts
            except WrongAnswerError:  # of a version that took it for valid
                pass
        value, text, attempts = self._until_valid(messages, shape, check)
        answer = StoredAnswer(
            **dict(zip(("model", "prompt_sha256", "input_sha256"), asked, strict=True)),
            attempts=attempts,
            text=text,
        )
        stands = self._store.put(answer, replace=stored is not None)
        return (value, attempts) if stands is answer else (check(stands.text), stands.attempts)

    def _until_valid(
        self, messages: list[dict[str, Any]], schema: dict[str, Any], check: Callable[[str], T]
    ) -> tuple[T, str, int]:
        conversation = list(messages)
        problem = ""
        said = ""
        for attempt in range(1, self.options.attempts + 1):
            answer = self.client.ask(
                {
                    "messages": conversation,
                    **self._sampling,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": self.prompt.id, "schema": schema, "strict": True},
                    },
                }
            )
            said = answer.text
            try:
                return self._checked(answer.text, answer.cut_off, check), said, attempt
            except WrongAnswerError as error:
                problem = str(error)
            conversation = [*messages, *_again(said, problem)]
        raise AnswerError(
            f"{self.model_id}, prompt {self.prompt_name}: no valid answer in "
            f"{self.options.attempts} attempts; of the last, {problem}; it was {shown(said)}"
        )

    def _checked(self, text: str, cut_off: bool, check: Callable[[str], T]) -> T:
        if cut_off:
            raise WrongAnswerError(
                f"it was cut off after {self.options.max_tokens} tokens and must be shorter"
            )
        if not text.strip():
            raise WrongAnswerError("it was empty")
        if len(text) > MAX_ANSWER_CHARS:
            raise WrongAnswerError(f"it was longer than {MAX_ANSWER_CHARS} characters")
        return check(text)

    def _messages(self, fields: Mapping[str, str], pictures: Sequence[str]) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": picture}} for picture in pictures
        ]
        content.append({"type": "text", "text": self.prompt.fill(fields)})
        system = [{"role": "system", "content": self.prompt.system}] if self.prompt.system else []
        return [*system, {"role": "user", "content": content}]


def _again(said: str, problem: str) -> list[dict[str, Any]]:
    """The wrong answer and what was wrong; roles alternate, as many chat templates demand."""
    return [
        {"role": "assistant", "content": said[:_REPEATED_CHARS].strip() or "(no answer)"},
        {
            "role": "user",
            "content": f"That answer cannot be used: {problem}. Answer the question again, as one "
            "JSON object of the form that was asked for and nothing else.",
        },
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
