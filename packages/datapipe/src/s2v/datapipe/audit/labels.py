"""What a person says of the pairs: a CSV that the audit writes and a second call reads back.

Rows are in the order of their ids, which is that of a hash: whoever labels only the first fifty
labels a random fifty. On the blind page the same order is kept and no score is shown.

Several people may label the same pairs, a file each. Where they differ the answer is ``unsure``,
and who said what is kept, to be shown.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from s2v.datapipe.audit.judges import Answer, Fault
from s2v.datapipe.audit.pairs import AuditError, Pair

COLUMNS: Final = (
    *("pair_id", "same_subject", "near_copy", "note"),
    *("class", "scenario", "target_subject_id", "reference_subject_id"),
)
_READ: Final = COLUMNS[:3]
_WORDS: Final = ("", "yes", "no", "unsure")
MAX_BYTES: Final = 20_000_000


@dataclass(frozen=True)
class Labels:
    """Labels of some pairs.

    Attributes:
        answers: pair id to the answers given; what was left empty is not in it.
        disputed: pair id to the faults on which people differ, and what each file says.
    """

    answers: Mapping[str, Mapping[Fault, Answer]]
    disputed: Mapping[str, Mapping[Fault, Mapping[str, Answer]]] = field(default_factory=dict)

    def of(self, pair: Pair, fault: Fault) -> Answer | None:
        """The answer on a pair, ``None`` where nobody gave one."""
        return self.answers.get(pair.pair_id, {}).get(fault)


def template(pairs: Iterable[Pair]) -> bytes:
    """The CSV to fill in: ``yes``, ``no``, ``unsure`` or nothing in two columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in sorted(pairs, key=lambda one: one.pair_id):
        names = pair.target.subject["subject_id"], pair.reference.subject["subject_id"]
        writer.writerow([pair.pair_id, "", "", "", pair.kind, pair.scenario, *names])
    return out.getvalue().encode()


def merged(paths: Sequence[Path]) -> Labels:
    """Labels of several people, a file each; of one file as it is.

    Raises:
        AuditError, OSError: see :func:`read_labels`; a file is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise AuditError("--labels: one file is given twice; give each person's once")
    given: dict[str, dict[Fault, dict[str, Answer]]] = {}
    for path in paths:
        for pair, said in read_labels(path).answers.items():
            for fault, answer in said.items():
                given.setdefault(pair, {}).setdefault(fault, {})[str(path)] = answer
    answers: dict[str, dict[Fault, Answer]] = {}
    disputed: dict[str, dict[Fault, Mapping[str, Answer]]] = {}
    for pair, faults in sorted(given.items()):
        answers[pair] = {}
        for fault, by in faults.items():
            alike = len(set(by.values())) == 1
            answers[pair][fault] = next(iter(by.values())) if alike else "unsure"
            if not alike:
                disputed.setdefault(pair, {})[fault] = by
    return Labels(answers, disputed)


def read_labels(path: Path) -> Labels:
    """Labels from a filled-in CSV; columns may come in any order, and others are ignored.

    Raises:
        AuditError: not such a CSV; the message names the file, the line and the value.
        OSError: it cannot be opened.
    """
    if path.stat().st_size > MAX_BYTES:
        raise AuditError(f"{path}: more than {MAX_BYTES} bytes, which is no list of labels")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AuditError(f"{path}: not UTF-8 ({error}); save it as CSV in UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [name for name in _READ if name not in (reader.fieldnames or ())]
        if missing:
            raise AuditError(f"{path}: no column {missing}; the audit writes one with {COLUMNS}")
        answers: dict[str, dict[Fault, Answer]] = {}
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            name = (row["pair_id"] or "").strip()
            if name in answers:
                raise AuditError(f"{where}: pair {name!r} was labelled before; keep one line")
            same, copy = (_word(where, column, row[column]) for column in _READ[1:])
            answers[name] = {}
            if same:
                answers[name]["wrong"] = _SAID["same_subject"][same]
            if copy:
                answers[name]["copy"] = _SAID["near_copy"][copy]
    except csv.Error as error:
        raise AuditError(f"{path}, line {reader.line_num}: {error}") from None
    return Labels(answers)


_SAID: Final[dict[str, dict[str, Answer]]] = {
    "same_subject": {"yes": "no", "no": "yes", "unsure": "unsure"},  # the fault is "wrong"
    "near_copy": {"yes": "yes", "no": "no", "unsure": "unsure"},
}


def _word(where: str, column: str, value: str | None) -> str:
    word = (value or "").strip().lower()
    if word not in _WORDS:
        raise AuditError(f"{where}: {column} is {value!r}; write yes, no, unsure or leave it empty")
    return word
