"""How much there is to do, and how much of it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from s2v.datapipe import pipeline
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.base.progress import track
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.probe import TIMEOUT_S, probe_source
from s2v.datapipe.staging import local_path

MOST_READ = 2000  # of the sources that were probed before
PROBED = 50  # sources whose length is looked up; the rest is taken to be like them


@dataclass(frozen=True)
class Sizes:
    """How much there is."""

    videos: int
    images: int
    seconds: float  # of all videos
    known: int  # videos whose length was looked up or measured before
    unreadable: int  # of those looked up

    @property
    def hours(self) -> float:
        """Hours of video."""
        return self.seconds / 3600


def measure_sizes(
    sources: Sequence[Row], probed: Mapping[str, Row], *, quiet: bool = True
) -> Sizes:
    """Lengths of the videos: measured before, else of a sample spread over the list."""
    videos = [row for row in sources if row["kind"] == "video" and not row["duplicate_of"]]
    lengths = [
        _seconds(row, probed[row["video_id"]]) for row in videos if row["video_id"] in probed
    ]
    rest = [row for row in videos if row["video_id"] not in probed]
    wanted = max(0, PROBED - len(lengths))
    sample = rest[:: max(1, -(-len(rest) // wanted))] if wanted else []
    unreadable = 0
    with track("look up lengths", len(sample), quiet=quiet or not sample) as step:
        for row in sample:
            try:
                found = run_isolated(probe_source, (local_path(row), "video"), timeout_s=TIMEOUT_S)
                lengths.append(_seconds(row, found))
            except MediaError:
                unreadable += 1
                lengths.append(0.0)
            step()
    mean = sum(lengths) / len(lengths) if lengths else 0.0
    return Sizes(
        videos=len(videos),
        images=sum(row["kind"] == "image" and not row["duplicate_of"] for row in sources),
        seconds=mean * len(videos),
        known=len(lengths),
        unreadable=unreadable,
    )


def _seconds(source: Row, probe: Row) -> float:
    """Length of the part of a video that is used."""
    end = min(probe["duration_us"] or 0, source.get("to_us") or probe["duration_us"] or 0)
    return max(0.0, (end - (source.get("from_us") or 0)) / 1e6)


@dataclass(frozen=True)
class Done:
    """What a run folder holds already.

    Attributes:
        measured: ids that each stage measured.
        clips: that shots found.
        images: of those, photographs.
        sources: whose shots were found, and those that gave none: unreadable.
        behind: stage -> clips of the units that it committed, with those that a gate stopped.
        probes: rows of table ``probe`` by source.
    """

    measured: Mapping[str, int] = field(default_factory=dict)
    clips: int = 0
    images: int = 0
    sources: int = 0
    behind: Mapping[str, int] = field(default_factory=dict)
    probes: Mapping[str, Row] = field(default_factory=dict)

    NOTHING: ClassVar[Done]

    def ids(self, stage: str) -> int:
        """How many ids the stage measured."""
        return self.measured.get(stage, 0)

    def decided(self, stage: str) -> int:
        """Of how many clips the stage knows all that it will: measured, or stopped by a gate."""
        return self.behind.get(stage, 0)

    def share_of_videos_left(self, sizes: Sizes) -> float:
        """Share of the videos whose shots are still to be found."""
        if not sizes.videos:
            return 0.0
        return max(0.0, 1 - (self.sources - self.images) / sizes.videos)


Done.NOTHING = Done()


def look_at(folder: Path, runs: Mapping[str, StageRun], sources: Sequence[Row]) -> Done:
    """Read off a run folder's commits what is done with this configuration.

    Args:
        folder: the run folder.
        runs: stages with fingerprints.
        sources: rows of table ``sources``.
    """
    kinds = {row["video_id"]: row["kind"] for row in sources}
    stores = {n: StageStore.listed(folder, n, run.fingerprint) for n, run in runs.items()}
    measured, behind, in_unit = {}, {}, {}
    clips = images = 0
    settled: set[str] = set()  # sources of which no clip is still to come
    for name, store in stores.items():
        by_unit: dict[str, set[str]] = {}
        for commit in store.all_commits():
            by_unit.setdefault(commit.unit, set()).update(commit.ids)
            if name == "shots" and kinds.keys() & commit.ids:
                clips += commit.parts["clips"]["rows"]
            if name == "probe":
                settled |= commit.quarantined & kinds.keys()
        ids = set().union(*by_unit.values())
        if name not in (*pipeline.BY_CLIPS, *pipeline.BY_PAIRS):
            ids &= kinds.keys()
        if name == "shots":
            settled |= ids
            ids = settled
        measured[name] = len(ids)
        if name == pipeline.BY_CLIPS[0]:  # no gate stands in front of it
            in_unit = {unit: len(of_unit) for unit, of_unit in by_unit.items()}
        behind[name] = sum(in_unit.get(unit, 0) for unit in by_unit)
    images = sum(kinds[one] == "image" for one in settled)
    return Done(measured, clips, images, len(settled), behind, _probes(stores["probe"]))


def _probes(store: StageStore) -> dict[str, Row]:
    """Probe rows of enough sources to tell how long they are, spread over all."""
    units = list(store.listing())
    found = units[:: max(1, len(units) // MOST_READ)]
    return {row["video_id"]: row for unit in found for row in store.rows(unit).get("probe", [])}
