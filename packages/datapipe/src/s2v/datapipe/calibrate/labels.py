"""Labels of pairs: ``target,reference,label`` and, if one likes, ``who`` and ``when``.

A label says what two pictures show, whichever of them is the target. ``near copy`` is the same
subject in essentially the same picture: same pose, place and framing.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from s2v.datapipe.calibrate.candidates import Key, ordered
from s2v.datapipe.calibrate.errors import CalibrateError

SAME: Final = "same"
DIFFERENT: Final = "different"
NEAR_COPY: Final = "near copy"
UNSURE: Final = "unsure"
LABELS: Final = (SAME, DIFFERENT, NEAR_COPY, UNSURE)
COLUMNS: Final = ("target", "reference", "label")
_SHOWN: Final = 3  # examples in a message
_MOST_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Labels:
    """What was said of each pair.

    Attributes:
        of: pair (ids sorted) -> label.
        who: how many labels each person gave; ``""`` where nobody is named.
        repeated: pairs that several people labelled, all alike.
        path: the file.
        lines: pair -> line of its first label.
    """

    of: dict[Key, str]
    who: dict[str, int]
    repeated: int = 0
    path: Path = Path("labels")
    lines: dict[Key, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many pairs have each label."""
        found = Counter(self.of.values())
        return {label: found[label] for label in LABELS}

    def require(self, known: Collection[Key]) -> None:
        """Check that the run has every pair.

        Raises:
            CalibrateError: it has not; the message names lines.
        """
        strange = sorted(self.lines[key] for key in self.of if key not in known)
        if strange:
            at = {line: key for key, line in self.lines.items()}
            shown = "; ".join(f"line {n}: {', '.join(at[n])}" for n in strange[:_SHOWN])
            raise CalibrateError(
                f"{self.path}: {len(strange)} pairs are not in the run's table pairs ({shown}); "
                "were they labelled on another run, or have its clips changed since?"
            )


def read_labels(path: Path) -> Labels:
    """Read and check labels.

    Args:
        path: CSV in UTF-8 with a header.

    Raises:
        CalibrateError: unreadable, a column or label that does not exist, a pair that a person
            labelled twice, or on which two disagree. The message names the lines.
    """
    said: dict[Key, tuple[int, str, str]] = {}
    who: Counter[str] = Counter()
    repeated: set[Key] = set()
    by: set[tuple[Key, str]] = set()
    for line, row in _rows(path):
        target, reference, label = (row[name].strip() for name in COLUMNS)
        label = " ".join(label.replace("_", " ").lower().split())
        if label not in LABELS:
            raise CalibrateError(f"{path}:{line}: label {row['label']!r}; {_nearest(label)}")
        key = ordered(target, reference)
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
    if not said:
        raise CalibrateError(f"{path}: no label in it")
    lines = {key: line for key, (line, _, _) in said.items()}
    of = {key: label for key, (_, label, _) in said.items()}
    return Labels(of, dict(who), len(repeated), path, lines)


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
    except FileNotFoundError:
        raise CalibrateError(f"{path}: no such file; the page's button saves it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrateError(f"{path}: cannot be read as CSV: {error}") from None


def _nearest(label: str) -> str:
    near = difflib.get_close_matches(label, LABELS, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"one of {', '.join(map(repr, LABELS))}"
