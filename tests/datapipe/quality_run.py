"""Takes made clips through the measuring stages of a run up to their quality, without Ray."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from s2v.datapipe.base import records
from s2v.datapipe.base.atomic import sha256_file
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.frames import FrameStage
from s2v.datapipe.measure.overlay import OverlaySettings, OverlayStage
from s2v.datapipe.measure.probe import ProbeStage
from s2v.datapipe.measure.quality import QualitySettings, QualityStage
from s2v.datapipe.measure.sampling import FrameSettings
from s2v.datapipe.measure.shots import ShotSettings, ShotStage
from s2v.datapipe.roles import Image, TextRegion, TextRegions

TEXT: Final = "text"
"""Name under which the time of finding text is kept, inside that of the stages."""


@dataclass
class Measured:
    """Rows by table."""

    tables: dict[str, list[Row]]

    def arrow(self) -> dict[str, pa.Table]:
        """As the selection wants them; every clip has a caption."""
        tables = {name: records.table(name, rows) for name, rows in self.tables.items()}
        captions = [{"clip_id": row["clip_id"], "caption": ""} for row in self.tables["clips"]]
        return {**tables, "captions": records.table("captions", captions)}


class _Timed:
    """Finds text, and keeps the processor's time that it took."""

    def __init__(self, finder: TextRegions, seconds: Counter[str]) -> None:
        self._finder, self._seconds = finder, seconds
        self.model_id = finder.model_id

    def load(self) -> None:
        self._finder.load()

    def regions(self, image: Image) -> list[TextRegion]:
        began = time.process_time()
        found = self._finder.regions(image)
        self._seconds[TEXT] += time.process_time() - began
        return found


class Line:
    """The stages, their models loaded once.

    Attributes:
        run: folder of the run.
        seconds: processor time by stage, of what runs in this process: ``overlay``, ``quality``
            and, inside both, :data:`TEXT`.
        clips: how many clips went through ``quality``.
    """

    def __init__(self, run: Path) -> None:
        from s2v.datapipe.backends.embedded.small import Safety, TextFinder

        self.seconds: Counter[str] = Counter()
        self.clips = 0
        text = _Timed(TextFinder(), self.seconds)
        self.run = run
        self.first: list[Stage] = [ProbeStage(), ShotStage(ShotSettings(), None, FrameSettings())]
        self.second: list[Stage] = [
            FrameStage(FrameSettings()),
            OverlayStage(OverlaySettings(), text),
            QualityStage(QualitySettings(), text, Safety(), None),
        ]
        for stage in (*self.first, *self.second):
            stage.setup()

    def measure(self, paths: Sequence[Path], last: str = "quality") -> Measured:
        """Measure films; each is a source whose id is its file's name.

        Args:
            paths: of films.
            last: the stage to stop after: ``frames``, ``overlay`` or ``quality``.
        """
        found: dict[str, list[Row]] = {}
        for path in paths:
            for table, rows in self._measure(path, last).items():
                found.setdefault(table, []).extend(rows)
        return Measured(found)

    def _measure(self, path: Path, last: str) -> dict[str, list[Row]]:
        video = path.stem[:48]
        source = {
            "video_id": video,
            "long_video_id": video,
            "kind": "video",
            "path": str(path),
            "sha256": sha256_file(path),
        }
        tables: dict[str, list[Row]] = {"sources": [source]}
        probe = self._run(self.first[0], "video_id", [video], tables)["probe"][0]
        tables["windows"] = [{"video_id": video, "start_us": 0, "end_us": probe["duration_us"]}]
        self._run(self.first[1], "video_id", [video], tables)
        clips = [row["clip_id"] for row in tables["clips"]]
        for stage in self.second:
            began = time.process_time()
            self._run(stage, "clip_id", clips, tables)
            self.seconds[stage.name] += time.process_time() - began
            if stage.name == last:
                break
        self.clips += len(clips) if last == "quality" else 0
        del tables["windows"]
        return {name: [_whole(name, row) for row in rows] for name, rows in tables.items()}

    def _run(
        self, stage: Stage, key: str, wanted: list[str], tables: dict[str, list[Row]]
    ) -> dict[str, list[Row]]:
        unit = Unit("u-" + wanted[0] if wanted else "none", key, sorted(wanted), tables, self.run)
        rows = stage.run(unit)
        if unit.quarantine:
            raise RuntimeError(f"{stage.name}: {unit.quarantine}")
        tables.update(rows)
        return rows


def _whole(table: str, row: Row) -> Row:
    """With every column of the contract, as rows come out of a store."""
    return {name: row.get(name) for name in records.TABLES[table].names}
