"""Measured rates: what a stage costs per clip, and how many rows a clip gives.

A run's commits hold the CPU and wall seconds of every stage and the rows it wrote, so any run is
its own measurement. The rates of the demo's run are shipped for a first estimate; a run of a
hundred clips of one's own, with one's own models, gives better ones (``plan --rates FOLDER``).

    python -m s2v.datapipe.planning.rates runs/demo "demo, two cores" > .../planning/rates.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from s2v.datapipe import pipeline
from s2v.datapipe.base import records
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.engine.store import Commit, StageStore
from s2v.datapipe.pair.evidence import UNANSWERED_RULES, VERIFIER_RULES

SHIPPED = "rates.json"


@dataclass(frozen=True)
class Cost:
    """What so many sources cost."""

    ids: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class StageRate:
    """What one stage cost.

    Attributes:
        model: id of the models it held, ``None`` for none.
        ids: how many ids it measured.
        cpu_seconds, wall_seconds: of all of them, without loading models.
        bytes: of the parts it committed.
        of_videos, of_images: the same by kind of source, of stages before clips.
    """

    model: str | None
    ids: int
    cpu_seconds: float
    wall_seconds: float
    bytes: int
    of_videos: Cost = Cost()
    of_images: Cost = Cost()


@dataclass(frozen=True)
class Rates:
    """Rates of one run, and under which conditions they were measured."""

    conditions: str
    source_seconds: float  # of usable videos
    clips: int
    images: int  # of the clips, photographs
    stages: dict[str, StageRate]
    rows: dict[str, int]  # per table, of all clips
    frame_bytes: int  # of the stored frames
    clip_bytes: int  # of the clips that were encoded
    clips_encoded: int
    shard_bytes: int = 0
    samples: dict[str, int] = field(default_factory=dict)
    passed_rules: int = 0  # pairs that a verifier is asked about, each once

    @property
    def clips_per_second(self) -> float:
        """Clips that a second of video gives."""
        return (self.clips - self.images) / self.source_seconds if self.source_seconds else 0.0

    def per_clip(self, table: str) -> float:
        """Rows of ``table`` that a clip gives on average."""
        return self.rows.get(table, 0) / max(self.clips, 1)

    def admitted(self, stage: str) -> float:
        """Share of the clips that gates and quarantine left for the stage; 1 where unknown."""
        rate = self.stages.get(stage)
        return min(1.0, rate.ids / max(self.clips, 1)) if rate and rate.ids else 1.0

    def as_json(self) -> str:
        """One readable document."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def shipped() -> Rates:
    """The rates of the demo's run.

    Raises:
        SettingsError: this installation has none.
    """
    try:
        text = resources.files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            "this installation has no rates of its own: name a finished run with --rates RUN"
        ) from None
    return _from_json(json.loads(text))


def of_run(folder: Path, conditions: str | None = None) -> Rates:
    """Read the rates off a finished run.

    Args:
        folder: the run folder.
        conditions: where it ran, for the reader of a plan.

    Raises:
        SettingsError: the folder holds no finished run, or one that measured nothing.
    """
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        fingerprints, models = run["fingerprints"], run["stage_models"]
        kinds = dict(zip(*_columns(folder, "sources", "video_id", "kind"), strict=True))
        clips = dict(zip(*_columns(folder, "clips", "clip_id", "kind"), strict=True))
        probed = _columns(folder, "probe", "duration_us", "reason")
    except (OSError, ValueError, KeyError) as error:
        raise SettingsError(
            f"{folder}: rates are read off a finished run of this version ({error}); "
            "run it to its end first"
        ) from None
    if not clips:
        raise SettingsError(f"{folder}: the run has no clips, so it says nothing of their cost")
    stages = {}
    for name, fingerprint in fingerprints.items():
        store = StageStore.listed(folder, name, fingerprint)
        # Sources that were in the run once, and are no more, are in no table either.
        commits = [
            c
            for c in store.all_commits()
            if name in pipeline.BY_PAIRS or kinds.keys() & c.ids or clips.keys() & c.ids
        ]
        stages[name] = _rate(store, commits, models.get(name), kinds)
    return Rates(
        conditions=conditions or f"run {folder.name}",
        source_seconds=round(
            sum((us or 0) / 1e6 for us, reason in zip(*probed, strict=True) if reason is None), 3
        ),
        clips=len(clips),
        images=sum(kind == "image" for kind in clips.values()),
        stages=stages,
        rows={name: n for name in sorted(records.TABLES) if (n := _count(folder, name))},
        frame_bytes=sum(_bytes(folder / name, "*.tar") for name in ("frames", "stills")),
        clip_bytes=_bytes(folder / "clips", "**/*.mp4"),
        clips_encoded=len(list((folder / "clips").glob("**/*.mp4"))),
        shard_bytes=_bytes(folder / "shards", "*.tar"),
        samples=dict(sorted(Counter(_columns(folder, "samples", "pair_type")[0]).items())),
        passed_rules=_passed_rules(folder),
    )


def _passed_rules(folder: Path) -> int:
    """Pairs that fail no rule but a verifier's, whichever way round they were found."""
    ends = ("target_subject_id", "reference_subject_id")
    late = {*VERIFIER_RULES, *UNANSWERED_RULES}
    rows = zip(*_columns(folder, "pairs", *ends, "rules"), strict=True)
    return len({frozenset((one, other)) for one, other, rules in rows if late.issuperset(rules)})


def _rate(
    store: StageStore, commits: Collection[Commit], model: str | None, kinds: dict[str, str]
) -> StageRate:
    files = [store.folder / part["file"] for c in commits for part in c.parts.values()]
    by_kind: dict[str, list[Commit]] = {"video": [], "image": []}
    for commit in commits:
        if (kind := kinds.get(next(iter(commit.ids), ""))) is not None:
            by_kind[kind].append(commit)
    whole = _cost(commits)
    return StageRate(
        model=model,
        ids=whole.ids,
        cpu_seconds=whole.cpu_seconds,
        wall_seconds=whole.wall_seconds,
        bytes=sum(path.stat().st_size for path in files if path.exists()),
        of_videos=_cost(by_kind["video"]),
        of_images=_cost(by_kind["image"]),
    )


def _cost(commits: Iterable[Commit]) -> Cost:
    found = list(commits)
    return Cost(
        ids=len({one for c in found for one in c.ids}),
        cpu_seconds=round(sum(c.cpu_seconds for c in found), 3),
        wall_seconds=round(sum(c.wall_seconds for c in found), 3),
    )


def _columns(folder: Path, table: str, *names: str) -> list[list[Any]]:
    read = pq.read_table(folder / "tables" / f"{table}.parquet", columns=list(names))
    return [read[name].to_pylist() for name in names]


def _count(folder: Path, table: str) -> int:
    path = folder / "tables" / f"{table}.parquet"
    return int(pq.read_metadata(path).num_rows) if path.exists() else 0


def _bytes(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _from_json(data: dict[str, Any]) -> Rates:
    stages = {}
    for name, rate in data.pop("stages").items():
        videos, images = Cost(**rate.pop("of_videos")), Cost(**rate.pop("of_images"))
        stages[name] = StageRate(**rate, of_videos=videos, of_images=images)
    return Rates(stages=stages, **data)


def main() -> int:
    """Print the rates of a finished run as the JSON that is shipped."""
    from s2v.datapipe.cli import guarded

    if len(sys.argv) != 3:
        print(f'usage: python -m {__spec__.name} RUN "conditions"', file=sys.stderr)
        return 2

    def show() -> int:
        sys.stdout.write(of_run(Path(sys.argv[1]), sys.argv[2]).as_json())
        return 0

    return guarded("rates", show)


if __name__ == "__main__":
    sys.exit(main())
