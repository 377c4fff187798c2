"""Runs the shot stage over one file, and checks what it says of the time line."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from s2v.datapipe.base import records
from s2v.datapipe.engine.stage import Row, Unit
from s2v.datapipe.measure.probe import probe_source
from s2v.datapipe.measure.shots import ShotSettings, ShotStage

LOOSE = ShotSettings(min_seconds=0.5, trim_frames=0)
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-pix_fmt", "yuv420p", "-an")


def unit_of(path: Path, windows: list[tuple[int, int]] | None = None, **source: Any) -> Unit:
    probe = {"video_id": "v", **probe_source(str(path), "video")}
    rows: dict[str, list[Row]] = {
        "sources": [{"video_id": "v", "long_video_id": "v", "kind": "video", "path": str(path),
                     "url": None, "sha256": None, "from_us": None, "to_us": None, **source}],
        "probe": [probe],
        "windows": [{"video_id": "v", "start_us": a, "end_us": b}
                    for a, b in windows or [(0, probe["duration_us"])]],
    }  # fmt: skip
    return Unit("u", "video_id", ["v"], rows, Path("/nonexistent"))


def measure(
    path: Path,
    settings: ShotSettings = LOOSE,
    windows: list[tuple[int, int]] | None = None,
    scorer: Any = None,
    **source: Any,
) -> tuple[list[Row], list[Row]]:
    """Clips and spans; what they say of the time line is checked."""
    unit = unit_of(path, windows, **source)
    out = ShotStage(settings, scorer).run(unit)
    assert unit.quarantine == []
    for name, rows in out.items():
        records.table(name, rows)
    spans = out["spans"]
    first, last = unit.tables["windows"][0]["start_us"], unit.tables["windows"][-1]["end_us"]
    assert (spans[0]["start_us"], spans[-1]["end_us"]) == (first, last)
    assert all(a["end_us"] == b["start_us"] for a, b in pairwise(spans))
    assert [s["clip_id"] for s in spans if s["clip_id"]] == [c["clip_id"] for c in out["clips"]]
    return out["clips"], spans
