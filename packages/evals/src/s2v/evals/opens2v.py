"""OpenS2V-Eval's totals (arXiv 2505.20292), v1.0 and v1.1, and what they do with failures.

Each metric's values are clipped per video, averaged, brought to 0 to 1 and weighed. Its script
leaves out videos without a value, and NexusScores of exactly zero, so a model that fails often is
judged by what it managed (``published``). Counting every missing video as the worst value is the
other convention (``zeros``); both are reported, and only the first stands beside its leaderboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.evals.errors import EvalError

Version = Literal["v1.0", "v1.1"]
Domain = Literal["open", "human"]
Failures = Literal["published", "zeros"]

RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "Aesthetics": (4.0, 7.0),
    "Motion": (0.0, 1.0),
    "MotionSmoothness": (0.0, 1.0),
    "MotionAmplitude": (0.0, 1.0),
    "FaceSim": (0.0, 1.0),
    "GmeScore": (0.0, 1.0),
    "NexusScore": (0.0, 0.05),
    "NaturalScore": (1.0, 5.0),
}
"""Raw values that stand for 0 and 1. The paper's D.5 prints the first two swapped."""

WEIGHTS: Final[Mapping[tuple[Version, Domain], Mapping[str, float]]] = {
    ("v1.1", "open"): {
        "Aesthetics": 0.16,
        "MotionSmoothness": 0.06,
        "MotionAmplitude": 0.02,
        "FaceSim": 0.20,
        "GmeScore": 0.12,
        "NexusScore": 0.20,
        "NaturalScore": 0.24,
    },
    ("v1.1", "human"): {
        "Aesthetics": 0.18,
        "MotionSmoothness": 0.09,
        "MotionAmplitude": 0.03,
        "FaceSim": 0.25,
        "GmeScore": 0.15,
        "NaturalScore": 0.30,
    },
    ("v1.0", "open"): {
        "Aesthetics": 0.12,
        "Motion": 0.12,
        "FaceSim": 0.20,
        "GmeScore": 0.12,
        "NexusScore": 0.20,
        "NaturalScore": 0.24,
    },
    ("v1.0", "human"): {
        "Aesthetics": 0.15,
        "Motion": 0.15,
        "FaceSim": 0.25,
        "GmeScore": 0.15,
        "NaturalScore": 0.30,
    },
}
"""``open`` is also the single-subject domain; ``human`` has no NexusScore."""

PROTOCOLS: Final[Mapping[str, str]] = {
    "Aesthetics": "aesthetics@laion-mlp.opens2v",
    "Motion": "motion-amplitude@opens2v",
    "MotionAmplitude": "motion-amplitude@opens2v",
    "FaceSim": "facesim.cur@ir101.opens2v",
    "GmeScore": "gme-score@gme-qwen2-vl.opens2v",
}
"""Which of our protocols measures a part; the others are measured elsewhere and given."""


def total(parts: Mapping[str, float], version: Version, domain: Domain) -> float:
    """The weighted sum, in the unit of the parts.

    Args:
        parts: normalised, by the leaderboard's names; more than are needed do no harm.
        version: of the weights.
        domain: likewise.

    Raises:
        EvalError: a part is missing.
    """
    weights = WEIGHTS[version, domain]
    lacking = missing(parts, version, domain)
    if lacking:
        raise EvalError(f"OpenS2V's total {version} ({domain}) needs {', '.join(lacking)}")
    return sum(weight * parts[name] for name, weight in weights.items())


def missing(parts: Iterable[str], version: Version, domain: Domain) -> tuple[str, ...]:
    """Names of the parts that a total still needs, sorted."""
    return tuple(sorted(set(WEIGHTS[version, domain]) - set(parts)))


def normalised(name: str, values: Sequence[float | None], failures: Failures) -> float:
    """One part of the total, 0 to 1, from one raw value per expected video.

    Args:
        name: as in `RANGES`.
        values: raw; None where the video has none.
        failures: ``published`` leaves those out, and NexusScores of 0; ``zeros`` counts them as
            the lowest value. No value at all is 0 either way.

    Raises:
        EvalError: no such part.
    """
    if name not in RANGES:
        raise EvalError(f"OpenS2V has no metric {name!r}; known: {', '.join(RANGES)}")
    low, high = RANGES[name]
    dropped = failures == "published"
    kept = [v for v in values if v is not None and not (dropped and name == "NexusScore" and not v)]
    clipped = [min(max(v, low), high) for v in kept]
    if not dropped:
        clipped += [low] * (len(values) - len(kept))
    if not clipped:
        return 0.0
    return (sum(clipped) / len(clipped) - low) / (high - low)


@dataclass(frozen=True)
class Total:
    """One model's total.

    Attributes:
        total: 0 to 1.
        parts: normalised.
        missing: part -> videos without a value.
        failures: the convention.
    """

    total: float
    parts: Mapping[str, float]
    missing: Mapping[str, int]
    failures: Failures


def total_of(
    values: Mapping[str, Sequence[float | None]],
    version: Version,
    domain: Domain,
    failures: Failures,
) -> Total:
    """The total of one model from raw values per video.

    Args:
        values: part -> one value (or None) per expected video.
        version: of the weights.
        domain: likewise.
        failures: convention; see `normalised`.

    Raises:
        EvalError: a part is missing, or is unknown.
    """
    parts = {name: normalised(name, found, failures) for name, found in values.items()}
    return Total(
        total(parts, version, domain),
        parts,
        {name: sum(v is None for v in found) for name, found in values.items()},
        failures,
    )


@dataclass(frozen=True)
class Measured:
    """One part as a run has measured it.

    Attributes:
        protocol: id, with the mark of weights that are not known to be the published ones.
        values: raw, one per expected video, in the order of sample ids; None where it failed.
    """

    protocol: str
    values: tuple[float | None, ...]


def measured(run: str | Path, model: str | None = None) -> dict[str, Measured]:
    """The parts that a finished run has measured.

    Samples to which a part does not apply (no face reference) are left out of it, as OpenS2V
    leaves them out by their category; failures stay as None.

    Args:
        run: folder with ``per_sample.parquet``.
        model: only its generated videos; by default all generated ones.

    Raises:
        EvalError: no such file, or a damaged one.
    """
    path = Path(run) / "per_sample.parquet"
    if not path.is_file():
        raise EvalError(f"{path}: no such file; `s2v-eval run MANIFEST --out {run}` writes it")
    try:
        rows = pq.read_table(
            path, columns=["sample_id", "source", "model", "protocol", "status", "score"]
        ).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise EvalError(f"{path}: cannot be read: {error}") from error
    found: dict[str, Measured] = {}
    for name, protocol in PROTOCOLS.items():
        mine = [
            row
            for row in rows
            if row["protocol"].split("~")[0] == protocol
            and row["source"] == "generated"
            and row["status"] != "not_applicable"
            and model in (None, row["model"])
        ]
        if mine:
            found[name] = Measured(mine[0]["protocol"], tuple(row["score"] for row in mine))
    return found


def values_of(run: str | Path, model: str | None = None) -> dict[str, list[float | None]]:
    """Raw values per video of the parts that a finished run has measured.

    Args:
        run: as for `measured`.
        model: likewise.

    Raises:
        EvalError: likewise.
    """
    return {name: list(one.values) for name, one in measured(run, model).items()}
