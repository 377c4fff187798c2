"""The candidate pairs of a run that a bound decides on, each two subjects once.

A bound is judged on the pairs that reach it: those that pass every *other* rule. Pairs that only
rules against copying refuse (too near in time, alike by hash) are kept apart as *guarded*: they
hold the run's near copies, and show what the upper bound would catch alone. Pairs that other
identity rules refuse tell nothing about either bound and are left out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base.settings import parse
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.pair.settings import BANKS, SelectSettings
from s2v.datapipe.pair.verify import CONTEXT_RULES, VERIFIER_RULES

Row = dict[str, Any]
FACE: Final = "face"
#: Width of the score strata. They do not depend on the bounds in force, so labels outlive them.
STRATUM: Final = 0.05
_OWN: Final = {
    False: frozenset({"below_lower", "above_upper"}),
    True: frozenset(
        {
            *("face_mismatch", "face_too_similar"),
            # Fails for an unverified face, which is what the face's lower bound decides.
            "living_across_sources_without_verified_face",
        }
    ),
}


@dataclass(frozen=True)
class Bound:
    """A pair of bounds: on which column of table ``pairs``, and where they are configured.

    Attributes:
        name: a bank's name, or ``face``.
        section: of the configuration; its keys are ``lower`` and ``upper``.
        lower, upper: in force in the run.
        embedder: whose cosine it is.
    """

    name: str
    section: tuple[str, ...]
    lower: float
    upper: float
    embedder: str

    @property
    def column(self) -> str:
        """The score's column of table ``pairs``."""
        return "face_similarity" if self.name == FACE else "similarity"

    @property
    def bank(self) -> str:
        """Whose pairs it bounds."""
        return "person" if self.name == FACE else self.name


@dataclass(frozen=True)
class Candidate:
    """Two subjects that were compared.

    Attributes:
        target, reference: subject ids, in the order of the best-ranked row.
        score: cosine.
        clips: of both.
        guards: rules against copying that it fails, the bound's own left out.
    """

    target: str
    reference: str
    score: float
    clips: tuple[str, str]
    guards: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """The same for both orders."""
        return min(self.target, self.reference), max(self.target, self.reference)

    @property
    def cell(self) -> tuple[bool, int]:
        """Its stratum: guarded or not, and the step of the score."""
        return bool(self.guards), int(self.score // STRATUM)


@dataclass(frozen=True)
class Pool:
    """The candidates of one bound, by falling score, then id."""

    bound: Bound
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Run:
    """What is read of a run folder.

    Attributes:
        folder: the run folder.
        pools: by name, those with candidates.
        keys: every pair of table ``pairs``, for telling a strange label from a useless one.
        subjects: rows by id; no vectors.
    """

    folder: Path
    pools: dict[str, Pool]
    keys: frozenset[tuple[str, str]]
    subjects: Mapping[str, Row]


def read_run(folder: Path) -> Run:
    """Read ``run.json`` and the tables a calibration needs.

    Raises:
        CalibrateError: no run, no pairs, or a bank with several embedders.
        SettingsError: the run's settings are of another version.
    """
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        stated = about["settings"]["select"]
    except FileNotFoundError:
        raise CalibrateError(f"{folder}: no run.json; give the folder of a finished run") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrateError(f"{folder / 'run.json'}: not a run's record: {error}") from None
    settings = parse(SelectSettings, stated, f"{folder / 'run.json'}: settings.select")
    columns = ("subject_id", "clip_id", "detection_id", "frame_id", "box", "area_share", "bank")
    subjects = {row["subject_id"]: row for row in table(folder, "subjects", columns).to_pylist()}
    pairs = table(folder, "pairs").to_pylist()
    if not pairs:
        raise CalibrateError(f"{folder}: table pairs is empty, there is nothing to calibrate")
    embedders = _embedders(folder, subjects)
    pools = {}
    for name in (*BANKS, FACE):
        made = _pool(name, pairs, settings, embedders)
        if made is not None:
            pools[name] = made
    keys = frozenset(_key(row) for row in pairs)
    return Run(folder, pools, keys, subjects)


def table(folder: Path, name: str, columns: Iterable[str] | None = None) -> pa.Table:
    """A table of the run.

    Raises:
        CalibrateError: it is missing or not Parquet.
    """
    path = folder / "tables" / f"{name}.parquet"
    try:
        return pq.read_table(path, columns=list(columns) if columns else None, partitioning=None)
    except FileNotFoundError:
        raise CalibrateError(f"{path}: missing; s2v-data run (or select) writes it") from None
    except (OSError, pa.ArrowException) as error:
        raise CalibrateError(f"{path}: cannot be read: {error}") from None


def _key(row: Row) -> tuple[str, str]:
    a, b = row["target_subject_id"], row["reference_subject_id"]
    return min(a, b), max(a, b)


def _embedders(folder: Path, subjects: Mapping[str, Row]) -> dict[str, set[str]]:
    """Bank (or ``face``) -> embedders of its subjects' best boxes."""
    found: dict[str, set[str]] = defaultdict(set)
    banks = {row["detection_id"]: row["bank"] for row in subjects.values()}
    for row in table(folder, "embeddings", ("detection_id", "embedder")).to_pylist():
        if row["detection_id"] in banks:
            found[banks[row["detection_id"]]].add(row["embedder"])
    for row in table(folder, "faces", ("embedder",)).to_pylist():
        if row["embedder"]:
            found[FACE].add(row["embedder"])
    return found


def _pool(
    name: str, pairs: list[Row], settings: SelectSettings, embedders: Mapping[str, set[str]]
) -> Pool | None:
    face = name == FACE
    rules = settings.face if face else settings.pair.of(name)
    section = ("select", "face") if face else ("select", "pair", name)
    known = embedders.get(name, set())
    if len(known) > 1:
        raise CalibrateError(
            f"bank {name}: boxes of {len(known)} embedders ({', '.join(sorted(known))}); a bound "
            "holds for one: run again with one embedder, or calibrate runs of one each"
        )
    bound = Bound(name, section, rules.lower, rules.upper, next(iter(known), "unknown"))
    chosen: dict[tuple[str, str], Candidate] = {}
    for row in sorted(pairs, key=lambda r: (r["rank"], r["target_subject_id"], _key(r))):
        if row["bank"] != bound.bank or row[bound.column] is None:
            continue
        others = set(row["rules"]) - _OWN[face] - set(VERIFIER_RULES)
        if not others <= set(CONTEXT_RULES) - {"copy_not_measured"}:
            continue
        made = Candidate(
            row["target_subject_id"],
            row["reference_subject_id"],
            row[bound.column],
            (row["target_clip_id"], row["reference_clip_id"]),
            tuple(sorted(others)),
        )
        before = chosen.setdefault(made.key, made)
        if set(made.guards) - set(before.guards):  # a rule that fails one way fails the pair
            both = tuple(sorted({*before.guards, *made.guards}))
            chosen[made.key] = replace(before, guards=both)
    if not chosen:
        return None
    return Pool(bound, tuple(sorted(chosen.values(), key=lambda c: (-c.score, c.key))))
