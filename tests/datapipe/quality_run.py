"""Takes made clips through the measuring stages of a run up to their quality, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass
class Measured:
    """Rows by table."""

    tables: dict[str, list[Row]]

    def arrow(self) -> dict[str, pa.Table]:
        """As the selection wants them; every clip has a caption."""
        tables = {name: records.table(name, rows) for name, rows in self.tables.items()}
        captions = [{"clip_id": row["clip_id"], "caption": ""} for row in self.tables["clips"]]
        return {**tables, "captions": records.table("captions", captions)}


class Line:
    """The stages, their models loaded once."""

    def __init__(self, run: Path) -> None:
        from s2v.datapipe.backends.embedded.small import Safety, TextFinder

        text = TextFinder()
        self.run = run
        self.first: list[Stage] = [ProbeStage(), ShotStage(ShotSettings())]
        self.second: list[Stage] = [
            FrameStage(FrameSettings()),
            OverlayStage(OverlaySettings(), text),
            QualityStage(QualitySettings(), text, Safety(), None),
        ]
        for stage in (*self.first, *self.second):
            stage.setup()

    def measure(self, paths: Sequence[Path]) -> Measured:
        """Measure films; each is a source whose id is its file's name."""
        found: dict[str, list[Row]] = {}
        for path in paths:
            for table, rows in self._measure(path).items():
                found.setdefault(table, []).extend(rows)
        return Measured(found)

    def _measure(self, path: Path) -> dict[str, list[Row]]:
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
            self._run(stage, "clip_id", clips, tables)
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
