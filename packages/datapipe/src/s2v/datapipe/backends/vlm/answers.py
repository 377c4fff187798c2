"""Answers that were valid, kept by what was asked: the same question is never asked twice.

One JSON file per answer, below folders of two hex digits, filed under a hash of model, prompt and
input. The first answer stands: whoever comes second with another one takes the first, so that
the same input gives the same row in every process that shares the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MAX_BYTES = 1 << 20


class StoredAnswer(BaseModel):
    """One valid answer, with what it answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    prompt_sha256: str
    input_sha256: str
    attempts: int = Field(ge=1)
    text: str


class AnswerStore:
    """Answers below a folder, which is made when the first one comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, model: str, prompt_sha256: str, input_sha256: str) -> StoredAnswer | None:
        """The answer to a question, or ``None``; a damaged file counts as none."""
        path = self._path(model, prompt_sha256, input_sha256)
        try:
            if path.stat().st_size > _MAX_BYTES:
                return None
            found = StoredAnswer.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            return None
        asked = (found.model, found.prompt_sha256, found.input_sha256)
        return found if asked == (model, prompt_sha256, input_sha256) else None

    def put(self, answer: StoredAnswer, *, replace: bool = False) -> StoredAnswer:
        """Keep an answer, whole or not at all; return the one that stands.

        Args:
            answer: a valid one.
            replace: over what is there, which was found to be damaged or of no use.
        """
        path = self._path(answer.model, answer.prompt_sha256, answer.input_sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(answer.model_dump(), sort_keys=True, indent=1, ensure_ascii=False)
        handle, name = tempfile.mkstemp(".tmp", ".", path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)  # mkstemp's files are for their owner only
            if replace:
                temporary.replace(path)
                return answer
            return self._claim(temporary, path, answer)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()

    def _claim(self, temporary: Path, path: Path, answer: StoredAnswer) -> StoredAnswer:
        try:
            os.link(temporary, path)  # unlike a rename it fails where somebody was faster
        except FileExistsError:
            first = self.get(answer.model, answer.prompt_sha256, answer.input_sha256)
            if first is not None:
                return first
            temporary.replace(path)
        except OSError:  # a file system without hard links
            temporary.replace(path)
        return answer

    def _path(self, *asked: str) -> Path:
        name = hashlib.sha256("\n".join(asked).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"
