"""The members of one sample: clip, caption, JSON, and per reference a crop and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.base import shards
from s2v.datapipe.base.media import boxes, masks
from s2v.datapipe.base.media.images import encode_jpeg, encode_png_mask
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.pair.detections import source_scale
from s2v.datapipe.pair.rows import Row, by, group, read
from s2v.datapipe.write.errors import WriteError
from s2v.datapipe.write.frames import FrameStore
from s2v.datapipe.write.settings import WriteSettings
from s2v.datapipe.write.verdicts import said_of, verdicts_on


@dataclass(frozen=True)
class BuiltSample:
    """A sample ready to be written.

    Attributes:
        meta: what ``<id>.json`` says.
        members: bytes by suffix, in the order they are written.
    """

    meta: shards.SampleMeta
    members: dict[str, bytes]


class SampleBuilder:
    """Builds samples from a run's tables, its stored frames and its cut clips."""

    def __init__(
        self,
        run: Path,
        tables: Mapping[str, pa.Table],
        clip_files: Mapping[str, Path],
        settings: WriteSettings,
    ) -> None:
        """Join what the samples need.

        Args:
            run: the run folder; ``frames.tar`` paths are relative to it.
            tables: the measure tables and ``subjects``.
            clip_files: the cut mp4 of each clip.
            settings: margins and qualities.
        """
        self.settings = settings
        self.clip_files = clip_files
        self.frame_store = FrameStore(run)
        self.sources = by(read(tables, "sources"), "video_id")
        self.clips = by(read(tables, "clips"), "clip_id")
        self.frames = by(read(tables, "frames"), "frame_id")
        self.frames_of = group(read(tables, "frames"), "clip_id")
        self.quality = by(read(tables, "quality"), "clip_id")
        self.detections = by(read(tables, "detections"), "detection_id")
        self.masks = by(read(tables, "masks"), "detection_id")
        self.subjects = by(read(tables, "subjects"), "subject_id")
        self.verdicts = said_of(read(tables, "verdicts"))

    def build(self, sample: Row) -> BuiltSample:
        """Build one row of table ``samples``.

        Raises:
            WriteError: the clip or a frame is missing or not what its row says.
        """
        clip = self.clips[sample["clip_id"]]
        path = self.clip_files[sample["clip_id"]]
        references: list[shards.Reference] = []
        images: dict[str, bytes] = {}
        for n, ref in enumerate(sample["references"]):
            reference, jpeg, mask = self._reference(ref, sample["pair_type"])
            references.append(reference)
            images |= {f"ref{n}.jpg": jpeg, f"ref{n}.mask.png": mask}
        meta = shards.SampleMeta(
            schema_=shards.SCHEMA_VERSION,
            pair_type=sample["pair_type"],
            split=sample["split"],
            heldout=sample["heldout"],
            scenario=sample["scenario"],
            caption=sample["caption"],
            source=self._source(clip),
            video=_video(path),
            refs=tuple(references),
            scores=self._scores(clip),
        )
        members = {
            "mp4": path.read_bytes(),
            "txt": sample["caption"].encode(),
            "json": meta.to_json(),
            **images,
        }
        return BuiltSample(meta, members)

    def _reference(self, ref: Row, pair_type: str) -> tuple[shards.Reference, bytes, bytes]:
        detection = self.detections[ref["detection_id"]]
        frame = self.frames[detection["frame_id"]]
        image = self.frame_store.image(frame)
        scale = source_scale(
            detection["box"], detection["area_share"], frame["width"], frame["height"]
        )
        box = [value * scale for value in detection["box"]]
        crop, (x0, y0, _, _) = boxes.crop(image, box, self.settings.crop_margin)
        mask = self._mask(detection, frame)
        mask_crop, _ = boxes.crop(mask, box, self.settings.crop_margin)
        height, width = crop.shape[:2]
        inside = boxes.clip([box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0], width, height)
        reference = self._reference_meta(ref, pair_type, tuple(round(v, 2) for v in inside))
        jpeg = encode_jpeg(crop, self.settings.jpeg_quality)
        return reference, jpeg, encode_png_mask(mask_crop)

    def _mask(self, detection: Row, frame: Row) -> npt.NDArray[np.bool_]:
        row = self.masks[detection["detection_id"]]
        size = (row["rle_height"], row["rle_width"])
        mask: npt.NDArray[np.bool_] = masks.decode({"size": list(size), "counts": row["rle"]})
        if size != (frame["height"], frame["width"]):
            resized = cv2.resize(
                mask.astype(np.uint8),
                (frame["width"], frame["height"]),
                interpolation=cv2.INTER_NEAREST,
            )
            mask = np.asarray(resized, np.bool_)
        return mask

    def _reference_meta(self, ref: Row, pair_type: str, box: tuple[float, ...]) -> shards.Reference:
        subject = self.subjects[ref["subject_id"]]
        shown = self.subjects[ref["reference_subject_id"]]
        detection = self.detections[ref["detection_id"]]
        source = self.sources[shown["video_id"]]
        verdicts = shards.Verdicts()
        if pair_type != "in":
            verdicts = verdicts_on(self.verdicts, subject["detection_id"], shown["detection_id"])
        return shards.Reference(
            subject_id=ref["subject_id"],
            identity_id=subject["identity_id"],
            phrase=subject["phrase"],
            span=(subject["phrase_start"], subject["phrase_end"]),
            class_=subject["bank"],
            noun=subject["noun"],
            box=(box[0], box[1], box[2], box[3]),
            from_=shards.ReferenceSource(
                clip_id=shown["clip_id"],
                pts_us=detection["pts_us"],
                source=shown["video_id"],
                licence=source["licence"],
            ),
            scores=shards.ReferenceScores(
                similarity=ref["similarity"],
                face_similarity=ref["face_similarity"],
                background_similarity=ref["background_similarity"],
                detector=detection["score"],
                area_share=detection["area_share"],
                blur=self.frames[detection["frame_id"]]["blur"],
                distance_us=ref["distance_us"],
            ),
            verdicts=verdicts,
            category=subject["class"],
        )

    def _source(self, clip: Row) -> shards.Source:
        source = self.sources[clip["video_id"]]
        return shards.Source(
            **{k: clip[k] for k in ("video_id", "long_video_id", "clip_id", "start_us", "end_us")},
            **{k: source[k] for k in ("licence", "url", "credit", "offset_us")},
            **{k: source[k] for k in ("consent", "minors", "face_policy")},
        )

    def _scores(self, clip: Row) -> shards.SampleScores:
        quality: dict[str, Any] = self.quality.get(clip["clip_id"], {})
        blur = [f["blur"] for f in self.frames_of[clip["clip_id"]] if f["blur"] is not None]
        return shards.SampleScores(
            motion=clip["motion"],
            luma=clip["luma"],
            blur=round(fmean(blur), 3) if blur else None,
            **{name: quality.get(name) for name in ("text_share", "nsfw", "aesthetic")},
        )


def _video(path: Path) -> shards.Video:
    facts = probe(path)
    if facts.declared_frames is None:
        raise WriteError(f"{path}: does not say how many frames it has; delete it to cut it again")
    return shards.Video(
        frames=facts.declared_frames,
        fps=round(float(facts.avg_fps), 6),
        height=facts.height,
        width=facts.width,
    )
