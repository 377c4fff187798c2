"""The accepted cross pairs of a run, with the pictures to judge them by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow.compute as pc

from s2v.datapipe.base import ids
from s2v.datapipe.pair.rows import Row, group
from s2v.datapipe.report.run import RunFolder

CROSS = ("cross", "image")  # pair types whose references come from elsewhere
UNUSED = "in no sample"
_ASKED = (
    *("target_subject_id", "reference_subject_id", "similarity", "face_similarity"),
    *("background_similarity", "gap_us", "accepted"),
)


class AuditError(ValueError):
    """A run that cannot be audited, or labels that cannot be read."""


@dataclass(frozen=True)
class View:
    """A subject on one stored frame.

    Attributes:
        detection_id: the box.
        frame: row of table FRAMES.
        box: ``x0, y0, x1, y1`` in pixels of that frame.
    """

    detection_id: str
    frame: Row
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Side:
    """Target or reference of a pair.

    Attributes:
        subject: row of table SUBJECTS.
        views: on which frames it is seen; of a reference the one that is written.
        origin: of its source: ``live``, ``animation``, ...
    """

    subject: Row
    views: tuple[View, ...]
    origin: str | None


@dataclass(frozen=True)
class Pair:
    """An accepted cross pair.

    Attributes:
        pair_id: ``p`` and 12 hex digits, the same in every run with these two subjects.
        target, reference: its sides.
        kind: class of the target where phrases have one, else its bank.
        scenario: of the sample that uses it.
        similarity, face_similarity, background_similarity, gap_us: what selection measured;
            judges do not see it.
    """

    pair_id: str
    target: Side
    reference: Side
    kind: str
    scenario: str
    similarity: float
    face_similarity: float | None
    background_similarity: float | None
    gap_us: int | None

    @property
    def stratum(self) -> tuple[str, str]:
        """Class and scenario: what it is drawn from."""
        return self.kind, self.scenario


def pair_id(target: str, reference: str) -> str:
    """The name of an ordered pair of subjects."""
    return f"p{ids.stable_hash([target, reference], 12)}"


def accepted_pairs(run: RunFolder, population: Literal["samples", "accepted"]) -> list[Pair]:
    """All pairs an audit is about, by id.

    Args:
        run: the run, selected.
        population: ``samples`` for references of cross-paired samples, ``accepted`` for all
            candidate pairs that passed.

    Raises:
        AuditError: samples, pairs and detections contradict each other.
    """
    maker = _Maker(run)
    found = maker.of_samples() if population == "samples" else maker.of_candidates()
    return sorted(found, key=lambda pair: pair.pair_id)


class _Maker:
    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.subjects = run.by("subjects", "subject_id")
        self.frames = run.by("frames", "frame_id")
        self.detections = run.by("detections", "detection_id")
        self.boxes = group(run.rows("detections"), "subject_id")
        self.embedded = set(run.tables["embeddings"]["detection_id"].to_pylist())
        self.origin = {row["video_id"]: row["origin"] for row in run.rows("sources")}
        # Most candidates were refused, and at scale there are ten of them to a subject.
        accepted = run.tables["pairs"].select(list(_ASKED)).filter(pc.field("accepted"))
        self.candidates = {
            (row["target_subject_id"], row["reference_subject_id"]): row
            for row in accepted.to_pylist()
        }

    def of_samples(self) -> Iterator[Pair]:
        for key, (sample, ref) in sorted(self._used().items()):
            if key not in self.candidates:
                raise AuditError(
                    f"{self.run.folder}: sample {sample['sample_id']} uses {key[1]} for {key[0]}, "
                    "which table 'pairs' did not accept; run `s2v-data select` again"
                )
            yield self._pair(key, sample["scenario"], ref["detection_id"])

    def of_candidates(self) -> Iterator[Pair]:
        used = self._used()
        for key in sorted(self.candidates):
            if key in used:
                sample, ref = used[key]
                yield self._pair(key, sample["scenario"], ref["detection_id"])
            else:
                yield self._pair(key, UNUSED, self._subject(key[1])["detection_id"])

    def _used(self) -> dict[tuple[str, str], tuple[Row, Row]]:
        """Target and reference to the sample that uses them, and its reference there."""
        return {
            (ref["subject_id"], ref["reference_subject_id"]): (sample, ref)
            for sample in self.run.rows("samples")
            if sample["pair_type"] in CROSS
            for ref in sample["references"]
        }

    def _pair(self, key: tuple[str, str], scenario: str, detection: str) -> Pair:
        target, reference = (self._subject(name) for name in key)
        candidate = self.candidates[key]
        return Pair(
            pair_id=pair_id(*key),
            target=self._side(target, self._seen(target)),
            reference=self._side(reference, [detection]),
            kind=target["class"] or target["bank"],
            scenario=scenario,
            similarity=candidate["similarity"],
            face_similarity=candidate["face_similarity"],
            background_similarity=candidate["background_similarity"],
            gap_us=candidate["gap_us"],
        )

    def _subject(self, name: str) -> Row:
        if name not in self.subjects:
            raise AuditError(
                f"{self.run.folder}: a pair has subject {name!r}, which table 'subjects' lacks; "
                "run `s2v-data select` again"
            )
        return self.subjects[name]

    def _seen(self, subject: Row) -> list[str]:
        """Detections of a subject that were embedded, and its best one in any case."""
        found = {
            row["detection_id"]
            for row in self.boxes.get(subject["subject_id"], [])
            if row["detection_id"] in self.embedded and row["reason"] is None
        }
        return sorted(found | {subject["detection_id"]})

    def _side(self, subject: Row, detections: list[str]) -> Side:
        views = tuple(self._view(name) for name in detections)
        return Side(subject, views, self.origin.get(subject["video_id"]))

    def _view(self, detection: str) -> View:
        row = self.detections.get(detection)
        frame = self.frames.get(row["frame_id"]) if row else None
        if row is None or frame is None:
            raise AuditError(
                f"{self.run.folder}: a pair uses detection {detection!r}, which the tables lack; "
                "run `s2v-data run` to measure it, then audit again"
            )
        x0, y0, x1, y1 = (float(value) for value in row["box"])
        return View(detection, frame, (x0, y0, x1, y1))
