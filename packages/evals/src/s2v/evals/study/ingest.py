"""``study ingest``: raters' files checked against the key and brought into one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base.atomic import replacing
from s2v.evals.errors import EvalError
from s2v.evals.rows import read_table
from s2v.evals.study.records import Answers, Key, load_answers, load_key

TABLE = "answers.parquet"

SCHEMA = pa.schema(
    [
        pa.field("rater", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("of", pa.string()),
        pa.field("expect", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("models", pa.list_(pa.string()), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("choice", pa.string(), nullable=False),
        pa.field("ms", pa.int64(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
    ],
    metadata={"schema": "s2v-eval-study-answers/1"},
)
"""One row per rater, item and question, unblinded."""


def ingest(study: str | Path, files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Check raters' files, all of them together, and write ``answers.parquet`` into the study.

    Args:
        study: folder with ``key.json``.
        files: as the pages saved them; what is missing in one counts as not answered.

    Returns:
        The rows, sorted by rater, item and question.

    Raises:
        EvalError: naming the file: another study's, an unknown rater, item, question or choice,
            an item or a rater twice.
    """
    folder = Path(study)
    key = load_key(folder)
    if not files:
        raise EvalError(f"{folder}: no answers given; name the files that raters sent")
    rows: list[dict[str, Any]] = []
    seen: dict[str, Path] = {}
    wrong: list[str] = []
    for path in sorted(Path(f) for f in files):
        try:
            answers = load_answers(path)
            if answers.rater in seen:
                raise EvalError(
                    f"{path}: session {answers.rater!r} was already in {seen[answers.rater]}; "
                    "keep one"
                )
            found = _rows(path, key, answers)
        except EvalError as error:  # all wrong files are told at once
            wrong.append(str(error))
            continue
        seen[answers.rater] = path
        rows += found
    if wrong:
        raise EvalError("; ".join(wrong) + f"; nothing was written, {len(seen)} files were right")
    rows.sort(key=lambda r: (r["rater"], r["item"], r["question"]))
    with replacing(folder / TABLE) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")
    return rows


def _rows(path: Path, key: Key, answers: Answers) -> list[dict[str, Any]]:
    if answers.study != key.study:
        raise EvalError(
            f"{path}: answers of study {answers.study!r}, this one is {key.study!r}; give each "
            "study its own files"
        )
    if answers.rater not in key.sessions:
        raise EvalError(f"{path}: no session {answers.rater!r}; there are {len(key.sessions)}")
    items = {item.id: item for item in key.sessions[answers.rater]}
    questions = [q.id for q in key.questions]
    rows = []
    done = set()
    for given in answers.given:
        item = items.get(given.item)
        if item is None or given.item in done:
            why = "is there twice" if given.item in done else "is not of this session"
            raise EvalError(
                f"{path}: item {given.item!r} {why}: the file was changed after its page saved it; "
                "ask the rater to save it again"
            )
        done.add(given.item)
        for question, choice in given.answers.items():
            if question not in questions or choice not in key.choices:
                raise EvalError(
                    f"{path}: item {given.item}: {question!r}: {choice!r}; questions are "
                    f"{questions}, choices {list(key.choices)}"
                )
            rows.append(
                {
                    "rater": answers.rater,
                    "item": item.id,
                    "kind": item.kind,
                    "of": item.of,
                    "expect": item.expect,
                    "group": item.group,
                    "models": list(item.models),
                    "question": question,
                    "choice": choice,
                    "ms": given.ms,
                    "place": given.place,
                }
            )
    return rows


def load_rows(study: str | Path) -> list[dict[str, Any]]:
    """The rows that `ingest` wrote.

    Raises:
        EvalError: there are none yet, or they are damaged.
    """
    mend = f"`s2v-eval study ingest {study} FILES` writes it"
    return read_table(Path(study) / TABLE, SCHEMA, mend)
