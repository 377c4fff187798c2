"""Labels of pairs: ``target,reference,label`` and, if one likes, ``who`` and ``when``.

A label says what two pictures show, whichever of them is the target. ``near copy`` is the same
subject in essentially the same picture: same pose, place and framing.

Several people may label the same pairs, in one file or in several. Where they differ the pair is
*disputed*: it counts as ``unsure``, and who said what is shown. One person who says two things of
a pair has made a mistake, which is an error.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final, NoReturn

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
class Agreement:
    """How far two people say the same.

    Attributes:
        people: their names.
        pairs: which both labelled.
        share: of these, how many alike.
        kappa: Cohen's: 1 is always alike, 0 as by chance; ``None`` where chance alone is 1.
    """

    people: tuple[str, str]
    pairs: int
    share: float
    kappa: float | None


@dataclass(frozen=True)
class Labels:
    """What was said of each pair.

    Attributes:
        of: pair (ids sorted) -> label.
        who: how many labels each person gave; ``""`` where nobody is named.
        repeated: pairs that several people labelled, all alike.
        disputed: pair -> what each person said, where they differ; ``unsure`` in ``of``.
        agreement: of every two people with pairs in common.
        places: pair -> file and line of its first label.
    """

    of: dict[Key, str]
    who: dict[str, int]
    repeated: int = 0
    disputed: dict[Key, dict[str, str]] = field(default_factory=dict)
    agreement: tuple[Agreement, ...] = ()
    places: dict[Key, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many pairs have each label."""
        found = Counter(self.of.values())
        return {label: found[label] for label in LABELS}

    def require(self, known: Collection[Key]) -> None:
        """Check that the run has every pair.

        Raises:
            CalibrateError: it has not; the message names lines.
        """
        strange = [key for key in self.of if key not in known]
        if strange:
            shown = "; ".join(f"{self.places[key]}: {', '.join(key)}" for key in strange[:_SHOWN])
            raise CalibrateError(
                f"{len(strange)} labelled pairs are not in the run's table pairs ({shown}); "
                "were they labelled on another run, or have its clips changed since?"
            )


def read_labels(*paths: Path) -> Labels:
    """Read and check labels.

    Args:
        paths: CSVs in UTF-8 with a header. Who is not named in one of several files is called
            after it.

    Raises:
        CalibrateError: unreadable, a column or label that does not exist, a pair that a person
            labelled twice. The message names the lines.
    """
    said: dict[Key, dict[str, tuple[str, str]]] = {}  # pair -> person -> label and place
    for path in paths:
        for line, row in _rows(path):
            place = f"{path}:{line}"
            target, reference, label = (row[name].strip() for name in COLUMNS)
            label = " ".join(label.replace("_", " ").lower().split())
            if label not in LABELS:
                raise CalibrateError(f"{place}: label {row['label']!r}; {_nearest(label)}")
            person = (row.get("who") or "").strip() or (str(path) if len(paths) > 1 else "")
            mine = said.setdefault(ordered(target, reference), {})
            if person in mine:
                _twice(place, target, reference, label, *mine[person])
            mine[person] = (label, place)
    if not said:
        raise CalibrateError(f"{', '.join(map(str, paths))}: no label in it")
    given = {key: {who: label for who, (label, _) in by.items()} for key, by in said.items()}
    apart = {key: by for key, by in given.items() if len(set(by.values())) > 1}
    return Labels(
        of={k: UNSURE if k in apart else next(iter(by.values())) for k, by in given.items()},
        who=dict(Counter(person for by in given.values() for person in by)),
        repeated=sum(len(by) > 1 for by in given.values()) - len(apart),
        disputed=apart,
        agreement=_agreement(given.values()),
        places={key: next(iter(by.values()))[1] for key, by in said.items()},
    )


def _twice(
    place: str, target: str, reference: str, label: str, before: str, where: str
) -> NoReturn:
    if before != label:
        raise CalibrateError(
            f"{place}: {target}, {reference} is {label!r} here and {before!r} in {where}, said by "
            f"the same person; look again and keep one, or say {UNSURE!r}"
        )
    raise CalibrateError(
        f"{place}: {target}, {reference} was labelled in {where} already; keep one of the two"
    )


def _agreement(given: Iterable[Mapping[str, str]]) -> tuple[Agreement, ...]:
    both: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for by in given:
        for one, other in combinations(sorted(by), 2):
            both.setdefault((one, other), []).append((by[one], by[other]))
    return tuple(
        Agreement(people, len(pairs), sum(a == b for a, b in pairs) / len(pairs), _kappa(pairs))
        for people, pairs in sorted(both.items())
    )


def _kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa; ``None`` where both only ever gave one and the same label."""
    count = len(pairs)
    alike = sum(a == b for a, b in pairs) / count
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[label] * second[label] for label in LABELS) / count**2
    return None if chance >= 1 else (alike - chance) / (1 - chance)


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
