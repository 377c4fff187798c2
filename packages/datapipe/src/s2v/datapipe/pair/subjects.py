"""The view SUBJECTS: one row per phrase, by its best detection, with the reason it is dropped.

Phantom, section 3.1, 5-6: each phrase of the caption is grounded to one region of the
sampled frames. The first rule failed, in the order clip, phrase, people, box, mask, embedding,
is the reason. Of a phrase's detections the one that got farthest decides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import ExclusionIndex
from s2v.datapipe.pair.chunks import pieces
from s2v.datapipe.pair.columns import Flags, Ints, there, whole
from s2v.datapipe.pair.detections import Detections
from s2v.datapipe.pair.faces import Faces, with_face
from s2v.datapipe.pair.policy import People
from s2v.datapipe.pair.rows import Row, Tables, by, group, read
from s2v.datapipe.pair.settings import BANKS, SelectSettings

_BORDER_PENALTY = 0.5  # a subject cut by the frame is taken only when no whole one exists
_FULL_AREA = 0.25  # of the frame: larger shows no more of a subject

#: Of a subject that was fit but for its clip, which shows what another one shows.
DUPLICATE: Final = "clip: duplicate"

BOX_REASONS: Final = pa.schema(
    [pa.field(name, pa.string()) for name in ("detection_id", "subject_id", "reason")]
)
FACE_REASONS: Final = pa.schema(
    [
        pa.field("frame_id", pa.string()),
        pa.field("face", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)
_READ: Final = (
    *("sources", "clips", "frames", "captions", "phrases", "detections", "checks", "masks"),
    *("faces", "people", "embeddings"),
)


@dataclass(frozen=True)
class SubjectView:
    """Subjects with everything later steps ask of them.

    Attributes:
        table: table SUBJECTS, sorted by ``subject_id``; ``identity_id`` may still be null.
        detections: rows of DETECTIONS that pass all rules, of kept subjects, by subject, time
            and id.
        boxes: ``detection_id``, ``subject_id`` and the first rule of its own that each
            detection fails, by ``detection_id``.
        faces: ``frame_id``, ``face`` and the first rule that each face fails, by these.
    """

    table: pa.Table
    detections: pa.Table
    boxes: pa.Table
    faces: pa.Table

    @cached_property
    def kept_flags(self) -> Flags:
        """By position: rows without a reason."""
        return ~there(self.table["reason"])

    @cached_property
    def place(self) -> Ints:
        """By position: the row's place in :meth:`kept`, -1 for a dropped one."""
        return np.where(self.kept_flags, np.cumsum(self.kept_flags) - 1, -1)

    def kept_table(self) -> pa.Table:
        """Rows without a reason."""
        return self.table.filter(pa.array(self.kept_flags))

    @cached_property
    def _kept(self) -> list[Row]:
        rows: list[Row] = self.kept_table().to_pylist()
        return rows

    def kept(self) -> list[Row]:
        """Rows without a reason, as Python's."""
        return self._kept

    @cached_property
    def passing(self) -> dict[str, list[Row]]:
        """Rows of ``detections`` per subject."""
        return group(self.detections.to_pylist(), "subject_id")

    def with_table(self, table: pa.Table) -> SubjectView:
        """The same with some subjects named or dropped; their detections go with them."""
        kept = table.filter(pc.is_null(table["reason"]))["subject_id"]
        at = pc.is_in(self.detections["subject_id"], value_set=whole(kept))
        return SubjectView(table, self.detections.filter(at), self.boxes, self.faces)


def join_subjects(
    tables: Tables,
    clip_reasons: dict[str, str | None],
    settings: SelectSettings,
    excluded: ExclusionIndex,
    duplicates: Collection[str] = (),
) -> SubjectView:
    """Join the measure tables to subjects, some thousand clips at a time.

    Args:
        tables: clips, frames, captions, phrases, detections, checks, masks, faces, embeddings.
        clip_reasons: of :func:`s2v.datapipe.pair.clips.clip_reasons`.
        settings: thresholds.
        excluded: exclusion and takedown list.
        duplicates: clips without a reason whose subjects are dropped for what they repeat.

    Raises:
        ValueError: a row refers to a clip or frame that the tables lack.
    """
    checked = "checks" in tables and tables["checks"].num_rows > 0
    parts: list[tuple[pa.Table, ...]] = []
    for piece in pieces(tables, _READ):
        joiner = _Joiner(piece, settings, checked=checked)
        parts.append(_join(joiner, clip_reasons, excluded, duplicates))
    subjects, detections, boxes, faces = (pa.concat_tables(p) for p in zip(*parts, strict=True))
    return SubjectView(
        table=_sorted(subjects, "subject_id"),
        detections=_sorted(detections, "subject_id", "pts_us", "detection_id"),
        boxes=_sorted(boxes, "detection_id"),
        faces=_sorted(faces, "frame_id", "face"),
    )


def _sorted(table: pa.Table, *columns: str) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in columns]).combine_chunks()


def _join(
    joiner: _Joiner,
    clip_reasons: dict[str, str | None],
    excluded: ExclusionIndex,
    duplicates: Collection[str],
) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Subjects, passing detections, boxes and faces of one piece."""
    rows: list[Row] = []
    passing: list[Row] = []
    boxes: list[Row] = []
    for phrase in joiner.phrases:
        clip = joiner.clip(phrase)
        judged = joiner.judge(phrase)
        boxes += [
            {
                "detection_id": one.row["detection_id"],
                "subject_id": phrase["subject_id"],
                "reason": one.reason,
            }
            for one in judged
        ]
        best = judged[0] if judged else None
        reason = clip_reasons[clip["clip_id"]] or joiner.reason(phrase, clip, judged, excluded)
        if reason is None and clip["clip_id"] in duplicates:
            reason = DUPLICATE
        rows.append(joiner.row(phrase, clip, best) | {"reason": reason})
        if reason is None:
            passing += [one.row for one in judged if one.reason is None]
    return (
        records.table("subjects", rows),
        records.table("detections", passing),
        pa.Table.from_pylist(boxes, schema=BOX_REASONS),
        pa.Table.from_pylist(joiner.faces.reasons(), schema=FACE_REASONS),
    )


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
    def __init__(self, tables: Tables, settings: SelectSettings, *, checked: bool) -> None:
        self.settings = settings
        self.clips = by(read(tables, "clips"), "clip_id")
        self.frames = by(read(tables, "frames"), "frame_id")
        self.captions = by(read(tables, "captions"), "clip_id")
        self.phrases = read(tables, "phrases")
        self.embeddings = by(read(tables, "embeddings"), "detection_id")
        self.faces = Faces(tables, settings)
        self.people = People(tables, settings.people)
        self.bank = {row["subject_id"]: row["bank"] for row in self.phrases}
        self._repeated = self._repeated_phrases()
        self.found = Detections(tables, self.clips, self.bank, settings, checked=checked)

    def reason(
        self, phrase: Row, clip: Row, judged: list[_Judged], excluded: ExclusionIndex
    ) -> str | None:
        """The first rule that a subject of a clip that may be used fails."""
        if why := excluded.reason(phrase, "subject_id"):
            return f"phrase: excluded: {why}"
        if why := next(self.phrase_rules(phrase), None):
            return f"phrase: {why}"
        if phrase["bank"] == "person" and (why := next(self.people.subject_fails(clip), None)):
            return f"people: {why}"
        if not judged:
            return "box: none found"
        if judged[0].reason is not None:
            return judged[0].reason
        wanted = self.settings.detection.min_frames if clip["kind"] == "video" else 1
        return "box: on too few frames" if _frames_with_box(judged) < wanted else None

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
        if self.settings.phrase.several_boxes == "drop_phrase" and self.found.several.get(subject):
            yield "several boxes"

    def judge(self, phrase: Row) -> list[_Judged]:
        """A phrase's detections, best first: by rules passed, face, score, id."""
        judged = [self._judge(row) for row in self.found.of(phrase["subject_id"])]
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
        mask, embedding = self.found.masks.get(key), self.embeddings.get(key)
        steps = (
            ("box", self.found.box_fault(key)),
            ("mask", self.found.mask_fault(key)),
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
            face=self.faces.of(row) if self.bank.get(row["subject_id"]) == "person" else None,
            reason=reason,
            steps=passed,
            score=detection_score(row, mask),
        )

    def _embedding_rules(self, row: Row, embedding: Row | None) -> Iterator[str]:
        if embedding is None or embedding["subject"] is None:
            yield "not measured"
            return
        norm = float(np.linalg.norm(np.asarray(embedding["subject"], np.float64)))
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
            "detections": len({d["frame_id"] for d in self.found.of(phrase["subject_id"])}),
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
            }
        return row | with_face(best.face)


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
