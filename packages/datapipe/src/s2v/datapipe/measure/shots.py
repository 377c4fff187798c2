"""Shots: one sequential pass over a window of a source (paper section 3.1, step 2).

Every frame is decoded once, at a small size. The same pass cuts the shots, by the union of
PySceneDetect's two detectors and, where the role ``shots`` is filled, a network; finds gradual
transitions; and measures what needs every frame: motion, brightness, freezes, black, borders.

The result accounts for every moment of the window: it lies in a clip, or in a dropped span
with a reason (``trim``, ``too short``, ``gradual transition``, ``damaged frames``,
``missing frames``).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base import ids
from s2v.datapipe.base.media.container import TIME_SLACK_US
from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.phash import perceptual_hashes
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.sampling import FrameSettings, frame_tar, inside, moments, taken
from s2v.datapipe.measure.scan import FrameScan, scan_window
from s2v.datapipe.measure.timeline import SAME_CUT, Bound, Lengths, Piece, cut_shots, unite
from s2v.datapipe.roles import ShotScorer
from s2v.datapipe.staging import local_path

NETWORK_THRESHOLD: Final = 0.5
"""Probability of a transition; backends calibrate their scores to it."""

NO_FRAMES: Final = "no frame begins here"

MISSING: Final = "missing frames"
DAMAGED: Final = "damaged frames"

LONGEST_CUT: Final = 2
"""Frames in a row over the threshold that still mean a hard cut."""


class ShotSettings(BaseModel):
    """How shots become clips. Published values: papers' table of thresholds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    content_threshold: float = Field(default=27.0, description="PySceneDetect content detector")
    adaptive_threshold: float = Field(default=3.0, description="PySceneDetect adaptive detector")
    gradual: bool = Field(default=True, description="cut out fades and dissolves")
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

    @property
    def lengths(self) -> Lengths:
        """As the time line wants them."""
        return Lengths.of(self.trim_frames, self.min_seconds, self.max_seconds)


class ShotStage(Stage):
    """Windows of sources to clips and dropped spans."""

    name: ClassVar[str] = "shots"
    version = 5
    reads = ("sources", "probe", "windows")
    writes = ("clips", "spans", "stills")

    def __init__(
        self,
        settings: ShotSettings,
        scorer: ShotScorer | None = None,
        sampling: FrameSettings | None = None,
    ) -> None:
        self.settings = settings
        self.scorer = scorer
        self.sampling = sampling

    def identity(self) -> Mapping[str, Any]:
        """The settings, less the time limit, the network, and which stills are kept."""
        network = None if self.scorer is None else self.scorer.model_id
        kept = None if self.sampling is None else self.sampling.model_dump(exclude={"max_side"})
        own = self.settings.model_dump(exclude={"timeout_per_second"})
        return {**own, "network": network, "stills": kept}

    def setup(self) -> None:
        """Load the network, if there is one."""
        if self.scorer is not None:
            self.scorer.load()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Clips, spans and stills of each window; a truncated source gives none."""
        clips: list[Row] = []
        spans: list[Row] = []
        sources = {row["video_id"]: row for row in unit.rows("sources")}
        probes = {row["video_id"]: row for row in unit.rows("probe")}
        kept: list[tuple[Row, FrameScan]] = []
        for window in unit.rows("windows"):
            video = window["video_id"]
            source, probe = sources[video], probes[video]
            with unit.guard(video, self.name):
                if source["kind"] == "image":
                    clips.append(_still(source, probe))
                    continue
                found = self._scan(source, window)
                new_clips, new_spans = self._cut(found, source, probe, window)
                clips += new_clips
                spans += new_spans
                kept += [(clip, found) for clip in new_clips]
        return {"clips": clips, "spans": spans, "stills": self._store(unit, kept)}

    def _store(self, unit: Unit, kept: list[tuple[Row, FrameScan]]) -> list[Row]:
        """Write the stills of clips; only those that serve a sampled position of a clip."""
        if self.sampling is None or not kept:
            return []
        made_of = [clip["clip_id"] for clip, _ in kept]
        rows = []
        with frame_tar("stills", self, unit, made_of) as tar:
            for clip, scan in kept:
                span = (clip["start_us"], clip["end_us"])
                served = taken(sorted(scan.stills), *span, self.sampling.positions)
                where = {
                    pts_us: tar.add(ids.frame_id(clip["clip_id"], pts_us), scan.stills[pts_us])
                    for pts_us in sorted(set(served.values()))
                }
                for position, wanted in moments(*span, self.sampling.positions):
                    if position in served:
                        pts_us = served[position]
                        own = {name: clip[name] for name in ("video_id", "clip_id")}
                        seen = {"position": position, "pts_us": pts_us}
                        rows.append({**own, **seen, **where[pts_us], **_hashes(scan, clip, wanted)})
        return rows

    def _scan(self, source: Row, window: Row) -> FrameScan:
        path, start, end = local_path(source), window["start_us"], window["end_us"]
        size = None if self.scorer is None else self.scorer.frame_size
        limits = (source.get("from_us") or 0, source.get("to_us"))
        sampling = None if self.sampling is None else self.sampling.model_dump()
        seconds = (end - start) / 1e6
        found: FrameScan = run_isolated(
            scan_window,
            (path, start, end, self.settings.model_dump(), size, limits, sampling),
            timeout_s=60 + seconds * self.settings.timeout_per_second,
        )
        if not found.pts_us:
            raise MediaError(MediaErrorKind.TRUNCATED, path, "no frame could be decoded")
        return found

    def _cut(
        self, scan: FrameScan, source: Row, probe: Row, window: Row
    ) -> tuple[list[Row], list[Row]]:
        clips, spans = [], []
        offset = scan.first
        inside = scan.pts_us[scan.first : scan.last]
        if not inside:  # of a film that shows one frame for minutes
            return [], [_span(source, (window["start_us"], window["end_us"]), None, NO_FRAMES)]
        begin = _first_picture(scan, window["start_us"])
        if begin > window["start_us"]:
            spans.append(_span(source, (window["start_us"], begin), None, MISSING))
        edges = [begin, *inside[1:], window["end_us"]]
        cuts = scan.cuts
        gradual = [(span.first, span.last) for span in scan.gradual]
        if self.scorer is not None and scan.small is not None:
            seen_cuts, seen_gradual = boundaries(self.scorer.score(scan.small))
            cuts = unite(cuts, not_flashes(seen_cuts, scan.refused))
            gradual = gradual + seen_gradual
        pieces = cut_shots(
            edges,
            [cut - offset for cut in cuts],
            [(first - offset, last - offset) for first, last in gradual],
            self.settings.lengths,
            _ends(source, probe, window),
        )
        marks = scan.marks.pixels(probe["width"], probe["height"])
        for piece in pieces:
            start, end = edges[piece.first], edges[piece.last]
            clip = None
            # A loss often looks like a cut: the hole is then in what is trimmed, and says so.
            reason = _harm(scan, start, end) or piece.reason
            if reason is None:
                clip = ids.clip_id(source["video_id"], start, end)
                measured = scan.summary(piece.first + offset, piece.last + offset)
                clips.append(_clip(clip, (start, end), piece, source, probe) | measured)
                clips[-1]["content"] = _content(scan, piece, probe)
                clips[-1]["marks"] = marks
            spans.append(_span(source, (start, end), clip, reason))
        return clips, spans


def _hashes(scan: FrameScan, clip: Row, time_us: int) -> Row:
    """Hashes of the picture on the screen at ``time_us``, inside black borders.

    Of the very moment: the still lies up to a few frames off, elsewhere in every copy of a film,
    and what moves fast would then hide that it is a copy.
    """
    if scan.tiny is None:
        return {}
    place = bisect_right(scan.pts_us, time_us + TIME_SLACK_US) - 1
    size = (clip["width"], clip["height"])
    picture = inside(scan.tiny[max(place, 0)], clip["content"], size)
    phash, mirrored = perceptual_hashes(picture)
    return {"phash": phash, "phash_mirror": mirrored}


def _first_picture(scan: FrameScan, start_us: int) -> int:
    """Where the window's pictures begin: its start, or the end of a hole that lies there."""
    return max((end for start, end in scan.missing if start <= start_us < end), default=start_us)


def _harm(scan: FrameScan, start_us: int, end_us: int) -> str | None:
    """Why a span cannot be a clip, or None: no clip lies over damaged or missing pictures."""
    for reason, spans in ((MISSING, scan.missing), (DAMAGED, scan.damaged)):
        if any(start < end_us and end > start_us for start, end in spans):
            return reason
    return None


def boundaries(scores: npt.NDArray[np.float32]) -> tuple[list[int], list[tuple[int, int]]]:
    """Cuts and gradual spans from a network's scores.

    Args:
        scores: ``[T]``, probability that a frame is the last of its shot, or part of a
            gradual transition.

    Returns:
        First frames of new shots, and spans ``[first, last)`` of gradual transitions.
    """
    over = np.concatenate([[0], (scores > NETWORK_THRESHOLD).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(over))
    cuts, gradual = [], []
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if last - first <= LONGEST_CUT:
            cuts.append(first + int(np.argmax(scores[first:last])) + 1)
        else:
            gradual.append((first, last))
    return cuts, gradual


def not_flashes(cuts: list[int], refused: Mapping[int, str]) -> list[int]:
    """A network's cuts, less those at a flash: networks are misled by them (docs/shots.md)."""
    flashes = [index for index, why in refused.items() if why == "flash"]
    return [cut for cut in cuts if all(abs(cut - flash) > SAME_CUT for flash in flashes)]


def _ends(source: Row, probe: Row, window: Row) -> tuple[Bound, Bound]:
    """Whether the window begins and ends where the used part of the source does."""
    begin = source.get("from_us") or 0
    end = probe["duration_us"]
    if source.get("to_us") is not None:
        end = min(end, source["to_us"])
    return (
        "source" if window["start_us"] <= begin else "window",
        "source" if window["end_us"] >= end else "window",
    )


def _content(scan: FrameScan, piece: Piece, probe: Row) -> list[float] | None:
    """The picture inside black borders, whole displayed pixels, rounded inwards."""
    shares = scan.borders.content(piece.first + scan.first, piece.last + scan.first)
    if shares is None:
        return None
    width, height = probe["width"], probe["height"]
    return [
        float(math.ceil(shares[0] * width)),
        float(math.ceil(shares[1] * height)),
        float(math.floor(shares[2] * width)),
        float(math.floor(shares[3] * height)),
    ]


def _span(source: Row, times: tuple[int, int], clip: str | None, reason: str | None) -> Row:
    return {
        "video_id": source["video_id"],
        "start_us": times[0],
        "end_us": times[1],
        "clip_id": clip,
        "reason": reason,
    }


def _clip(clip: str, span: tuple[int, int], piece: Piece, source: Row, probe: Row) -> Row:
    return {
        "clip_id": clip,
        "video_id": source["video_id"],
        "long_video_id": source["long_video_id"],
        "kind": "video",
        "start_us": span[0],
        "end_us": span[1],
        "frames": piece.last - piece.first,
        "fps": probe["fps"],
        "width": probe["width"],
        "height": probe["height"],
        "starts_with": piece.starts_with,
        "ends_with": piece.ends_with,
    }


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
