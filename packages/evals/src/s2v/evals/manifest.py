"""The eval manifest: one JSON object per line, one line per video to score.

The prompt is data of its own and never read from a file name: harnesses that do score videos
against their file names when the mapping is wrong, and nobody notices.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from s2v.evals.errors import EvalError

SubjectClass = Literal["person", "creature", "thing"]
MAX_BYTES = 1 << 30
"""Of a manifest: some million lines."""
_SEED = 1 << 63
_PATH = r"^[^\x00]+$"
Source = Literal["generated", "real"]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_by_alias=True, validate_by_name=True
    )


class Reference(_Strict):
    """One reference image of a sample.

    Attributes:
        path: image file; relative paths start at the manifest's folder.
        mask: single-channel image of the same size, non-zero on the subject, or null.
        phrase: the words that name the subject in the prompt.
        subject_class: ``class`` in the file.
        is_face: the reference shows a face that face similarity shall be measured on.
        is_scene: the reference is a place and no subject: there is nothing to cut out of it, and
            the segmented similarities leave it out.
    """

    path: str = Field(pattern=_PATH)
    mask: str | None = Field(default=None, pattern=_PATH)
    phrase: str
    subject_class: SubjectClass = Field(alias="class")
    is_face: bool = False
    is_scene: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Reference:
        if self.is_face and self.is_scene:
            raise ValueError("a reference is a face or a scene, not both")
        return self


class Sample(_Strict):
    """One video with what it was made from.

    Attributes:
        sample_id: unique in the manifest.
        video: video file; relative paths start at the manifest's folder.
        prompt: the text the video was generated from, or a real clip's caption.
        refs: the references in the order the model was given them.
        seed: sampling seed, null for real clips.
        scenario: slice to report separately, or null.
        split: dataset split the references come from, or null.
        model: what made the video; null for real clips.
        source: ``generated``, or ``real`` for held-out clips that serve as ceiling.
        reference_id: cluster for the bootstrap: videos of the same subject share it. Chance levels
            are taken from the samples of other reference ids.
        fps: frames per second that the video should have; one of another rate is not scored,
            as motion, and what is sampled by time, would be wrong. Null: whatever it has.
    """

    sample_id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")
    video: str = Field(pattern=_PATH)
    prompt: str
    refs: tuple[Reference, ...] = Field(strict=False)
    seed: int | None = Field(default=None, ge=-_SEED, lt=_SEED)
    scenario: str | None = None
    split: str | None = None
    model: str | None = None
    source: Source
    reference_id: str = Field(min_length=1)
    fps: float | None = Field(default=None, gt=0, le=1000)

    @field_validator("prompt")
    @classmethod
    def _has_words(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty; text alignment needs the words")
        return value

    @property
    def prompt_sha256(self) -> str:
        """Hex digest of the prompt's UTF-8 bytes."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()

    @property
    def made_by(self) -> str:
        """Name of the group the sample is averaged in."""
        return self.model or ("real" if self.source == "real" else "unnamed model")


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest.

    Attributes:
        path: the file it was read from.
        sha256: digest of that file.
        samples: in order of ``sample_id``, so that results do not depend on line order.
    """

    path: Path
    sha256: str
    samples: tuple[Sample, ...]

    def resolve(self, name: str) -> Path:
        """Absolute path of a file named in the manifest."""
        # Path.resolve() raises where links go in a circle; such a file is missing, no more.
        return Path(os.path.realpath(self.path.parent / name))

    def shorten(self, text: str) -> str:
        """A message with paths relative to the manifest: the same wherever the run is made."""
        return text.replace(f"{self.path.parent}/", "")


def load_manifest(path: str | Path) -> Manifest:
    """Read and check the lines of a manifest; no media is opened.

    Args:
        path: the ``.jsonl`` file.

    Raises:
        EvalError: naming file, line, field and value: unreadable file, bad JSON, unknown or
            missing key, wrong type, empty prompt, duplicate ``sample_id``, no samples.
    """
    file = Path(path)
    raw, text = read_text(file, "manifest", MAX_BYTES)
    samples: list[Sample] = []
    first_line: dict[str, int] = {}
    # Not splitlines(): JSON strings may hold U+2028, which it would split at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError as error:
            raise EvalError(f"{file} line {number}: {explain(error)}") from error
        if sample.sample_id in first_line:
            raise EvalError(
                f"{file} line {number}: sample_id {sample.sample_id!r} is already on line "
                f"{first_line[sample.sample_id]}; ids must be unique"
            )
        first_line[sample.sample_id] = number
        samples.append(sample)
    if not samples:
        raise EvalError(f"{file}: no samples in the manifest (one JSON object per line expected)")
    samples.sort(key=lambda s: s.sample_id)
    return Manifest(file.resolve(), hashlib.sha256(raw).hexdigest(), tuple(samples))


def read_text(file: Path, what: str, most: int) -> tuple[bytes, str]:
    """A text file of a user's: its bytes, and its text without the mark that some editors add.

    Args:
        file: may be a pipe.
        what: for the messages.
        most: bytes.

    Raises:
        EvalError: unreadable, larger, or not UTF-8.
    """
    try:
        with file.open("rb") as handle:
            raw = handle.read(most + 1)
    except OSError as error:
        raise EvalError(f"{file}: cannot read the {what}: {error.strerror}") from error
    if len(raw) > most:
        raise EvalError(f"{file}: more than {most} bytes; is it the {what}?")
    try:
        return raw, raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvalError(f"{file}: not a UTF-8 text file (byte {error.start})") from error


def explain(error: ValidationError) -> str:
    """One line for a pydantic error: field, what is wrong, the nearest known key."""
    details = error.errors()
    first = details[0]
    where = ".".join(str(part) for part in first["loc"]) or "line"
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        model = Reference if "refs" in first["loc"] else Sample
        known = [f.alias or name for name, f in model.model_fields.items()]
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        message = f"{where}: unknown key; {hint}"
    else:
        shown = "" if first["type"] == "missing" else f" (got {_short(first['input'])})"
        message = f"{where}: {first['msg']}{shown}"
    return message + (f"; and {len(details) - 1} more" if len(details) > 1 else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_manifest(path: Path, samples: list[Sample]) -> None:
    """Write samples as a manifest, sorted by id, atomically.

    Args:
        path: the ``.jsonl`` file to write.
        samples: paths inside are written as they are.
    """
    from s2v.datapipe.base.atomic import write_bytes

    lines = [
        s.model_dump_json(by_alias=True) + "\n" for s in sorted(samples, key=lambda s: s.sample_id)
    ]
    write_bytes(path, "".join(lines).encode())
