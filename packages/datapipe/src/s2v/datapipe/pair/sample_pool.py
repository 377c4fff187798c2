"""What samples can be made of: kept subjects, their pictures, accepted pairs, as columns.

Subjects are numbers here, in the order of their ids, so the smaller number is the smaller id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.columns import (
    Flags,
    Floats,
    Ints,
    codes,
    floats,
    ints,
    positions,
    runs,
    whole,
)
from s2v.datapipe.pair.inpair import distances, in_references
from s2v.datapipe.pair.sample_rules import SampleRules
from s2v.datapipe.roles import CLASSES

Small = npt.NDArray[np.int8]

_FULL_AREA: Final = 0.25  # of the frame: larger shows no more of a subject
_OF_SUBJECTS: Final = [
    *("subject_id", "clip_id", "video_id", "long_video_id", "kind", "start_us", "end_us"),
    *("phrase_start", "class", "detection_id", "pts_us", "score", "area_share"),
]
_OF_DETECTIONS: Final = ["detection_id", "pts_us", "score", "area_share"]
_CLASS_AT: Final = {name: n for n, name in enumerate(CLASSES)}


@dataclass(frozen=True)
class Splits:
    """Where sources and clips go."""

    source: Mapping[str, str]  # long_video_id -> train | test
    held: Mapping[str, bool]  # clip_id -> in a held-out scene


@dataclass(frozen=True)
class Pairs:
    """Accepted pairs of subjects, ``[m]`` each; ``target`` and ``reference`` are positions."""

    target: Ints
    reference: Ints
    similarity: Floats
    face: Floats  # NaN where not measured
    background: Floats  # NaN where not measured

    def take(self, at: Ints | Flags) -> Pairs:
        """Those at ``at``."""
        return Pairs(*(getattr(self, name)[at] for name in self.__dataclass_fields__))

    def surest_first(self) -> Pairs:
        """Sorted by target; of each the surest first: by face, by similarity, by id."""
        face = np.where(np.isnan(self.face), -1.0, self.face)
        return self.take(np.lexsort((self.reference, -self.similarity, -face, self.target)))


@dataclass(frozen=True)
class Clips:
    """Clips with a kept subject, sorted by id, ``[c]`` each."""

    clip_id: pa.Array
    video_id: pa.Array
    long_video_id: pa.Array
    caption: pa.Array
    image: Flags
    start_us: Ints
    end_us: Ints
    test: Flags
    held: Flags  # in a held-out scene


@dataclass(frozen=True)
class Pool:
    """Kept subjects, ``[n]`` each, and what they can be paired with.

    Attributes:
        ids: subject ids, sorted.
        clip: position of each one's clip.
        clips: the clips.
        class_at: position of its class in ``roles.CLASSES``.
        phrase_start: where its phrase begins in the caption.
        quality: how good its best picture is, 0..1.
        picture: detection of its best picture, which is what others are shown of it.
        picture_us: when that is.
        own: detection of its in-paired reference.
        own_us: when that is.
        own_quality: how good that picture is.
        pairs: by target, surest first; none leads from a training clip into a held-out scene.
        rules: how samples are put together.
    """

    ids: pa.Array
    clip: Ints
    clips: Clips
    class_at: Small
    phrase_start: Ints
    quality: Floats
    picture: pa.Array
    picture_us: Ints
    own: pa.Array
    own_us: Ints
    own_quality: Floats
    pairs: Pairs
    rules: SampleRules


def quality_of(score: Floats, area_share: Floats) -> Floats:
    """How good a picture of its subject a detection is, 0..1; rounded to 6 digits.

    Detector score, times the root of its area share up to a quarter of the frame.
    """
    area = np.clip(np.nan_to_num(area_share) / _FULL_AREA, 0.0, 1.0)
    return np.asarray(np.round(np.nan_to_num(score) * np.sqrt(area), 6), np.float64)


def make_pool(
    subjects: pa.Table,
    detections: pa.Table,
    pairs: Pairs,
    captions: pa.Table,
    splits: Splits,
    rules: SampleRules,
) -> Pool:
    """Collect what samples can be made of.

    Args:
        subjects: table SUBJECTS with its classes, all rows sorted by id; vectors may be missing.
        detections: rows of DETECTIONS that pass all rules, of kept subjects, sorted by subject,
            time and id.
        pairs: accepted pairs, by position in ``subjects``.
        captions: table CAPTIONS.
        splits: where sources and clips go.
        rules: how samples are put together.

    Raises:
        ValueError: a kept subject has no detection that passes, or no class.
    """
    reasons = whole(subjects["reason"])
    kept_at = np.flatnonzero(reasons.is_null().to_numpy(zero_copy_only=False))
    place = np.full(len(reasons), -1, np.int64)
    place[kept_at] = np.arange(len(kept_at))
    kept = subjects.select(_OF_SUBJECTS)
    if len(kept_at) < len(reasons):
        kept = kept.take(pa.array(kept_at))
    clip, first = _clips(kept)
    clips = _clip_columns(kept.take(pa.array(first)), captions, splits)
    ids = whole(kept["subject_id"])

    owner = _owners(whole(detections["subject_id"]), ids)
    detections = detections.select(_OF_DETECTIONS)
    if (owner < 0).any():
        detections, owner = detections.filter(pa.array(owner >= 0)), owner[owner >= 0]
    pts = ints(detections["pts_us"], 0)
    _, from_middle = distances(pts, clips.start_us[clip[owner]], clips.end_us[clip[owner]], rules)
    shown = quality_of(floats(detections["score"]), floats(detections["area_share"]))
    own = in_references(owner, from_middle, shown)
    if len(own) != len(ids):
        lacking = ids[int(np.setdiff1d(np.arange(len(ids)), owner[own])[0])]
        raise ValueError(f"subject {lacking} is kept, but none of its detections passes")

    among = pairs.take((place[pairs.target] >= 0) & (place[pairs.reference] >= 0))
    among = Pairs(
        place[among.target],
        place[among.reference],
        among.similarity,
        among.face,
        among.background,
    )
    # Training samples take no pixels from held-out scenes, or the loss there would no longer
    # be one on unseen pictures.
    leaks = clips.held[clip[among.reference]] & ~clips.held[clip[among.target]]
    return Pool(
        ids=ids,
        clip=clip,
        clips=clips,
        class_at=_class_at(kept),
        phrase_start=ints(kept["phrase_start"], 0),
        quality=quality_of(floats(kept["score"]), floats(kept["area_share"])),
        picture=whole(kept["detection_id"]),
        picture_us=ints(kept["pts_us"], 0),
        own=whole(detections["detection_id"]).take(pa.array(own)),
        own_us=pts[own],
        own_quality=shown[own],
        pairs=among.take(~leaks).surest_first(),
        rules=rules,
    )


def _owners(subject_ids: pa.Array, ids: pa.Array) -> Ints:
    """Position of each detection's subject, -1 for none; they are sorted by subject."""
    if not len(subject_ids):
        return np.zeros(0, np.int64)
    changes = pc.not_equal(subject_ids[1:], subject_ids[:-1]).to_numpy(zero_copy_only=False)
    run = np.concatenate(([0], np.cumsum(changes)))
    first = np.flatnonzero(np.concatenate(([True], changes)))
    return np.asarray(positions(subject_ids.take(pa.array(first)), ids)[run], np.int64)


def _clips(kept: pa.Table) -> tuple[Ints, Ints]:
    """Number of each subject's clip, in the order of clip ids, and a subject of each clip."""
    at, names = codes(kept["clip_id"])
    order = pc.array_sort_indices(names).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    clip = rank[at]
    by_clip = np.argsort(clip, kind="stable")
    return clip, by_clip[runs(clip[by_clip])[:-1]] if len(clip) else by_clip


def _clip_columns(
    first: pa.Table,
    captions: pa.Table,
    splits: Splits,
) -> Clips:
    clip_id, long_video = whole(first["clip_id"]), whole(first["long_video_id"])
    at = positions(clip_id, captions["clip_id"])
    return Clips(
        clip_id=clip_id,
        video_id=whole(first["video_id"]),
        long_video_id=long_video,
        caption=whole(captions["caption"]).take(pa.array(at)),
        image=_flags(kind == "image" for kind in first["kind"].to_pylist()),
        start_us=ints(first["start_us"], 0),
        end_us=ints(first["end_us"], 0),
        test=_flags(splits.source[name] == "test" for name in long_video.to_pylist()),
        held=_flags(splits.held[name] for name in clip_id.to_pylist()),
    )


def _flags(values: Any) -> Flags:
    return np.fromiter(values, np.bool_)


def _class_at(kept: pa.Table) -> Small:
    names = whole(kept["class"])
    if names.null_count:
        lacking = kept["subject_id"].filter(names.is_null())[0]
        raise ValueError(f"subject {lacking} has no class; name_classes comes first")
    at, known = codes(names)
    return np.array([_CLASS_AT[name] for name in known.to_pylist()] or [0], np.int8)[at]
