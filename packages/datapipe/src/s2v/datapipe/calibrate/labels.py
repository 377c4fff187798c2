"""Labels of pairs: ``target,reference,label`` and, if one likes, ``who`` and ``when``.

A label says what two pictures show, whichever of them is the target. ``near copy`` is the same
subject in essentially the same picture: same pose, place and framing.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from s2v.datapipe.calibrate.errors import CalibrateError

SAME: Final = "same"
DIFFERENT: Final = "different"
NEAR_COPY: Final = "near copy"
UNSURE: Final = "unsure"
LABELS: Final = (SAME, DIFFERENT, NEAR_COPY, UNSURE)
COLUMNS: Final = ("target", "reference", "label")
_SHOWN: Final = 3  # examples in a message
_MOST_BYTES: Final = 256 << 20

Key = tuple[str, str]


@dataclass(frozen=True)
class Labels:
    """What was said of each pair.

    Attributes:
        of: pair (ids sorted) -> label.
        who: how many labels each person gave; ``""`` where nobody is named.
        repeated: pairs that several people labelled, all alike.
    """

    of: dict[Key, str]
    who: dict[str, int]
    repeated: int

    def counts(self) -> dict[str, int]:
        """How many pairs have each label."""
        found = Counter(self.of.values())
        return {label: found[label] for label in LABELS}


def read_labels(path: Path, known: frozenset[Key]) -> Labels:
    """Read and check labels.

    Args:
        path: CSV in UTF-8 with a header.
        known: every pair of the run, ids sorted.

    Raises:
        CalibrateError: unreadable, a column or label that does not exist, a pair the run does
            not have, one that a person labelled twice, or two people who disagree. The message
            names the lines.
    """
    said: dict[Key, tuple[int, str, str]] = {}
    who: Counter[str] = Counter()
    strange: list[str] = []
    repeated: set[Key] = set()
    by: set[tuple[Key, str]] = set()
    for line, row in _rows(path):
        target, reference, label = (row[name].strip() for name in COLUMNS)
        label = " ".join(label.replace("_", " ").lower().split())
        if label not in LABELS:
            raise CalibrateError(f"{path}:{line}: label {row['label']!r}; {_nearest(label)}")
        key = (min(target, reference), max(target, reference))
        if key not in known:
            strange.append(f"line {line}: {target}, {reference}")
            continue
        person = (row.get("who") or "").strip()
        if key in said:
            first, other, _ = said[key]
            if other != label:
                raise CalibrateError(
                    f"{path}:{line}: {target}, {reference} is {label!r} here and {other!r} on "
                    f"line {first}; look again and keep one, or say {UNSURE!r}"
                )
            if (key, person) in by:
                raise CalibrateError(
                    f"{path}:{line}: {target}, {reference} was labelled on line {first} already; "
                    "keep one of the two"
                )
            repeated.add(key)
        said.setdefault(key, (line, label, person))
        by.add((key, person))
        who[person] += 1
    if strange:
        raise CalibrateError(
            f"{path}: {len(strange)} pairs are not in the run's table pairs "
            f"({'; '.join(strange[:_SHOWN])}); were they labelled on another run, or have its "
            "clips changed since?"
        )
    if not said:
        raise CalibrateError(f"{path}: no label in it")
    return Labels({k: label for k, (_, label, _) in said.items()}, dict(who), len(repeated))


def write_labels(path: Path, rows: Iterable[tuple[str, str, str, str]]) -> None:
    """Write ``target,reference,label,who`` rows."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        out = csv.writer(handle, lineterminator="\n")
        out.writerow([*COLUMNS, "who"])
        out.writerows(rows)


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CalibrateError(f"{path}: over {_MOST_BYTES >> 20} MiB; is it a list of labels?")
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise CalibrateError(
                    f"{path}: no column {', '.join(missing)}; its first line reads "
                    f"{','.join(COLUMNS)} and perhaps who, when"
                )
            for row in reader:
                if any(row[name] is None for name in COLUMNS):
                    raise CalibrateError(f"{path}:{reader.line_num}: fewer than three values")
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrateError(f"{path}: cannot be read as CSV: {error}") from None


def _nearest(label: str) -> str:
    near = difflib.get_close_matches(label, LABELS, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"one of {', '.join(map(repr, LABELS))}"
