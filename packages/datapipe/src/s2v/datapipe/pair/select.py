"""The selection: measured tables and settings to subjects, pairs and samples.

A pure function, made of four steps: what may be used of clips and of subjects, which subjects
are near each other, and what follows from the bounds. Changing a threshold and selecting again
runs no model and keeps the ids of unchanged samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base.exclusions import Exclusion, ExclusionIndex
from s2v.datapipe.pair.classes import name_classes
from s2v.datapipe.pair.columns import codes, positions, whole
from s2v.datapipe.pair.evidence import Candidates
from s2v.datapipe.pair.identity import cluster, identity_ids
from s2v.datapipe.pair.judge import judge
from s2v.datapipe.pair.marks import unmarked
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.rows import Row, Tables, measured
from s2v.datapipe.pair.sample_pool import Pairs, Splits, make_pool
from s2v.datapipe.pair.samples import make_samples
from s2v.datapipe.pair.settings import SelectSettings, ShardCounts
from s2v.datapipe.pair.split import heldout_clips, split_of_sources
from s2v.datapipe.pair.steps import CLIP_REASONS, Clips, Found, Steps
from s2v.datapipe.pair.subjects import BOX_REASONS, FACE_REASONS, SubjectView
from s2v.datapipe.pair.unseen import IN_TEST, TestFaces, seen_clips, seen_identities
from s2v.datapipe.pair.verdicts import Verdicts
from s2v.datapipe.roles import CLASSES

__all__ = ["BOX_REASONS", "CLIP_REASONS", "FACE_REASONS", "Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """What :func:`select` made.

    Attributes:
        clips: ``clip_id``, ``reason`` (null when kept), ``duplicate_of``, ``concept`` (where
            concepts are capped).
        boxes: ``detection_id``, ``subject_id``, ``reason`` (null when it passes all rules).
        faces: ``frame_id``, ``face``, ``reason`` (null when it can say who a person is).
        subjects: table SUBJECTS, every phrase with its reason.
        pairs: table PAIRS, every candidate with the rules it fails.
        samples: table SAMPLES, what will be written.
        excluded_samples: samples taken out by the exclusion list, with its reason.
        sample_reasons: every sample that was made, with the reason why it is not kept.
        quotas: how many samples of each scenario and class were made, wanted and kept.
        shards: how many shards the settings ask for.
    """

    clips: pa.Table
    boxes: pa.Table
    faces: pa.Table
    subjects: pa.Table
    pairs: pa.Table
    samples: pa.Table
    excluded_samples: dict[str, str]
    shards: ShardCounts
    sample_reasons: pa.Table
    quotas: pa.Table


def select(
    tables: Tables,
    settings: SelectSettings,
    exclusions: Iterable[Exclusion] = (),
    verdicts: pa.Table | None = None,
    steps: Steps | None = None,
    test_faces: TestFaces | None = None,
) -> Selection:
    """Select subjects, pairs and samples.

    Args:
        tables: the measure tables by name (:mod:`s2v.datapipe.base.records`), rows in any
            order; tables that were not measured may be missing.
        settings: every threshold.
        exclusions: exclusion and takedown list.
        verdicts: rows of table VERDICTS of a second model; pairs without one do not pass. Without
            the table no second model is asked.
        steps: what keeps the results of the first steps; the selection is the same without.
        test_faces: of an evaluation set, whose people are kept out.

    Returns:
        Tables sorted by id; the same for any order of the input rows.

    Raises:
        ValueError: tables that contradict each other.
        SplitError: pinned sources that belong together.
        TestFacesError: test faces that cannot be compared with the corpus's.
    """
    listed = tuple(exclusions)
    excluded = ExclusionIndex(listed)
    steps = steps or Steps()
    clips = steps.clips(tables, settings, listed)
    view, digest = steps.subjects(tables, settings, listed, clips)
    view = view.with_table(name_classes(view.table, tables, settings.classes))
    pool = Pool(view.table, clips.ids, clips.duplicate_of)
    found = steps.found(tables, settings, digest, pool, clips)
    hear = None if verdicts is None else partial(Verdicts, verdicts, view.table["detection_id"])
    candidates = judge(
        found.evidence,
        settings,
        unmarked(view.table, tables, settings.pair),
        positions(view.table["class"], pa.array(CLASSES)),
        hear=hear,
    )
    names = _cluster(pool, candidates, found, settings)
    seen = seen_identities(pool, Bank(pool, tables), names, test_faces) if test_faces else {}
    view = _identify(view, pool, candidates, names, excluded, seen)
    if test_faces:
        view = _keep_out(view, candidates, seen_clips(tables, test_faces))
    splits = _splits(tables, clips, view, candidates, settings)
    made = make_samples(
        make_pool(
            view.table,
            view.detections,
            _accepted(candidates),
            measured(tables, "captions"),
            splits,
            settings.sample,
        ),
        settings.quota,
        settings.shards,
        excluded.of("sample_id"),
    )
    return Selection(
        clips=clips.table,
        boxes=view.boxes,
        faces=view.faces,
        subjects=view.table,
        pairs=candidates.table(pool.clip, pool.clips),
        samples=made.samples,
        excluded_samples=made.excluded,
        shards=settings.shards,
        sample_reasons=made.reasons,
        quotas=made.quotas,
    )


def _cluster(
    pool: Pool, candidates: Candidates, found: Found, settings: SelectSettings
) -> pa.Array:
    """Identity of each subject; pairs that contradict one are refused."""
    cluster_of = cluster(pool, candidates, found.faces, settings)
    apart = cluster_of[candidates.target] != cluster_of[candidates.reference]
    candidates.refuse("identity_conflict", candidates.accepted() & apart)
    return identity_ids(pool, cluster_of)


def _identify(
    view: SubjectView,
    pool: Pool,
    candidates: Candidates,
    names: pa.Array,
    excluded: ExclusionIndex,
    seen: Mapping[str, str],
) -> SubjectView:
    """Fill ``identity_id``; identities that are excluded or ``seen`` go with all their pairs."""
    code, known = codes(names)
    why = [
        seen.get(name) or excluded.reason({"identity_id": name}, "identity_id")
        for name in known.to_pylist()
    ]
    taken_down = np.array([reason is not None for reason in why] + [False])[code]
    candidates.refuse("excluded", candidates.involve(taken_down))
    table = _replaced(view.table, "identity_id", names)
    if not taken_down.any():
        return view.with_table(table)
    texts = [None if reason is None else f"identity: excluded: {reason}" for reason in why]
    told = pa.array([*texts, None], pa.string()).take(pa.array(code % (len(texts) + 1)))
    reasons = pc.if_else(pa.array(taken_down), told, table["reason"].combine_chunks())
    return view.with_table(_replaced(table, "reason", reasons))


def _keep_out(view: SubjectView, candidates: Candidates, clips: pa.Array) -> SubjectView:
    """Drop what is left of clips in which somebody of the evaluation set is seen."""
    there = pc.is_in(whole(view.table["clip_id"]), value_set=clips)
    gone = np.asarray(there.to_numpy(zero_copy_only=False) & view.kept_flags, np.bool_)
    candidates.refuse("excluded", candidates.involve(gone))
    reasons = pc.if_else(pa.array(gone), f"clip: excluded: {IN_TEST}", whole(view.table["reason"]))
    return view.with_table(_replaced(view.table, "reason", reasons))


def _replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(column)
    return table.set_column(at, table.schema.field(at), values)


def _splits(
    tables: Tables,
    clips: Clips,
    view: SubjectView,
    candidates: Candidates,
    settings: SelectSettings,
) -> Splits:
    """Where every long video goes, and which clips are held out."""
    names = ["clip_id", "video_id", "long_video_id", "kind", "start_us", "end_us"]
    names += ["starts_with", "ends_with"]
    rows: list[Row] = tables["clips"].select(names).to_pylist()
    long_video = {row["clip_id"]: row["long_video_id"] for row in rows}
    near = clips.near
    edges = {(long_video[a], long_video[b]) for a, b in near}
    edges |= _shared_sources(view, candidates)
    splits = split_of_sources(
        set(long_video.values()), sorted((a, b) for a, b in edges if a != b), settings.split
    )
    return Splits(splits, heldout_clips(rows, near, settings.split))


def _shared_sources(view: SubjectView, candidates: Candidates) -> set[tuple[str, str]]:
    """Pairs of long videos that share an identity or an accepted pair."""
    source, names = codes(view.table["long_video_id"])
    identity, known = codes(view.table["identity_id"])
    kept = np.flatnonzero(view.kept_flags)
    first = np.full(len(known), -1, np.int64)
    first[identity[kept][::-1]] = source[kept][::-1]
    accepted = candidates.accepted()
    one = (first[identity[kept]], source[candidates.target[accepted]])
    other = (source[kept], source[candidates.reference[accepted]])
    pairs = np.unique(np.stack([np.concatenate(one), np.concatenate(other)]), axis=1)
    a, b = (names.take(pa.array(side)).to_pylist() for side in pairs)
    return set(zip(a, b, strict=True))


def _accepted(candidates: Candidates) -> Pairs:
    e, at = candidates.evidence, candidates.accepted()
    return Pairs(
        target=candidates.target[at].astype(np.int64),
        reference=candidates.reference[at].astype(np.int64),
        similarity=e.similarity[at],
        face=e.face_similarity[at],
        background=e.background_similarity[at],
    )
