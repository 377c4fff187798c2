"""The selection: measured tables and settings to subjects, pairs and samples.

A pure function. Changing a threshold and selecting again runs no model and keeps the ids of
unchanged samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.base import records
from s2v.datapipe.pair.clips import clip_reasons
from s2v.datapipe.pair.concepts import balance
from s2v.datapipe.pair.copies import FrameHashes, duplicates
from s2v.datapipe.pair.exclusions import Exclusion, ExclusionIndex
from s2v.datapipe.pair.identity import cluster, conflicts
from s2v.datapipe.pair.marks import unmarked
from s2v.datapipe.pair.retrieve import Candidates, Copies, clip_of, find_candidates
from s2v.datapipe.pair.rows import Row, Tables, by, read
from s2v.datapipe.pair.samples import SampleMaker, Splits
from s2v.datapipe.pair.settings import SelectSettings, ShardCounts
from s2v.datapipe.pair.split import heldout_clips, split_of_sources
from s2v.datapipe.pair.subjects import SubjectView, join_subjects
from s2v.datapipe.pair.verdicts import Verdicts
from s2v.datapipe.pair.verify import PairVerifier, RuleVerifier


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


CLIP_REASONS = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("concept", pa.string()),
    ]
)
BOX_REASONS = pa.schema(
    [pa.field(name, pa.string()) for name in ("detection_id", "subject_id", "reason")]
)

FACE_REASONS = pa.schema(
    [
        pa.field("frame_id", pa.string()),
        pa.field("face", pa.int64()),
        pa.field("reason", pa.string()),
    ]
)


def select(
    tables: Tables,
    settings: SelectSettings,
    exclusions: Iterable[Exclusion] = (),
    verifier: PairVerifier | None = None,
    verdicts: pa.Table | None = None,
) -> Selection:
    """Select subjects, pairs and samples.

    Args:
        tables: the measure tables by name (:mod:`s2v.datapipe.base.records`), rows in any
            order; tables that were not measured may be missing.
        settings: every threshold.
        exclusions: exclusion and takedown list.
        verifier: judge of pairs that pass all rules; the rules themselves by default.
        verdicts: rows of table VERDICTS of a second model; pairs without one do not pass. Without
            the table no second model is asked.

    Returns:
        Tables sorted by id; the same for any order of the input rows.

    Raises:
        ValueError: tables that contradict each other.
        SplitError: pinned sources that belong together.
    """
    excluded = ExclusionIndex(exclusions)
    clips = by(read(tables, "clips"), "clip_id")
    reasons = clip_reasons(tables, settings, excluded)
    hashes = FrameHashes(tables, settings.pair)
    alike = hashes.alike(settings.pair.frame_bits)
    passing = {c: row for c, row in clips.items() if reasons[c] is None}
    duplicate_of = duplicates(hashes, alike, passing, settings.pair)
    if not settings.clip.drop_duplicates:
        duplicate_of = {}
    alone = {c: row for c, row in passing.items() if c not in duplicate_of}
    balanced = balance(tables, alone, settings.clip)
    reasons |= balanced.full
    view = join_subjects(tables, reasons, settings, excluded)
    collapsed = _collapse(view, duplicate_of)
    reasons |= dict.fromkeys(duplicate_of, "clip: duplicate")

    copies = Copies(collapsed, duplicate_of)
    candidates = find_candidates(view.kept(), copies, hashes, settings, verifier or RuleVerifier())
    places = _places(candidates, view)
    columns = [[r[k] for r in view.rows] for k in ("subject_id", "detection_id", "bank")]
    bare = unmarked(columns[0], columns[1], columns[2], tables, settings.pair)
    candidates.refuse("no_mark", bare[places[0]] | bare[places[1]])
    if verdicts is not None:
        said = Verdicts(verdicts, [row["detection_id"] for row in view.rows], *places)
        candidates.hear(said.failed(candidates.accepted()), said.columns())
    identity = cluster(view.kept(), candidates, settings)
    candidates.refuse("identity_conflict", conflicts(candidates, identity))
    taken_down = _name_identities(view, identity, excluded)
    candidates.refuse("excluded", candidates.involve(taken_down))

    near = [(hashes.clips[i], hashes.clips[j]) for i, j, _ in alike]
    splits = split_of_sources(
        {row["long_video_id"] for row in clips.values()},
        _shared_sources(view.kept(), candidates, clips, near),
        settings.split,
    )
    held = heldout_clips(clips.values(), near, settings.split)
    maker = SampleMaker(tables, view, candidates, Splits(splits, held), settings)
    samples, refused = _without_excluded(maker.samples(), excluded)
    return Selection(
        clips=pa.Table.from_pylist(
            [
                {
                    "clip_id": c,
                    "reason": r,
                    "duplicate_of": duplicate_of.get(c),
                    "concept": balanced.concept.get(c),
                }
                for c, r in sorted(reasons.items())
            ],
            schema=CLIP_REASONS,
        ),
        boxes=pa.Table.from_pylist(
            sorted(view.boxes, key=lambda row: row["detection_id"]), schema=BOX_REASONS
        ),
        faces=pa.Table.from_pylist(view.faces, schema=FACE_REASONS),
        subjects=records.table("subjects", view.rows),
        pairs=records.table("pairs", candidates.rows()),
        samples=records.table("samples", samples),
        excluded_samples=refused,
        shards=settings.shards,
    )


def _places(candidates: Candidates, view: SubjectView) -> npt.NDArray[np.int64]:
    """Where the candidates' targets and references stand in ``view.rows``: ``[2, n]``."""
    place = {row["subject_id"]: n for n, row in enumerate(view.rows)}
    e = candidates.evidence
    ends = [[place[one] for one in side] for side in (e.target, e.reference)]
    return np.array(ends, np.int64).reshape(2, -1)


def _collapse(view: SubjectView, duplicate_of: dict[str, str]) -> list[Row]:
    """Drop the subjects of duplicate clips; return those that were fit otherwise."""
    collapsed = [row for row in view.kept() if row["clip_id"] in duplicate_of]
    for row in collapsed:
        row["reason"] = "clip: duplicate"
        view.passing.pop(row["subject_id"])
    return collapsed


def _name_identities(
    view: SubjectView, identity: dict[str, str], excluded: ExclusionIndex
) -> set[str]:
    """Fill ``identity_id``; drop, and return, the subjects whose identity is excluded."""
    taken_down = set()
    for row in view.kept():
        row["identity_id"] = identity[row["subject_id"]]
        if why := excluded.reason(row, "identity_id"):
            row["reason"] = f"identity: excluded: {why}"
            view.passing.pop(row["subject_id"])
            taken_down.add(row["subject_id"])
    return taken_down


def _shared_sources(
    subjects: list[Row],
    candidates: Candidates,
    clips: dict[str, Row],
    near: list[tuple[str, str]],
) -> list[tuple[str, str]]:
    """Pairs of long videos that must not be split."""
    first: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for row in subjects:
        source = row["long_video_id"]
        edges.append((first.setdefault(row["identity_id"], source), source))
    e = candidates.evidence
    pairs = [
        (clip_of(e.target[n]), clip_of(e.reference[n]))
        for n in np.flatnonzero(candidates.accepted())
    ]
    edges += [(clips[a]["long_video_id"], clips[b]["long_video_id"]) for a, b in pairs + near]
    return sorted({(a, b) for a, b in edges if a != b})


def _without_excluded(
    samples: list[Row], excluded: ExclusionIndex
) -> tuple[list[Row], dict[str, str]]:
    """Take out single samples that a reviewer refused; nothing takes their place."""
    refused = {
        row["sample_id"]: why for row in samples if (why := excluded.reason(row, "sample_id"))
    }
    return [row for row in samples if row["sample_id"] not in refused], refused
