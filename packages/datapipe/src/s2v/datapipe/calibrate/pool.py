"""The candidate pairs of a run that a bound decides on, each two subjects once.

A bound is judged on the pairs that reach it: those that pass every *other* rule. Pairs that only
rules against copying refuse (too near in time, alike by hash) are kept apart as *guarded*: they
hold the run's near copies, and show what the upper bound would catch alone. Pairs that other
identity rules refuse tell nothing about either bound and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    collectors = [Collector(_bound(name, settings, embedders), wanted) for name in (*BANKS, FACE)]
    known: set[Key] = set()
    rows = 0
    for row in _pairs(folder):
        rows += 1
        key = ordered(row["target_subject_id"], row["reference_subject_id"])
        if key in wanted:
            known.add(key)
        for one in collectors:
            candidate = _candidate(row, one.bound)
            if candidate is not None:
                one.add(candidate)
    if not rows:
        raise CalibrateError(f"{folder}: table pairs is empty, there is nothing to calibrate")
    pools = {one.bound.name: made for one in collectors if (made := one.pool()) is not None}
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
    """Rows of table ``pairs``, a batch at a time."""
    with _read(folder, "pairs") as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=list(_COLUMNS)):
            yield from batch.to_pylist()


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


def _bound(name: str, settings: SelectSettings, embedders: Mapping[str, list[str]]) -> Bound:
    face = name == FACE
    rules = settings.face if face else settings.pair.of(name)
    section = ("select", "face") if face else ("select", "pair", name)
    known = embedders[name]
    if len(known) > 1:
        raise CalibrateError(
            f"bank {name}: boxes of {len(known)} embedders ({', '.join(known)}); a bound "
            "holds for one: run again with one embedder, or calibrate runs of one each"
        )
    return Bound(name, section, rules.lower, rules.upper, known[0] if known else "unknown")


def _candidate(row: Row, bound: Bound) -> Candidate | None:
    """The row as a pair of this bound; ``None`` when it says nothing about it."""
    if row["bank"] != bound.bank or row[bound.column] is None:
        return None
    others = set(row["rules"]) - _OWN[bound.name == FACE] - set(VERIFIER_RULES)
    if not others <= _GUARDS:
        return None
    target, reference = row["target_subject_id"], row["reference_subject_id"]
    clips = row["target_clip_id"], row["reference_clip_id"]
    return Candidate(target, reference, row[bound.column], clips, tuple(sorted(others)))
