"""The view SUBJECTS: one row per phrase, by its best detection, with the reason it is dropped.

Phantom, section 3.1, 5-6: each phrase of the caption is grounded to one region of the
sampled frames. The first rule failed, in the order clip, phrase, box, mask, embedding, is
the reason. Of a phrase's detections the one that got farthest decides.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from s2v.datapipe.base import records
from s2v.datapipe.base.media import boxes
from s2v.datapipe.base.reasons import SEVERAL_BOXES
from s2v.datapipe.pair import overlaps
from s2v.datapipe.pair.exclusions import ExclusionIndex
from s2v.datapipe.pair.rows import Row, Tables, by, group, read
from s2v.datapipe.pair.settings import BANKS, FaceRules, SelectSettings

_BORDER_PENALTY = 0.5  # a subject cut by the frame is taken only when no whole one exists
_FULL_AREA = 0.25  # of the frame: larger shows no more of a subject


@dataclass
class SubjectView:
    """Subjects with everything later steps ask of them.

    Attributes:
        rows: table SUBJECTS, sorted by ``subject_id``; ``identity_id`` is still null.
        passing: detections that pass all rules, per kept subject, by time.
        boxes: ``detection_id``, ``subject_id`` and the first rule of its own that each
            detection fails.
    """

    rows: list[Row] = field(default_factory=list)
    boxes: list[Row] = field(default_factory=list)
    passing: dict[str, list[Row]] = field(default_factory=dict)

    def kept(self) -> list[Row]:
        """Rows without a reason."""
        return [row for row in self.rows if row["reason"] is None]


def join_subjects(
    tables: Tables,
    clip_reasons: dict[str, str | None],
    settings: SelectSettings,
    excluded: ExclusionIndex,
) -> SubjectView:
    """Join the measure tables to subjects.

    Args:
        tables: clips, frames, captions, phrases, detections, checks, masks, faces, embeddings.
        clip_reasons: of :func:`s2v.datapipe.pair.clips.clip_reasons`.
        settings: thresholds.
        excluded: exclusion and takedown list.

    Raises:
        ValueError: a row refers to a clip or frame that the tables lack.
    """
    joiner = _Joiner(tables, settings)
    view = SubjectView()
    for phrase in joiner.phrases:
        clip = joiner.clip(phrase)
        reason = clip_reasons[clip["clip_id"]]
        if reason is None and (why := excluded.reason(phrase, "subject_id")):
            reason = f"phrase: excluded: {why}"
        if reason is None and (why := next(joiner.phrase_rules(phrase), None)):
            reason = f"phrase: {why}"
        judged = joiner.judge(phrase)
        view.boxes += [
            {
                "detection_id": one.row["detection_id"],
                "subject_id": phrase["subject_id"],
                "reason": one.reason,
            }
            for one in judged
        ]
        best = judged[0] if judged else None
        if reason is None:
            reason = "box: none found" if best is None else best.reason
        if reason is None and _frames_with_box(judged) < settings.detection.min_frames:
            reason = "box: on too few frames"
        row = joiner.row(phrase, clip, best)
        row["reason"] = reason
        view.rows.append(row)
        if reason is None:
            passing = [one.row for one in judged if one.reason is None]
            view.passing[phrase["subject_id"]] = sorted(
                passing, key=lambda d: (d["pts_us"], d["detection_id"])
            )
    return view


@dataclass(frozen=True)
class _Judged:
    row: Row  # of detections
    mask: Row | None
    embedding: Row | None
    face: Row | None
    reason: str | None
    steps: int  # how many groups of rules it passed
    score: float


class _Joiner:
    def __init__(self, tables: Tables, settings: SelectSettings) -> None:
        self.settings = settings
        self.clips = by(read(tables, "clips"), "clip_id")
        self.frames = by(read(tables, "frames"), "frame_id")
        self.captions = by(read(tables, "captions"), "clip_id")
        self.phrases = read(tables, "phrases")
        detections = read(tables, "detections")
        self.detections = group(detections, "subject_id")
        self.masks = by(read(tables, "masks"), "detection_id")
        self.checks = by(read(tables, "checks"), "detection_id")
        self.embeddings = by(read(tables, "embeddings"), "detection_id")
        self.faces = group(read(tables, "faces"), "frame_id")
        self.bank = {row["subject_id"]: row["bank"] for row in self.phrases}
        self.on_frame = group(detections, "frame_id")
        self._repeated = self._repeated_phrases()
        self._several = self._several_boxes()
        self._reasons = {
            row["detection_id"]: next(self._box_rules(row), None) for row in detections
        }
        self._overlapped = self._suppress()
        self._mask_reasons = {
            row["detection_id"]: next(self._mask_rules(row), None) for row in detections
        }
        self._covered = self._suppress_masks()

    def clip(self, row: Row) -> Row:
        """The clip a row belongs to."""
        try:
            clip: Row = self.clips[row["clip_id"]]
        except KeyError:
            raise ValueError(
                f"subject {row['subject_id']!r} is of clip {row['clip_id']!r}, which table "
                "'clips' lacks; the measure parts belong to different inputs"
            ) from None
        return clip

    def _repeated_phrases(self) -> set[str]:
        """Subjects whose phrase their clip's caption has twice."""
        seen = Counter((p["clip_id"], p["phrase"].lower()) for p in self.phrases)
        return {
            p["subject_id"] for p in self.phrases if seen[p["clip_id"], p["phrase"].lower()] > 1
        }

    def phrase_rules(self, phrase: Row) -> Iterator[str]:
        """Names of the phrase rules failed, in order."""
        subject = phrase["subject_id"]
        if phrase["reason"]:
            yield str(phrase["reason"])
        caption = self.captions.get(phrase["clip_id"])
        if caption is None or caption["caption"] is None:
            yield "not measured: caption"
            return
        if caption["caption"][phrase["start"] : phrase["end"]] != phrase["phrase"]:
            yield "not in the caption"
        if phrase["bank"] not in BANKS:
            yield "no bank"
        if self.settings.phrase.distinct and subject in self._repeated:
            yield "not distinct"
        if self.settings.phrase.several_boxes == "drop_phrase" and self._several.get(subject):
            yield "several boxes"

    def judge(self, phrase: Row) -> list[_Judged]:
        """A phrase's detections, best first: by rules passed, face, score, id."""
        judged = [self._judge(row) for row in self.detections.get(phrase["subject_id"], [])]
        person = phrase["bank"] == "person"
        return sorted(
            judged,
            key=lambda one: (
                -one.steps,
                person and one.face is None,
                -one.score,
                one.row["detection_id"],
            ),
        )

    def _judge(self, row: Row) -> _Judged:
        key = row["detection_id"]
        mask, embedding = self.masks.get(key), self.embeddings.get(key)
        face = usable_face(row, self.faces.get(row["frame_id"], []), self.settings.face)
        box = self._reasons[key] or ("overlaps another" if key in self._overlapped else None)
        steps = (
            ("box", box),
            (
                "mask",
                self._mask_reasons[key] or ("overlaps another" if key in self._covered else None),
            ),
            ("embedding", next(self._embedding_rules(row, embedding), None)),
        )
        passed, reason = 0, None
        for name, failed in steps:
            if failed:
                reason = f"{name}: {failed}"
                break
            passed += 1
        return _Judged(
            row=row,
            mask=mask,
            embedding=embedding,
            face=face if self.bank.get(row["subject_id"]) == "person" else None,
            reason=reason,
            steps=passed,
            score=detection_score(row, mask),
        )

    def _several_boxes(self) -> dict[str, set[str]]:
        """Frames on which a phrase maps to several regions, per subject."""
        found: dict[str, set[str]] = defaultdict(set)
        rules = self.settings.detection
        limit = rules.max_overlap
        for subject, rows in self.detections.items():
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
        rules, clip = self.settings.detection, self.clip(row)
        if row["frame_id"] not in self.frames:
            raise ValueError(
                f"detection {row['detection_id']!r} is on frame {row['frame_id']!r}, which "
                "table 'frames' lacks; the measure parts belong to different inputs"
            )
        several = self.settings.phrase.several_boxes
        if row["reason"] and not (several == "best" and row["reason"] == SEVERAL_BOXES):
            yield str(row["reason"])
        if row["frame_id"] in self._several.get(row["subject_id"], ()):
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
            for other in self.detections[row["subject_id"]]
            if other["frame_id"] == row["frame_id"]
        )

    def _check_rules(self, row: Row) -> Iterator[str]:
        """Verdicts of the second model (PD). Where none was asked at all there is no rule."""
        rules, said = self.settings.detection, self.checks.get(row["detection_id"])
        for verdict, needed, failed in (
            ("complete", rules.require_complete, "not complete"),
            ("specific", rules.require_specific, "not specific"),
            ("matches", rules.require_matches, "not what the phrase says"),
        ):
            if not needed or not self.checks:
                continue
            if said is None or said[verdict] is None:
                yield f"not measured: {verdict}"
            elif not said[verdict]:
                yield failed

    def _suppress(self) -> set[str]:
        """Boxes that a surer box of another subject on the same frame covers."""
        lost: set[str] = set()
        for rows in self.on_frame.values():
            good = [row for row in rows if self._reasons[row["detection_id"]] is None]
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
        for rows in self.on_frame.values():
            good = [
                (row, self.masks[key])
                for row in rows
                if (key := row["detection_id"]) not in self._overlapped
                and self._reasons[key] is None
                and self._mask_reasons[key] is None
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
        if self.bank.get(row["subject_id"]) == "thing" and self._is_face(row, mask):
            yield "is a face"

    def _is_face(self, row: Row, mask: Row) -> bool:
        """Whether a thing's mask is a face's (M); a creature has a face of its own."""
        faces = [
            face["box"]
            for face in self.faces.get(row["frame_id"], [])
            if face["score"] >= self.settings.face.min_score
            and boxes.iou(face["box"], row["box"]) > 0
        ]
        if not faces:
            return False
        pixels = overlaps.decode(mask)
        limit = self.settings.mask.max_face_overlap
        return any(overlaps.face_iou(pixels, face) > limit for face in faces)

    def _embedding_rules(self, row: Row, embedding: Row | None) -> Iterator[str]:
        if embedding is None or embedding["subject"] is None:
            yield "not measured"
            return
        norm = math.sqrt(sum(x * x for x in embedding["subject"]))
        if not 0.99 < norm < 1.01:
            raise ValueError(
                f"embedding of {row['detection_id']!r} has length {norm:.4f}; embeddings must "
                "be L2-normalised by the embedder that writes them"
            )

    def row(self, phrase: Row, clip: Row, best: _Judged | None) -> Row:
        """A row of SUBJECTS, without identity and reason."""
        row: Row = {
            **dict.fromkeys(records.SUBJECTS.names),
            **{k: clip[k] for k in ("clip_id", "video_id", "long_video_id", "kind")},
            **{k: clip[k] for k in ("start_us", "end_us")},
            **{k: phrase[k] for k in ("subject_id", "phrase", "noun", "bank")},
            "phrase_start": phrase["start"],
            "phrase_end": phrase["end"],
            "detections": len(
                {d["frame_id"] for d in self.detections.get(phrase["subject_id"], [])}
            ),
        }
        if best is None:
            return row
        frame = self.frames[best.row["frame_id"]]
        row |= {k: best.row[k] for k in ("detection_id", "frame_id", "pts_us", "box")}
        row |= {k: best.row[k] for k in ("area_share", "score")}
        row |= {"blur": frame["blur"], "frame_phash": frame["phash"]}
        if best.embedding is not None:
            row |= {
                "crop_phash": best.embedding["phash"],
                "embedder": best.embedding["embedder"],
                "embedding": best.embedding["subject"],
                "background": best.embedding["background"],
            }
        if best.face is not None:
            row |= {
                "face_score": best.face["score"],
                "face_embedder": best.face["embedder"],
                "face_embedding": best.face["embedding"],
            }
        return row


def _frames_with_box(judged: list[_Judged]) -> int:
    return len({one.row["frame_id"] for one in judged if one.steps > 0})


def detection_score(row: Row, mask: Row | None) -> float:
    """How good a picture of its subject a detection is, 0..1; rounded to 6 digits.

    Detector score, times the root of its area share up to a quarter of the frame, halved
    where the mask touches the frame's border.
    """
    whole = _BORDER_PENALTY if mask is not None and mask["touches_border"] else 1.0
    size = math.sqrt(min(1.0, (row["area_share"] or 0.0) / _FULL_AREA))
    return round((row["score"] or 0.0) * size * whole, 6)


def usable_face(detection: Row, faces: list[Row], rules: FaceRules) -> Row | None:
    """The largest usable face whose centre lies in the detection's box.

    Faces must be sure and large enough and carry an embedding. A face that belongs to the
    box of another person (``faces.detection_id``) is not taken.
    """
    found = [
        face
        for face in faces
        if face["embedding"] is not None
        and face["score"] >= rules.min_score
        and min(face["box"][2] - face["box"][0], face["box"][3] - face["box"][1]) >= rules.min_side
        and face["detection_id"] in (None, detection["detection_id"])
        and boxes.centre_inside(face["box"], detection["box"])
    ]
    return min(found, key=lambda f: (-boxes.area(f["box"]), f["face"]), default=None)


def source_scale(box: boxes.Box, area_share: float, width: int, height: int) -> float:
    """Factor from the box's pixels to those of a ``width`` x ``height`` source.

    Frames may be stored smaller than their source; the box's own share of its frame tells
    how large the frame was that it was measured on.
    """
    if area_share <= 0 or boxes.area(box) <= 0:
        return 1.0
    scale = math.sqrt(width * height * area_share / boxes.area(box))
    return 1.0 if abs(scale - 1) < 0.02 else scale
