"""Small real stages for the engine's tests: they count what they measure in a side file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.engine.stage import Row, Stage, Unit


class LengthStage(Stage):
    """Measures the length of a clip's id; can fail on named clips in several ways."""

    name: ClassVar[str] = "length"
    reads = ("clips",)
    writes = ("quality",)

    def __init__(
        self, poisoned: tuple[str, ...] = (), fatal: str = "", longest: int | None = None
    ) -> None:
        self.poisoned = poisoned
        self.fatal = fatal
        self.longest = longest

    def identity(self) -> Mapping[str, Any]:
        return {}

    def gate(self, row: Row) -> str | None:
        stopped = self.longest is not None and row["frames"] > self.longest
        return "not measured: gate length" if stopped else None

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        rows = []
        for clip in unit.rows("clips"):
            with unit.guard(clip["clip_id"], self.name):
                with Path(unit.run, "calls.txt").open("a") as calls:
                    calls.write(f"{clip['clip_id']}\n")
                if clip["clip_id"] == self.fatal:
                    os.kill(os.getpid(), 9)
                if clip["clip_id"] in self.poisoned:
                    raise MediaError("corrupt", clip["clip_id"], "poisoned")
                rows.append({"clip_id": clip["clip_id"], "nsfw": len(clip["clip_id"]) / 100})
        return {"quality": rows}


def clip(name: str, frames: int = 10) -> Row:
    return {"clip_id": name, "video_id": "v", "kind": "video", "frames": frames}


def item(unit: str, clips: list[Row]) -> dict[str, Any]:
    return {
        "unit": unit,
        "key": "clip_id",
        "ids": [c["clip_id"] for c in clips],
        "tables": {"clips": clips},
    }


class KillsOnStage(LengthStage):
    """Takes its whole actor down at one clip, every time."""

    name: ClassVar[str] = "kills"
    writes = ("quality",)


class DiesOnceStage(LengthStage):
    """Takes its whole actor down on the first unit it ever sees, as an out-of-memory would."""

    name: ClassVar[str] = "dies"

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        mark = Path(unit.run, "died")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), 9)
        return super().run(unit)


class FaultyStage(LengthStage):
    """Raises the given faults inside a row's guard, one per attempt, and then measures."""

    def __init__(self, faults: list[BaseException]) -> None:
        super().__init__()
        self.faults = list(faults)

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        if self.faults:
            for clip_id in unit.ids:
                with unit.guard(clip_id, self.name):
                    raise self.faults.pop(0)
        return super().run(unit)


class AfterStage(Stage):
    """Reads the rows of the length stage and says so in a caption."""

    name: ClassVar[str] = "after"
    reads = ("clips", "quality")
    writes = ("captions",)

    def identity(self) -> Mapping[str, Any]:
        return {}

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        return {
            "captions": [
                {"clip_id": row["clip_id"], "caption": f"length {row['nsfw']}"}
                for row in unit.rows("quality")
            ]
        }


class DiesWhenLoadedStage(LengthStage):
    """Takes its process down while its model is loaded, as one that is too large would."""

    def setup(self) -> None:
        with Path(self.run_folder, "loads.txt").open("a") as loads:
            loads.write("load\n")
        os.kill(os.getpid(), 9)

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run_folder = str(run)
