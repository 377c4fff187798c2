"""What a user says of a served model, in ``[roles.<role>]``."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base.settings import SettingsError, parse

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class VlmOptions(BaseModel):
    """Where the server is, what it serves, and how patiently it is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...] = Field(
        min_length=1, max_length=256, description="addresses of servers of the same model"
    )
    model: str = Field(min_length=1, max_length=256, description="its name at the server")
    revision: str = Field(
        default="", max_length=128, description="of the weights; other weights, other revision"
    )
    server: Literal["vllm", "openai"] = Field(
        default="vllm",
        description="vllm: answers must carry the id of their request; openai: any compatible one",
    )
    api_key_env: str | None = Field(
        default=None, description="variable with the key, on every machine that has actors"
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="requests in flight per actor")
    connect_timeout_s: float = Field(default=10.0, gt=0, le=600)
    timeout_s: float = Field(default=300.0, gt=0, le=7200, description="for a whole answer")
    tries: int = Field(default=6, ge=1, le=100, description="while the server gives no answer")
    first_wait_s: float = Field(
        default=1.0, ge=0, le=60, description="before the second try; doubled until 60 s"
    )
    attempts: int = Field(default=3, ge=1, le=10, description="until an answer is valid")
    max_tokens: int = Field(default=512, ge=1, le=65536, description="of one answer")
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    repetition_penalty: float = Field(
        default=1.0, ge=1, le=2, description="vLLM's own; against models that repeat themselves"
    )
    prompt: str | None = Field(default=None, description="a prompt file in place of ours")
    answers: str | None = Field(
        default=None, description="folder where valid answers are kept and looked up"
    )


class PictureOptions(VlmOptions):
    """How pictures are sent."""

    image_side: int = Field(default=1024, ge=28, le=8192, description="longer ones are shrunk")
    jpeg_quality: int = Field(default=90, ge=50, le=95)


O = TypeVar("O", bound=VlmOptions)  # noqa: E741  the options' type, as in "O(ptions)"


def read(kind: type[O], options: dict[str, Any], where: str) -> O:
    """Parse a role's options.

    Raises:
        SettingsError: as of ``settings.parse``; what might be a key is not repeated.
    """
    variable = options.get("api_key_env")
    if variable is not None and not (isinstance(variable, str) and _VARIABLE.fullmatch(variable)):
        raise SettingsError(
            f"{where}.api_key_env: expected the name of an environment variable, not the key"
        )
    return parse(kind, options, where)
