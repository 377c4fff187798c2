"""Sampled frames: at 5, 50 and 95 % of the clip (Phantom, supplement 4), stored once.

Most were kept by the scan of stage ``shots``; the film is opened again only for the others. All
later stages read these JPEG files, references are cut from them, and no video is decoded again
for a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from s2v.datapipe.base import ids
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg, load_image
from s2v.datapipe.base.media.phash import perceptual_hashes
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.sampling import (
    FrameSettings,
    FrameTar,
    frame_tar,
    inside,
    made_by,
    moments,
)
from s2v.datapipe.measure.technical import saturation, sharpness
from s2v.datapipe.roles import Image
from s2v.datapipe.staging import local_path

TIMEOUT_S = 120.0


class FrameStage(Stage):
    """Clips to stored frames with their hash, sharpness and saturation."""

    name: ClassVar[str] = "frames"
    version = 5
    reads = ("clips", "stills", "sources")
    writes = ("frames",)

    def __init__(self, settings: FrameSettings) -> None:
        self.settings = settings

    def identity(self) -> Mapping[str, Any]:
        """All settings."""
        return self.settings.model_dump()

    def run(self, unit: Unit) -> dict[str, list[Row]]:
        """Take the scan's stills, decode what they lack, and append that to the unit's tar."""
        sources = {row["video_id"]: row for row in unit.tables["sources"]}
        stills = unit.by_id("stills")
        times = {row["clip_id"]: f"{row['start_us']}-{row['end_us']}" for row in unit.rows("clips")}
        # Which pictures are added follows from those that the scan kept.
        made_of = [
            f"{clip} {times.get(clip, '')} {sorted(row['position'] for row in stills[clip])}"
            for clip in unit.ids
        ]
        reader = FrameReader(unit.run)
        rows: list[Row] = []
        with frame_tar("frames", self, unit, made_of) as tar:
            for clip in unit.rows("clips"):
                with unit.guard(clip["clip_id"], self.name):
                    source = sources[clip["video_id"]]
                    kept = {row["position"]: row for row in stills[clip["clip_id"]]}
                    rows += self._clip(clip, source, kept, tar, reader)
        return {"frames": rows}

    def _clip(
        self, clip: Row, source: Row, kept: dict[float, Row], tar: FrameTar, reader: FrameReader
    ) -> list[Row]:
        """Rows of one clip, each position from its still or else from the film."""
        decoded = {
            position: (pts, jpeg) for position, pts, jpeg in self._decode(clip, source, kept)
        }
        known = {position: row["pts_us"] for position, row in kept.items()}
        known |= {position: pts for position, (pts, _) in decoded.items()}
        rows = []
        for position, pts_us in first_of_each(known):
            frame = ids.frame_id(clip["clip_id"], pts_us)
            if position in decoded:
                jpeg = decoded[position][1]
                where = tar.add(frame, jpeg)
            else:
                where = {name: kept[position][name] for name in ("tar", "offset", "size")}
                jpeg = reader.jpeg({"frame_id": frame, **where})
            still = {} if position in decoded else kept[position]
            rows.append(_row(clip, position, pts_us, jpeg, still) | where)
        return rows

    def _decode(
        self, clip: Row, source: Row, kept: Mapping[float, Row]
    ) -> list[tuple[float, int, bytes]]:
        """``(position, time, JPEG)`` of the positions that no still serves."""
        quality = self.settings.jpeg_quality
        if clip["kind"] == "image":
            jpeg = run_isolated(
                _still_jpeg,
                (local_path(source), self.settings.max_side, quality),
                timeout_s=TIMEOUT_S,
            )
            return [(0.5, 0, jpeg)]
        wanted = moments(clip["start_us"], clip["end_us"], self.settings.positions)
        left = [(position, time) for position, time in wanted if position not in kept]
        if not left:
            return []
        found = run_isolated(
            _clip_jpegs,
            (local_path(source), [time for _, time in left], quality),
            timeout_s=TIMEOUT_S,
        )
        return [(p, pts, jpeg) for (p, _), (pts, jpeg) in zip(left, found, strict=True)]


def _row(clip: Row, position: float, pts_us: int, jpeg: bytes, still: Row) -> Row:
    rgb = load_image(jpeg)
    phash, mirrored = still.get("phash"), still.get("phash_mirror")
    if phash is None:
        # A copy with bars around it is a copy: hashes are of the picture inside them.
        phash, mirrored = perceptual_hashes(inside(rgb, clip.get("content"), rgb.shape[1::-1]))
    return {
        "frame_id": ids.frame_id(clip["clip_id"], pts_us),
        "clip_id": clip["clip_id"],
        "position": position,
        "pts_us": pts_us,
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "phash": phash,
        "phash_mirror": mirrored,
        "blur": sharpness(rgb),
        "saturation": saturation(rgb),
    }


def first_of_each(times_us: Mapping[float, int]) -> list[tuple[float, int]]:
    """Drop positions that show a frame already taken.

    In a slow or stuttering film one frame is on the screen at several positions; taken
    twice it would pass for two views of a subject.

    Args:
        times_us: position -> time of the frame shown there.

    Returns:
        ``(position, time)`` by position: the first of every millisecond, which is what a
        ``frame_id`` tells apart.
    """
    kept: dict[int, tuple[float, int]] = {}
    for position, time in sorted(times_us.items()):
        kept.setdefault(time // 1000, (position, time))
    return list(kept.values())


def _clip_jpegs(path: str, wanted: list[int], quality: int) -> list[tuple[int, bytes]]:
    cv2.setNumThreads(1)
    return [(pts, encode_jpeg(rgb, quality)) for pts, rgb in frames_at(Path(path), wanted)]


def _still_jpeg(path: str, max_side: int, quality: int) -> bytes:
    rgb = load_image(Path(path))
    scale = max_side / max(rgb.shape[:2])
    if scale < 1:
        size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return encode_jpeg(rgb, quality)


def cut_to_crop(rows: Iterable[Row], crops: Mapping[str, Any]) -> list[Row]:
    """Give rows of tables ``frames`` or ``clips`` the crop of their clip, and its size.

    Args:
        rows: rows with ``clip_id``, ``width`` and ``height``.
        crops: ``clip_id`` -> crop of table ``overlays``, or ``None`` for the whole frame.
    """
    cut = []
    for row in rows:
        crop = crops.get(row["clip_id"])
        if crop is not None:
            size = {"width": int(crop[2] - crop[0]), "height": int(crop[3] - crop[1])}
            row = {**row, **size, "crop": list(crop)}  # noqa: PLW2901  a copy, the caller's stays
        cut.append(row)
    return cut


class FrameReader:
    """Reads stored frames of a run by their row of table ``frames``.

    A frame that is gone or damaged is the run folder's fault and never the clip's, so it is a
    :class:`StoreError`, which no guard turns into a quarantine row.
    """

    def __init__(self, run: Path) -> None:
        self.run = run.resolve()

    def jpeg(self, row: Row) -> bytes:
        """The stored JPEG.

        Raises:
            StoreError: the tar is missing, cut short, or outside the run folder.
        """
        frame = row["frame_id"]
        path = (self.run / row["tar"]).resolve()
        if not path.is_relative_to(self.run):
            raise StoreError(f"frame {frame}: {row['tar']!r} is outside {self.run}")
        try:
            with path.open("rb") as handle:
                handle.seek(row["offset"])
                data: bytes = handle.read(int(row["size"]))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise StoreError(f"{path}: frames are missing; {self._advice(row)}") from None
        if len(data) != row["size"]:
            raise StoreError(f"{path}: cut short at frame {frame}; {self._advice(row)}")
        return data

    def image(self, row: Row) -> Image:
        """RGB uint8 ``[H, W, 3]``.

        Raises:
            StoreError: as of :meth:`jpeg`, or what is there is not the row's picture.
        """
        jpeg = self.jpeg(row)
        where = f"{self.run / row['tar']}: frame {row['frame_id']}"
        try:
            image = load_image(jpeg)
        except MediaError as error:
            if error.transient:
                raise
            raise StoreError(f"{where} is damaged ({error.message}); {self._advice(row)}") from None
        crop = row.get("crop")
        if crop is not None:
            x0, y0, x1, y1 = (int(v) for v in crop)
            image = np.ascontiguousarray(image[y0:y1, x0:x1])
        if image.shape[:2] != (row["height"], row["width"]):
            raise StoreError(
                f"{where} is {image.shape[1]}x{image.shape[0]}{' inside its crop' if crop else ''}"
                f", its row says {row['width']}x{row['height']}; {self._advice(row)}"
            )
        return image

    def _advice(self, row: Row) -> str:
        unit = Path(row["tar"]).stem.rpartition("-")[0] or "*"
        stage = made_by(row["tar"])
        return f"delete {self.run / 'measure'}/{stage}-*/{unit}.* to make it again"
