"""What a study stores: the key that unblinds it, and what raters send back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2v.evals.errors import EvalError
from s2v.evals.manifest import explain, read_text

KEY_FILE = "key.json"
RATE_FOLDER = "rate"

SCALE = ("1", "2", "3")
SIDES = ("left", "same", "right")
WORDS = {
    "1": "unusable",
    "2": "usable",
    "3": "satisfactory",
    "left": "left is better",
    "same": "no difference",
    "right": "right is better",
}


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True)


class Question(_Stored):
    """What is asked of every item.

    Attributes:
        id: short name.
        text: as raters read it.
    """

    id: str
    text: str


QUESTIONS = {
    "scale": (
        Question(id="subject", text="Is it the subject of the reference pictures?"),
        Question(id="prompt", text="Does it show what the text says?"),
        Question(id="quality", text="How good is the video as a video?"),
    ),
    "pairwise": (
        Question(id="subject", text="Which keeps the subject of the references?"),
        Question(id="prompt", text="Which shows what the text says?"),
        Question(id="quality", text="Which is the better video as such?"),
    ),
}
"""The three of the paper's study, by mode."""

GOLD_QUESTION = "quality"
"""What a damaged copy has a known answer to."""


class Item(_Stored):
    """One item of a session, with what its rater must not know.

    Attributes:
        id: within the session.
        group: reference and prompt.
        models: shown, or left and right.
        media: files shown, in the same order.
        kind: ``item``, ``gold`` or ``repeat``.
        of: for a repeat, the id of the first showing.
        expect: for gold, the right answer to `GOLD_QUESTION`.
    """

    id: str
    group: str
    models: tuple[str, ...]
    media: tuple[str, ...]
    kind: Literal["item", "gold", "repeat"]
    of: str | None = None
    expect: str | None = None


class Group(_Stored):
    """A reference and prompt that all models answered."""

    id: str
    reference_id: str
    prompt: str
    references: tuple[str, ...]
    samples: dict[str, str]


class Key(_Stored):
    """``key.json``: not for raters.

    Attributes:
        study: id, which pages and answers carry.
        mode: ``scale`` or ``pairwise``.
        seed: of the design.
        models: compared.
        questions: asked of every item.
        groups: by id.
        sessions: rater -> items in order.
    """

    schema_version: Literal["s2v-eval-study/1"] = Field(default="s2v-eval-study/1", alias="schema")
    study: str
    mode: Literal["scale", "pairwise"]
    seed: int
    models: tuple[str, ...]
    questions: tuple[Question, ...]
    groups: dict[str, Group]
    sessions: dict[str, tuple[Item, ...]]

    @property
    def choices(self) -> tuple[str, ...]:
        """Possible answers."""
        return SCALE if self.mode == "scale" else SIDES


class Given(_Stored):
    """A rater's answers to one item.

    Attributes:
        item: id.
        answers: question -> choice.
        ms: from its showing to its last answer, summed over visits.
        place: how many items had been answered before it.
    """

    item: str
    answers: dict[str, str]
    ms: int = Field(ge=0, le=86_400_000)
    place: int = Field(ge=0, lt=1 << 31)


class Answers(_Stored):
    """The file that a rater's page saves."""

    schema_version: Literal["s2v-eval-answers/1"] = Field(alias="schema")
    study: str
    rater: str
    given: tuple[Given, ...]


def load_key(folder: str | Path) -> Key:
    """Read a study's key.

    Raises:
        EvalError: no study there, or a damaged key.
    """
    path = Path(folder) / KEY_FILE
    try:
        return Key.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvalError(f"{path}: {error.strerror}; `s2v-eval study build` writes it") from error
    except UnicodeDecodeError as error:
        raise EvalError(f"{path}: damaged ({error.reason}); restore it from a copy") from error
    except ValidationError as error:
        raise EvalError(f"{path}: not a study of this version: {explain(error)}") from error


def load_answers(path: Path, max_bytes: int = 5_000_000) -> Answers:
    """Read a rater's file; it comes from outside and is not trusted.

    Raises:
        EvalError: unreadable, too large, or not such a file.
    """
    _, text = read_text(path, "file of answers", max_bytes)
    try:
        return Answers.model_validate_json(text)
    except ValidationError as error:
        raise EvalError(
            f"{path}: not the answers of a study page: {explain(error)}; ask the rater to save "
            "them again"
        ) from error
