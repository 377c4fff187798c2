"""The known world, selected and written as shards with the product's own writer."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from synthetic_tables import World

from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import (
    DetectionRules,
    SampleRules,
    SelectSettings,
    ShardCounts,
    SplitSettings,
)
from s2v.datapipe.write.settings import WriteSettings
from s2v.datapipe.write.write import Written, write_shards

SETTINGS = SelectSettings(
    detection=DetectionRules(min_side=64),  # the pictures are small
    sample=SampleRules(image_samples=True),
    split=SplitSettings(heldout_share=0.3),
    shards=ShardCounts(in_=4, cross=2, image=1),
)
WRITE = WriteSettings(title="A test")


@dataclasses.dataclass
class WritableRun:
    """A world whose frames lie in a folder, and a clip file for each clip."""

    folder: Path
    world: World
    files: dict[str, Path]

    def write(self, out: Path, shuffle: int | None = None, **changes: Any) -> Written:
        tables = self.world.tables(shuffle)
        settings = SETTINGS.model_copy(update=changes.get("settings", {}))
        selection = select(tables, settings, changes.get("exclusions", ()))
        return write_shards(self.folder, tables, selection, WRITE, self.files, out)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
