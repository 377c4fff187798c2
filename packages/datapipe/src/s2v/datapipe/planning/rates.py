"""Measured rates: what a stage costs per clip, and how many rows a clip gives.

A run's commits hold the CPU and wall seconds of every stage and the rows it wrote, so any run is
its own measurement. The rates of the demo's run are shipped for a first estimate; a run of a
hundred clips of one's own, with one's own models, gives better ones (``plan --rates FOLDER``).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from s2v.datapipe.base import records
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.engine.store import Commit, StageStore

SHIPPED = "rates.json"


@dataclass(frozen=True)
class StageRate:
    """What one stage cost.

    Attributes:
        model: id of the models it held, ``None`` for none.
        ids: how many ids it measured.
        cpu_seconds, wall_seconds: of all of them, without loading models.
        bytes: of the parts it committed.
    """

    model: str | None
    ids: int
    cpu_seconds: float
    wall_seconds: float
    bytes: int


@dataclass(frozen=True)
class Rates:
    """Rates of one run, and under which conditions they were measured."""

    conditions: str
    source_seconds: float  # of usable videos
    clips: int
    stages: dict[str, StageRate]
    rows: dict[str, int]  # per table, of all clips
    frame_bytes: int  # of the stored frames
    clip_bytes: int  # of the clips that were encoded
    clips_encoded: int
    shard_bytes: int = 0
    samples: dict[str, int] = field(default_factory=dict)

    def per_clip(self, table: str) -> float:
        """Rows of ``table`` that a clip gives on average."""
        return self.rows.get(table, 0) / max(self.clips, 1)

    def as_json(self) -> str:
        """One readable document."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def shipped() -> Rates:
    """The rates of the demo's run."""
    text = resources.files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")
    return _from_json(json.loads(text))


def of_run(folder: Path, conditions: str | None = None) -> Rates:
    """Read the rates off a finished run.

    Args:
        folder: the run folder.
        conditions: where it ran, for the reader of a plan.

    Raises:
        SettingsError: the folder holds no finished run.
    """
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        fingerprints, models = run["fingerprints"], run["stage_models"]
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(
            f"{folder}: rates are read off a finished run of this version ({error}); "
            "run it to its end first"
        ) from None
    stages, rows = {}, Counter[str]()
    for name, fingerprint in fingerprints.items():
        store = StageStore.listed(folder, name, fingerprint)
        commits = list(store.all_commits())
        stages[name] = _rate(store, commits, models.get(name))
        for commit in commits:
            rows.update({t: part["rows"] for t, part in commit.parts.items()})
    tables = folder / "tables"
    return Rates(
        conditions=conditions or f"run {folder.name}",
        source_seconds=round(_seconds(tables), 3),
        clips=rows["clips"],
        stages=stages,
        rows={name: rows[name] for name in sorted(records.TABLES) if rows[name]},
        frame_bytes=_bytes(folder / "frames", "*.tar"),
        clip_bytes=_bytes(folder / "clips", "**/*.mp4"),
        clips_encoded=len(list((folder / "clips").glob("**/*.mp4"))),
        shard_bytes=_bytes(folder / "shards", "*.tar"),
        samples=_samples(tables),
    )


def _rate(store: StageStore, commits: list[Commit], model: str | None) -> StageRate:
    files = [store.folder / part["file"] for c in commits for part in c.parts.values()]
    return StageRate(
        model=model,
        ids=sum(len(c.ids) for c in commits),
        cpu_seconds=round(sum(c.cpu_seconds for c in commits), 3),
        wall_seconds=round(sum(c.wall_seconds for c in commits), 3),
        bytes=sum(path.stat().st_size for path in files if path.exists()),
    )


def _seconds(tables: Path) -> float:
    import pyarrow.parquet as pq

    rows = pq.read_table(tables / "probe.parquet", columns=["duration_us", "reason"]).to_pylist()
    return float(sum((r["duration_us"] or 0) / 1e6 for r in rows if r["reason"] is None))


def _samples(tables: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    kinds = pq.read_table(tables / "samples.parquet", columns=["pair_type"])["pair_type"]
    return dict(sorted(Counter(kinds.to_pylist()).items()))


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _from_json(data: dict[str, Any]) -> Rates:
    stages = {name: StageRate(**rate) for name, rate in data.pop("stages").items()}
    return Rates(stages=stages, **data)
