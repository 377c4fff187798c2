"""Shots: one sequential pass over a window of a source (paper section 3.1, step 2).

Every frame is decoded once, at a small size. The same pass cuts the shots, by the union of
two detectors, and measures what needs every frame: motion, brightness, freezes, black.

The result accounts for every moment of the window: it lies in a clip, or in a dropped span
with a reason (``trim``, ``too short``, ``damaged frames``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base import ids
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.scan import FrameScan, scan_window
from s2v.datapipe.staging import local_path


class ShotSettings(BaseModel):
    """How shots become clips. Published values: papers' table of thresholds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content_threshold: float = Field(default=27.0, description="PySceneDetect content detector")
    adaptive_threshold: float = Field(default=3.0, description="PySceneDetect adaptive detector")
    trim_frames: int = Field(default=3, ge=0, description="frames dropped at each end (Step-Video)")
    min_seconds: float = Field(
        default=2.0, gt=0, description="shorter shots are dropped (Open-Sora 2.0)"
    )
    max_seconds: float = Field(default=10.0, gt=0, description="longer shots are split (OpenS2V)")
    window_seconds: float = Field(
        default=600.0, gt=0, description="longest stretch decoded as one unit"
    )
    scan_short_side: int = Field(default=144, ge=64, description="pixels of the frames scanned")
    timeout_per_second: float = Field(
        default=20.0, gt=0, description="wall seconds per second of source"
    )


@dataclass(frozen=True)
class Cut:
    """A piece of the time line: half-open, in frame indices of the scan."""

    first: int
    last: int  # exclusive
    reason: str | None


class ShotStage(Stage):
    """Windows of sources to clips and dropped spans."""

    name: ClassVar[str] = "shots"
    version = 1
    reads = ("sources", "probe", "windows")
    writes = ("clips", "spans")

    def __init__(self, settings: ShotSettings) -> None:
        self.settings = settings

    def identity(self) -> Mapping[str, Any]:
        """The settings, less the time limit."""
        return self.settings.model_dump(exclude={"timeout_per_second"})

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Clips and spans of each window; a truncated source gives neither."""
        clips: list[Row] = []
        spans: list[Row] = []
        sources = {row["video_id"]: row for row in unit.rows("sources")}
        probes = {row["video_id"]: row for row in unit.rows("probe")}
        for window in unit.rows("windows"):
            video = window["video_id"]
            source, probe = sources[video], probes[video]
            with unit.guard(video, self.name):
                if source["kind"] == "image":
                    clips.append(_still(source, probe))
                    continue
                found = self._scan(local_path(source), window["start_us"], window["end_us"])
                new_clips, new_spans = self._cut(found, source, probe, window)
                clips += new_clips
                spans += new_spans
        return {"clips": clips, "spans": spans}

    def _scan(self, path: str, start_us: int, end_us: int) -> FrameScan:
        seconds = (end_us - start_us) / 1e6
        found: FrameScan = run_isolated(
            scan_window,
            (path, start_us, end_us, self.settings.model_dump()),
            timeout_s=60 + seconds * self.settings.timeout_per_second,
        )
        if not found.pts_us:
            raise MediaError(MediaErrorKind.TRUNCATED, path, "no frame could be decoded")
        return found

    def _cut(
        self, scan: FrameScan, source: Row, probe: Row, window: Row
    ) -> tuple[list[Row], list[Row]]:
        clips, spans = [], []
        edges = [window["start_us"], *scan.pts_us[1:], window["end_us"]]
        for cut in cut_shots(scan.cuts, len(scan.pts_us), probe["fps"], self.settings):
            start, end = edges[cut.first], edges[cut.last]
            clip = None
            reason = cut.reason
            if reason is None and any(a < end and b > start for a, b in scan.damaged):
                reason = "damaged frames"
            if reason is None:
                clip = ids.clip_id(source["video_id"], start, end)
                clips.append(
                    {
                        "clip_id": clip,
                        "video_id": source["video_id"],
                        "long_video_id": source["long_video_id"],
                        "kind": "video",
                        "start_us": start,
                        "end_us": end,
                        "frames": cut.last - cut.first,
                        "fps": probe["fps"],
                        "width": probe["width"],
                        "height": probe["height"],
                        **scan.summary(cut.first, cut.last),
                    }
                )
            spans.append(
                {
                    "video_id": source["video_id"],
                    "start_us": start,
                    "end_us": end,
                    "clip_id": clip,
                    "reason": reason,
                }
            )
        return clips, spans


def cut_shots(cuts: list[int], frames: int, fps: float, settings: ShotSettings) -> list[Cut]:
    """Turn cut positions into clips and dropped spans that tile ``range(frames)``.

    A shot loses ``trim_frames`` at each end, is dropped when the rest is shorter than
    ``min_seconds``, and split evenly when it is longer than ``max_seconds``.
    """
    edges = [0, *sorted({c for c in cuts if 0 < c < frames}), frames]
    shortest = settings.min_seconds * fps
    longest = max(1, int(settings.max_seconds * fps))
    out: list[Cut] = []
    for first, last in itertools.pairwise(edges):
        inner, outer = first + settings.trim_frames, last - settings.trim_frames
        if outer - inner < shortest:
            out.append(Cut(first, last, "too short"))
            continue
        if inner > first:
            out.append(Cut(first, inner, "trim"))
        pieces = -(-(outer - inner) // longest)
        bounds = [inner + (outer - inner) * i // pieces for i in range(pieces + 1)]
        out += [Cut(a, b, None) for a, b in itertools.pairwise(bounds)]
        if last > outer:
            out.append(Cut(outer, last, "trim"))
    return out


def _still(source: Row, probe: Row) -> Row:
    return {
        "clip_id": ids.clip_id(source["video_id"], 0, 0),
        "video_id": source["video_id"],
        "long_video_id": source["long_video_id"],
        "kind": "image",
        "start_us": 0,
        "end_us": 0,
        "frames": 1,
        "width": probe["width"],
        "height": probe["height"],
    }
