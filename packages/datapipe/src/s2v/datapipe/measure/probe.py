"""Probe: what a source is, before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.staging import local_path

TIMEOUT_S = 60.0


class ProbeStage(Stage):
    """Container facts of every source; unreadable ones go to quarantine."""

    name: ClassVar[str] = "probe"
    version = 2
    reads = ("sources",)
    writes = ("probe",)

    def identity(self) -> Mapping[str, Any]:
        """Nothing to set."""
        return {}

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """One row per source."""
        rows: list[Row] = []
        for source in unit.rows("sources"):
            with unit.guard(source["video_id"], self.name):
                facts = run_isolated(
                    probe_source, (local_path(source), source["kind"]), timeout_s=TIMEOUT_S
                )
                rows.append({"video_id": source["video_id"], **facts})
        return {"probe": rows}


def probe_source(path: str, kind: str) -> Row:
    """Probe one file; runs in a child process.

    Raises:
        MediaError: with the kind of damage.
    """
    if kind == "image":
        image = load_image(Path(path))
        return {
            "width": image.shape[1],
            "height": image.shape[0],
            "fps": None,
            "duration_us": 0,
            "declared_frames": 1,
            "codec": Path(path).suffix.lstrip(".").lower(),
            "pix_fmt": "rgb24",
            "rotation": 0,
            "has_audio": False,
            "bits_per_pixel": None,
        }
    found = probe(Path(path))
    pixels = (
        found.width
        * found.height
        * max(found.duration_us, 1)
        / 1e6
        * max(float(found.avg_fps), 1e-9)
    )
    return {
        "width": found.width,
        "height": found.height,
        "fps": round(float(found.avg_fps), 6),
        "duration_us": found.duration_us,
        "declared_frames": found.declared_frames,
        "codec": found.codec,
        "pix_fmt": found.pix_fmt,
        "rotation": found.rotation,
        "has_audio": found.has_audio,
        "bits_per_pixel": round(found.bytes * 8 / pixels, 6),
    }
