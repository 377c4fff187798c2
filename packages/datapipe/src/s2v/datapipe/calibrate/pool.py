"""The candidate pairs of a run that a bound decides on, each two subjects once.

A bound is judged on the pairs that reach it: those that pass every *other* rule. Pairs that only
rules against copying refuse (too near in time, alike by hash) are kept apart as *guarded*: they
hold the run's near copies, and show what the upper bound would catch alone. Pairs that other
identity rules refuse tell nothing about either bound and are left out.

A pair is of a class when both its subjects are. A class with bounds of its own in force has a pool
of its own; all other pairs of a bank, also those of two classes, are in the bank's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from s2v.datapipe.base.settings import parse
from s2v.datapipe.calibrate.candidates import FACE, Bound, Candidate, Key, Pool, Row, ordered
from s2v.datapipe.calibrate.collect import Collector
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.pair.evidence import CONTEXT_RULES, VERIFIER_RULES
from s2v.datapipe.pair.settings import BANKS, SelectSettings

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
#: A pair whose copying was not measured can be judged by nobody.
_GUARDS: Final = frozenset(CONTEXT_RULES) - {"copy_not_measured"}
_COLUMNS: Final = (
    *("target_subject_id", "reference_subject_id", "target_clip_id", "reference_clip_id"),
    *("bank", "similarity", "face_similarity", "rules"),
)
_BATCH: Final = 65_536


@dataclass(frozen=True)
class Run:
    """What is read of a run folder.

    Attributes:
        folder: the run folder.
        pools: by name, those with candidates.
        known: of the labelled pairs those that table ``pairs`` has.
    """

    folder: Path
    pools: dict[str, Pool]
    known: frozenset[Key]


def read_run(folder: Path, labelled: Collection[Key] = ()) -> Run:
    """Read ``run.json`` and the tables a calibration needs, in bounded memory.

    Args:
        folder: the run folder.
        labelled: pairs that the pools must hold, however large the run.

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
    embedders = _embedders(folder)
    wanted = frozenset(labelled)
    collectors = {
        name: Collector(bound, wanted) for name, bound in _bounds(settings, embedders).items()
    }
    known: set[Key] = set()
    rows = 0
    for row in _pairs(folder):
        rows += 1
        key = ordered(row["target_subject_id"], row["reference_subject_id"])
        if key in wanted:
            known.add(key)
        bank, kind = row["bank"], row["class"]
        own = f"{bank}.{kind}"
        for name in (own if own in collectors else bank, FACE):
            one = collectors.get(name)
            candidate = None if one is None else _candidate(row, one.bound)
            if one is not None and candidate is not None:
                one.add(candidate)
    if not rows:
        raise CalibrateError(f"{folder}: table pairs is empty, there is nothing to calibrate")
    pools = {name: made for name, one in collectors.items() if (made := one.pool()) is not None}
    return Run(folder, pools, frozenset(known))


def table(
    folder: Path, name: str, columns: Iterable[str] | None = None, filters: pc.Expression = None
) -> pa.Table:
    """A table of the run.

    Raises:
        CalibrateError: it is missing or not Parquet.
    """
    chosen = list(columns) if columns else None
    with _read(folder, name) as path:
        return pq.read_table(path, columns=chosen, filters=filters, partitioning=None)


@contextmanager
def _read(folder: Path, name: str) -> Iterator[Path]:
    path = folder / "tables" / f"{name}.parquet"
    try:
        yield path
    except FileNotFoundError:
        raise CalibrateError(f"{path}: missing; s2v-data run (or select) writes it") from None
    except (OSError, pa.ArrowException) as error:
        raise CalibrateError(f"{path}: cannot be read: {error}") from None


def _pairs(folder: Path) -> Iterator[Row]:
    """Rows of table ``pairs``, a batch at a time, with the class that both subjects have."""
    known = table(folder, "subjects", ("subject_id", "class"))
    with _read(folder, "pairs") as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=list(_COLUMNS)):
            kinds = [
                known["class"]
                .take(pc.index_in(batch[f"{end}_subject_id"], value_set=known["subject_id"]))
                .to_pylist()
                for end in ("target", "reference")
            ]
            for row, one, other in zip(batch.to_pylist(), *kinds, strict=True):
                yield {**row, "class": one if one and one == other else ""}


def _embedders(folder: Path) -> dict[str, list[str]]:
    """Bank (or ``face``) -> embedders of its subjects' best boxes."""
    subjects = (
        table(folder, "subjects", ("detection_id", "bank"))
        .group_by(["detection_id", "bank"])
        .aggregate([])
    )
    boxes = table(folder, "embeddings", ("detection_id", "embedder"))
    joined = subjects.join(boxes, "detection_id", join_type="inner")
    found: dict[str, list[str]] = {name: [] for name in (*BANKS, FACE)}
    for row in joined.group_by(["bank", "embedder"]).aggregate([]).to_pylist():
        found.setdefault(row["bank"], []).append(row["embedder"])
    faces = table(folder, "faces", ("embedder",))["embedder"].unique().to_pylist()
    found[FACE] = [one for one in faces if one]
    return {name: sorted(known) for name, known in found.items()}


def _bounds(settings: SelectSettings, embedders: Mapping[str, list[str]]) -> dict[str, Bound]:
    """All bounds in force by name: of the banks, of classes that have their own, of faces."""
    for name, known in embedders.items():
        if len(known) > 1:
            raise CalibrateError(
                f"bank {name}: boxes of {len(known)} embedders ({', '.join(known)}); a bound "
                "holds for one: run again with one embedder, or calibrate runs of one each"
            )
    of = {name: known[0] if known else "unknown" for name, known in embedders.items()}
    face = settings.face
    found = {FACE: Bound(FACE, ("select", "face"), face.lower, face.upper, of[FACE])}
    for bank in BANKS:
        rules = settings.pair.of(bank)
        whole = Bound(bank, ("select", "pair", bank), *rules.bounds(), of[bank])
        found[bank] = whole
        for kind in sorted(rules.classes):
            lower, upper = rules.bounds(kind)
            own = replace(whole.of_class(kind), lower=lower, upper=upper)
            found[own.name] = own
    return found


def _candidate(row: Row, bound: Bound) -> Candidate | None:
    """The row as a pair of this bound; ``None`` when it says nothing about it."""
    if row["bank"] != bound.bank or row[bound.column] is None:
        return None
    others = set(row["rules"]) - _OWN[bound.name == FACE] - set(VERIFIER_RULES)
    if not others <= _GUARDS:
        return None
    target, reference = row["target_subject_id"], row["reference_subject_id"]
    clips = row["target_clip_id"], row["reference_clip_id"]
    kind = "" if bound.name == FACE else row["class"]  # a face has the same bounds in any class
    return Candidate(target, reference, row[bound.column], clips, tuple(sorted(others)), kind)
