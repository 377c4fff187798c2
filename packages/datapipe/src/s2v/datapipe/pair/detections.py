"""What each box and each mask fails (Phantom, 3.1, 6; Phantom-Data; OpenS2V; MAGREF).

Rules on one box come first, then overlaps between boxes that passed, then the same for masks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from s2v.datapipe.base.media import boxes
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.pair import overlaps
from s2v.datapipe.pair.rows import Row, Tables, by, group, read
from s2v.datapipe.pair.settings import SelectSettings


class Detections:
    """All boxes with their masks, checks and faces, and the first rule that each fails.

    Args:
        tables: the measure tables, or those of some clips.
        clips: rows of table CLIPS by id.
        banks: of subjects.
        settings: thresholds.
        checked: a second model was asked about boxes at all, of whatever clip.

    Attributes:
        masks: rows of table ``masks`` by detection.
        several: frames on which a phrase maps to several regions, per subject.

    Raises:
        ValueError: a detection refers to a clip or frame that the tables lack.
    """

    def __init__(
        self,
        tables: Tables,
        clips: Mapping[str, Row],
        banks: Mapping[str, str],
        settings: SelectSettings,
        *,
        checked: bool,
    ) -> None:
        self.settings = settings
        self._checked = checked
        self._clips = clips
        self._banks = banks
        rows = read(tables, "detections")
        self._of = group(rows, "subject_id")
        self._on_frame = group(rows, "frame_id")
        self._frames = {row["frame_id"] for row in read(tables, "frames")}
        self._faces = group(read(tables, "faces"), "frame_id")
        self._checks = by(read(tables, "checks"), "detection_id")
        self.masks = by(read(tables, "masks"), "detection_id")
        self.several = self._several_boxes()
        self._box_faults = {row["detection_id"]: next(self._box_rules(row), None) for row in rows}
        self._overlapped = self._suppress()
        self._mask_faults = {row["detection_id"]: next(self._mask_rules(row), None) for row in rows}
        self._covered = self._suppress_masks()

    def of(self, subject: str) -> list[Row]:
        """A subject's detections."""
        return list(self._of.get(subject, []))

    def box_fault(self, detection: str) -> str | None:
        """The first rule that a box fails."""
        lost = "overlaps another" if detection in self._overlapped else None
        return self._box_faults[detection] or lost

    def mask_fault(self, detection: str) -> str | None:
        """The first rule that its mask fails."""
        lost = "overlaps another" if detection in self._covered else None
        return self._mask_faults[detection] or lost

    def _several_boxes(self) -> dict[str, set[str]]:
        """Frames on which a phrase maps to several regions, per subject."""
        found: dict[str, set[str]] = defaultdict(set)
        rules = self.settings.detection
        limit = rules.max_overlap
        for subject, rows in self._of.items():
            sure = [r for r in rows if (r["score"] or 0) >= rules.min_score]
            for frame, on_frame in group(sure, "frame_id").items():
                regions: list[Row] = []
                for row in sorted(on_frame, key=lambda r: (-r["score"], r["detection_id"])):
                    if all(boxes.iou(row["box"], other["box"]) <= limit for other in regions):
                        regions.append(row)
                if len(regions) > 1:
                    found[subject].add(frame)
        return dict(found)

    def _box_rules(self, row: Row) -> Iterator[str]:
        rules, clip = self.settings.detection, self._clip(row)
        if row["frame_id"] not in self._frames:
            raise ValueError(
                f"detection {row['detection_id']!r} is on frame {row['frame_id']!r}, which "
                "table 'frames' lacks; the measure parts belong to different inputs"
            )
        several = self.settings.phrase.several_boxes
        if row["reason"] and not (several == "best" and row["reason"] == SEVERAL_BOXES):
            yield str(row["reason"])
        if row["frame_id"] in self.several.get(row["subject_id"], ()):
            if several == "drop_frame":
                yield "several on the frame"
            if several == "best" and self._surer_on_frame(row):
                yield "a surer one on the frame"
        if row["score"] is None or row["score"] < rules.min_score:
            yield "low score"
        if row["area_share"] < rules.min_area_share:
            yield "too small a share"
        if row["area_share"] > rules.max_area_share:
            yield "too large a share"
        box = row["box"]
        scale = source_scale(box, row["area_share"], clip["width"], clip["height"])
        if min(box[2] - box[0], box[3] - box[1]) * scale < rules.min_side:
            yield "too few pixels"
        yield from self._check_rules(row)

    def _surer_on_frame(self, row: Row) -> bool:
        """Whether the row's phrase has a better box on the same frame."""
        return any(
            (-other["score"], other["detection_id"]) < (-row["score"], row["detection_id"])
            for other in self._of[row["subject_id"]]
            if other["frame_id"] == row["frame_id"]
        )

    def _check_rules(self, row: Row) -> Iterator[str]:
        """Verdicts of the second model (PD). Where none was asked at all there is no rule."""
        rules, said = self.settings.detection, self._checks.get(row["detection_id"])
        for verdict, needed, failed in (
            ("complete", rules.require_complete, "not complete"),
            ("specific", rules.require_specific, "not specific"),
            ("matches", rules.require_matches, "not what the phrase says"),
        ):
            if not needed or not self._checked:
                continue
            if said is None or said[verdict] is None:
                yield f"not measured: {verdict}"
            elif not said[verdict]:
                yield failed

    def _suppress(self) -> set[str]:
        """Boxes that a surer box of another subject on the same frame covers."""
        lost: set[str] = set()
        for rows in self._on_frame.values():
            good = [row for row in rows if self._box_faults[row["detection_id"]] is None]
            kept: list[Row] = []
            for row in sorted(good, key=lambda r: (-r["score"], r["detection_id"])):
                if any(
                    boxes.iou(row["box"], other["box"]) > self.settings.detection.max_overlap
                    for other in kept
                ):
                    lost.add(row["detection_id"])
                else:
                    kept.append(row)
        return lost

    def _suppress_masks(self) -> set[str]:
        """Masks that a larger one of another subject on the same frame covers."""
        lost: set[str] = set()
        for rows in self._on_frame.values():
            good = [
                (row, self.masks[key])
                for row in rows
                if (key := row["detection_id"]) not in self._overlapped
                and self._box_faults[key] is None
                and self._mask_faults[key] is None
            ]
            lost |= overlaps.duplicates(good, self.settings.mask.max_overlap)
        return lost

    def _mask_rules(self, row: Row) -> Iterator[str]:
        rules, mask = self.settings.mask, self.masks.get(row["detection_id"])
        if mask is None:
            yield "not measured"
            return
        if mask["reason"]:
            yield str(mask["reason"])
        if mask["area_share"] is None or mask["box_fill"] is None:
            yield "not measured"
            return
        if mask["area_share"] < rules.min_area_share:
            yield "too small a share"
        if mask["box_fill"] < rules.min_box_fill:
            yield "fills too little of its box"
        if mask["box_fill"] > rules.max_box_fill:
            yield "is the whole box"
        if mask["touches_border"] and not rules.allow_border:
            yield "touches the border"
        if rules.min_score is not None:
            if mask["score"] is None:
                yield "not measured: score"
            elif mask["score"] < rules.min_score:
                yield "low score"
        if self._banks.get(row["subject_id"]) == "thing" and self._is_face(row, mask):
            yield "is a face"

    def _is_face(self, row: Row, mask: Row) -> bool:
        """Whether a thing's mask is a face's (M); a creature has a face of its own."""
        faces = [
            face["box"]
            for face in self._faces.get(row["frame_id"], [])
            if face["score"] >= self.settings.face.min_score
            and boxes.iou(face["box"], row["box"]) > 0
        ]
        if not faces:
            return False
        pixels = overlaps.decode(mask)
        limit = self.settings.mask.max_face_overlap
        return any(overlaps.face_iou(pixels, face) > limit for face in faces)

    def _clip(self, row: Row) -> Row:
        try:
            return self._clips[row["clip_id"]]
        except KeyError:
            raise ValueError(
                f"detection {row['detection_id']!r} is of clip {row['clip_id']!r}, which table "
                "'clips' lacks; the measure parts belong to different inputs"
            ) from None


def source_scale(box: boxes.Box, area_share: float, width: int, height: int) -> float:
    """Factor from the box's pixels to those of a ``width`` x ``height`` source.

    Frames may be stored smaller than their source; the box's own share of its frame tells
    how large the frame was that it was measured on.
    """
    if area_share <= 0 or boxes.area(box) <= 0:
        return 1.0
    scale = math.sqrt(width * height * area_share / boxes.area(box))
    return 1.0 if abs(scale - 1) < 0.02 else scale
