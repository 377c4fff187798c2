"""Putting samples together: which clip is taught with which references.

At most one ``in`` and one ``cross`` or ``image`` sample per clip (Phantom, section 3.1).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from s2v.datapipe.base import ids
from s2v.datapipe.pair.evidence import Candidates, clip_of
from s2v.datapipe.pair.inpair import in_reference
from s2v.datapipe.pair.rows import Row, Tables, by, group, read
from s2v.datapipe.pair.scenario import scenario
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.subjects import SubjectView, detection_score


@dataclass(frozen=True)
class Splits:
    """Where sources and clips go."""

    source: dict[str, str]  # long_video_id -> train | test
    held: dict[str, bool]  # clip_id -> in a held-out scene


class SampleMaker:
    """Puts samples together: at most one ``in`` and one ``cross`` or ``image`` per clip."""

    def __init__(
        self,
        tables: Tables,
        view: SubjectView,
        candidates: Candidates,
        splits: Splits,
        settings: SelectSettings,
    ) -> None:
        self.captions = by(read(tables, "captions"), "clip_id")
        self.view = view
        self.subjects = by(view.kept(), "subject_id")
        self.on_clip = group(view.kept(), "clip_id")
        self.splits, self.held, self.settings = splits.source, splits.held, settings
        self.accepted = self._accepted(candidates)
        self.uses: Counter[str] = Counter()

    def samples(self) -> list[Row]:
        """All samples, sorted by id."""
        found = []
        for clip in sorted(self.on_clip):
            subjects = self._best(self.on_clip[clip])
            image = subjects[0]["kind"] == "image"
            if not image:
                found.append(self._sample("in", [self._in(s) for s in subjects], subjects))
            if not image or self.settings.sample.image_samples:
                pairs = self._cross(self.on_clip[clip])
                if pairs:
                    chosen = [self.subjects[ref["subject_id"]] for ref in pairs]
                    found.append(self._sample("image" if image else "cross", pairs, chosen))
        return sorted(found, key=lambda row: row["sample_id"])

    def _accepted(self, candidates: Candidates) -> dict[str, list[Row]]:
        """Accepted pairs per target, surest first: by face, then by similarity, then id."""
        at = np.flatnonzero(candidates.accepted())
        e = candidates.evidence.take(at)
        found: dict[str, list[Row]] = defaultdict(list)
        for target, reference, similarity, face, background in zip(
            e.target,
            e.reference,
            e.similarity.tolist(),
            e.face_similarity.tolist(),
            e.background_similarity.tolist(),
            strict=True,
        ):
            found[target].append(
                {
                    "subject_id": target,
                    "reference_subject_id": reference,
                    "detection_id": self.subjects[reference]["detection_id"],
                    "similarity": similarity,
                    "face_similarity": None if np.isnan(face) else face,
                    "background_similarity": None if np.isnan(background) else background,
                }
            )
        for refs in found.values():
            refs.sort(
                key=lambda r: (
                    -(r["face_similarity"] or -1.0),
                    -r["similarity"],
                    r["reference_subject_id"],
                )
            )
        return found

    def _best(self, subjects: list[Row]) -> list[Row]:
        """The best subjects of a clip, in the order their phrases stand in the caption."""
        best = sorted(subjects, key=lambda s: (-detection_score(s, None), s["subject_id"]))
        chosen = best[: self.settings.sample.max_references]
        return sorted(chosen, key=lambda s: (s["phrase_start"], s["subject_id"]))

    def _in(self, subject: Row) -> Row:
        detection = in_reference(subject, self.view.passing[subject["subject_id"]])
        return {
            "subject_id": subject["subject_id"],
            "reference_subject_id": subject["subject_id"],
            "detection_id": detection["detection_id"],
        }

    def _cross(self, subjects: list[Row]) -> list[Row]:
        """One reference per phrase that has one.

        No two phrases get the same: a reference has its target's identity, and an identity
        is in a clip once.
        """
        chosen = [self._free(subject)[0] for subject in self._best(self._having(subjects))]
        self.uses.update(ref["reference_subject_id"] for ref in chosen)
        return chosen

    def _having(self, subjects: list[Row]) -> list[Row]:
        return [subject for subject in subjects if self._free(subject)]

    def _free(self, subject: Row) -> list[Row]:
        """References of a subject that are not used up and leak nothing, best first.

        Training samples take no pixels from held-out scenes, or the loss there would no
        longer be one on unseen pictures.
        """
        return [
            ref
            for ref in self.accepted.get(subject["subject_id"], [])
            if self.uses[ref["reference_subject_id"]] < self.settings.sample.max_uses
            and (
                self.held[subject["clip_id"]] or not self.held[clip_of(ref["reference_subject_id"])]
            )
        ]

    def _sample(self, pair_type: str, refs: list[Row], subjects: list[Row]) -> Row:
        clip = subjects[0]
        shards = self.settings.shards.of(pair_type)
        split = self.splits[clip["long_video_id"]]
        return {
            "sample_id": ids.sample_id(
                pair_type, clip["clip_id"], [ref["detection_id"] for ref in refs]
            ),
            "pair_type": pair_type,
            "clip_id": clip["clip_id"],
            "video_id": clip["video_id"],
            "long_video_id": clip["long_video_id"],
            "split": split,
            "heldout": split == "train" and self.held[clip["clip_id"]],
            "scenario": scenario(subject["bank"] for subject in subjects),
            "caption": self.captions[clip["clip_id"]]["caption"],
            "shard": shard_name(pair_type, clip["video_id"], shards),
            "references": refs,
        }


def shard_name(pair_type: str, video_id: str, shards: int) -> str:
    """``<pair_type>-<n>.tar``: a stable hash of the source video modulo the shard count."""
    return f"{pair_type}-{ids.bucket(video_id, shards):06d}.tar"
