"""The first steps of the selection, each a pure function of what is named here, and kept.

1. clips: which clips may be used, which repeat others, which are near copies.
2. subjects: the join of everything measured of them.
3. found: who is near whom, with all evidence; the only step that looks at vectors.

Each is given just the settings that it reads: all others are at their defaults, so a result
cannot depend on what its fingerprint does not cover. What follows (:mod:`.judge`, identities,
splits, samples) takes seconds and is done anew each time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base.exclusions import Exclusion, ExclusionIndex
from s2v.datapipe.pair import columns
from s2v.datapipe.pair.ann import Opener, in_memory
from s2v.datapipe.pair.clips import clip_reasons
from s2v.datapipe.pair.columns import Floats
from s2v.datapipe.pair.concepts import balance
from s2v.datapipe.pair.copies import FrameHashes, duplicates
from s2v.datapipe.pair.evidence import SEARCHES, Evidence
from s2v.datapipe.pair.identity import FaceBank, Links, find_faces
from s2v.datapipe.pair.pool import Bank, Pool
from s2v.datapipe.pair.retrieve import find_candidates, floors
from s2v.datapipe.pair.rows import Row, Tables
from s2v.datapipe.pair.settings import BANKS, FaceRules, PairRules, SelectSettings
from s2v.datapipe.pair.stepstore import StepStore, digest_of, fingerprint
from s2v.datapipe.pair.subjects import DUPLICATE, SubjectView, join_subjects

CLIP_REASONS: Final = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("concept", pa.string()),
    ]
)
_NEAR: Final = pa.schema([pa.field("a", pa.string()), pa.field("b", pa.string())])
_LINKS: Final = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("strength", pa.float64())])
_VIEW: Final = ("subjects", "passing", "boxes", "faces")
#: Settings of the clip step, and of the search, among those on pairs.
_COPIES: Final = (
    *("frame_bits", "duplicate_frames", "repeat_bits", "repeat_gap_seconds"),
    "min_frame_detail",
)
#: Settings on faces that are asked of pairs only.
_ASKED_LATER: Final = {
    **{"candidates": 1, "verifier_rounds": 1},
    **{"floor_margin": None, "hub_above": None, "hub_floor": 1},
}
_OF_PAIRS: Final = ("face_weight", "lower", "upper", "different")


@dataclass(frozen=True)
class Clips:
    """What the first step says.

    Attributes:
        table: ``clip_id``, ``reason`` (null when kept), ``duplicate_of``, ``concept``, by id.
        alike: pairs of clips with a frame that is a near copy of the other's.
        digest: of the table.
    """

    table: pa.Table
    alike: pa.Table
    digest: str

    @cached_property
    def ids(self) -> pa.Array:
        """All clip ids, sorted."""
        return columns.whole(self.table["clip_id"])

    @cached_property
    def duplicate_of(self) -> dict[str, str]:
        """Duplicate clip to the one that stands for it."""
        rows = self.table.filter(pc.is_valid(self.table["duplicate_of"]))
        return dict(zip(rows["clip_id"].to_pylist(), rows["duplicate_of"].to_pylist(), strict=True))

    @cached_property
    def near(self) -> list[tuple[str, str]]:
        """Rows of ``alike``."""
        return list(zip(*(self.alike[side].to_pylist() for side in ("a", "b")), strict=True))


@dataclass(frozen=True)
class Found:
    """What the search says: every candidate's evidence, and the faces of identities."""

    evidence: Evidence
    faces: FaceBank


class Steps:
    """Does the steps, or reads what they made of the same before.

    Args:
        folder: where results are kept; ``None`` keeps nothing.
        measured: digest of everything in the tables; another one for other rows.
        opener: what makes a bank ready to be searched; the answer is for the settings alone to say.
    """

    def __init__(
        self, folder: Path | None = None, measured: str = "", opener: Opener = in_memory
    ) -> None:
        if folder is not None and not measured:
            raise ValueError(f"{folder}: results can only be kept under a digest of the tables")
        self._store = None if folder is None else StepStore(folder)
        self._measured = measured
        self._opener = opener

    def clips(
        self, tables: Tables, settings: SelectSettings, exclusions: tuple[Exclusion, ...]
    ) -> Clips:
        """Step 1."""
        reads = SelectSettings(
            source=settings.source,
            clip=settings.clip,
            people=settings.people,
            pair=_some(PairRules(), settings.pair, _COPIES),
        )
        if settings.clip.max_per_concept is not None:  # counts clips that have a fit subject
            reads = reads.model_copy(update=_of_subjects(settings))
        key = self._key("clips", reads, [_plain(one) for one in exclusions])
        if self._store and (about := self._store.about("clips", key)):
            table, alike = (self._store.load(name, key) for name in ("clips", "near"))
            if table is not None and alike is not None:
                return Clips(table, alike, about[0])
        made = _clips(tables, reads, ExclusionIndex(exclusions))
        if self._store:
            self._store.save("near", key, made.alike)
            self._store.save("clips", key, made.table)
        return made

    def subjects(
        self,
        tables: Tables,
        settings: SelectSettings,
        exclusions: tuple[Exclusion, ...],
        clips: Clips,
    ) -> tuple[SubjectView, str]:
        """Step 2, and the digest of table SUBJECTS."""
        reads = SelectSettings(people=settings.people, **_of_subjects(settings))
        said = [_plain(one) for one in exclusions if one.key_type == "subject_id"]
        key = self._key("subjects", reads, said, clips.digest)
        if self._store and (about := self._store.about("subjects", key)):
            parts = [self._store.load(name, key) for name in _VIEW]
            if all(part is not None for part in parts):
                return SubjectView(*parts), about[0]
        view = _subjects(tables, reads, ExclusionIndex(exclusions), clips)
        if not self._store:
            return view, ""
        made = (view.table, view.detections, view.boxes, view.faces)
        for name, table in reversed(list(zip(_VIEW, made, strict=True))):
            self._store.save(name, key, table)
        return view, digest_of(view.table)

    def found(
        self, tables: Tables, settings: SelectSettings, digest: str, pool: Pool, clips: Clips
    ) -> Found:
        """Step 3; candidates below the floor of today's bounds are left out."""
        floor = floors(settings)
        made = self._found(tables, settings, digest, pool, clips, floor)
        e = made.evidence
        above = e.order >= floor[e.search, e.bank_at]
        return made if above.all() else Found(e.take(above), made.faces)

    def _found(
        self,
        tables: Tables,
        settings: SelectSettings,
        digest: str,
        pool: Pool,
        clips: Clips,
        floor: Floats,
    ) -> Found:
        reads = SelectSettings(
            pair=_some(PairRules(), settings.pair, ["min_frame_detail"]).model_copy(
                update={
                    bank: _some(PairRules().of(bank), settings.pair.of(bank), ["across_sources"])
                    for bank in BANKS
                }
            ),
            face=_some(FaceRules(), settings.face, ["face_weight"]),
            retrieval=settings.retrieval.model_copy(update=_ASKED_LATER),
        )
        key = self._key("found", reads, digest, clips.digest)
        if self._store and (kept := _kept(self._store, key, pool, floor)):
            return kept
        bank = Bank(pool, tables)
        hashes = FrameHashes(tables, reads.pair)
        evidence = find_candidates(pool, bank, hashes, reads, floor, self._opener)
        least = float(floor[SEARCHES.index("faces")].min())
        faces = find_faces(pool, bank, least, reads, self._opener)
        if self._store:
            self._store.save_array("face-vectors", key, faces.vectors)
            links = {"a": faces.links.a, "b": faces.links.b, "strength": faces.links.strength}
            said = zlib.crc32(np.ascontiguousarray(faces.vectors).data)
            self._store.save("links", key, pa.table(links, schema=_LINKS), said)
            self._store.save("found", key, _table(evidence), np.nan_to_num(floor).tolist())
        return Found(evidence, faces)

    def _key(self, step: str, reads: SelectSettings, *parts: object) -> str:
        return fingerprint(step, self._measured, reads.model_dump(mode="json"), *parts)


def _some(default: Any, settings: Any, names: Any) -> Any:
    """Defaults but for the named values."""
    return default.model_copy(update={name: getattr(settings, name) for name in names})


def _of_subjects(settings: SelectSettings) -> dict[str, Any]:
    """The settings that the join of subjects reads."""
    names = [name for name in FaceRules.model_fields if name not in _OF_PAIRS]
    sections = {name: getattr(settings, name) for name in ("phrase", "detection", "mask")}
    return {**sections, "face": _some(FaceRules(), settings.face, names)}


def _plain(exclusion: Exclusion) -> dict[str, str]:
    return exclusion.model_dump(mode="json")


def _clips(tables: Tables, settings: SelectSettings, excluded: ExclusionIndex) -> Clips:
    reasons = clip_reasons(tables, settings, excluded)
    hashes = FrameHashes(tables, settings.pair)
    alike = hashes.alike(settings.pair.frame_bits)
    names = ["clip_id", "video_id", "kind", "start_us", "end_us"]
    rows: list[Row] = tables["clips"].select(names).to_pylist() if "clips" in tables else []
    passing = {row["clip_id"]: row for row in rows if reasons[row["clip_id"]] is None}
    duplicate_of = duplicates(hashes, alike, passing, settings.pair)
    if not settings.clip.drop_duplicates:
        duplicate_of = {}
    alone = {c: row for c, row in passing.items() if c not in duplicate_of}
    if settings.clip.max_per_concept is not None:
        # A clip of which no sample can be made takes no place from one that can.
        fit = join_subjects(tables, reasons, settings, excluded, duplicate_of).kept_table()
        named = set(fit["clip_id"].to_pylist())
        alone = {clip: row for clip, row in alone.items() if clip in named}
    balanced = balance(tables, alone, settings.clip)
    reasons |= balanced.full
    reasons |= dict.fromkeys(duplicate_of, DUPLICATE)
    ids = sorted(reasons)
    table = pa.table(
        {
            "clip_id": ids,
            "reason": [reasons[clip] for clip in ids],
            "duplicate_of": [duplicate_of.get(clip) for clip in ids],
            "concept": [balanced.concept.get(clip) for clip in ids],
        },
        schema=CLIP_REASONS,
    )
    near = np.array([(i, j) for i, j, _ in alike], np.int64).reshape(-1, 2)
    sides = {
        name: table["clip_id"].take(pa.array(at)) for name, at in zip("ab", near.T, strict=True)
    }
    return Clips(table, pa.table(sides, schema=_NEAR), digest_of(table))


def _subjects(
    tables: Tables, settings: SelectSettings, excluded: ExclusionIndex, clips: Clips
) -> SubjectView:
    reasons = dict(zip(clips.ids.to_pylist(), clips.table["reason"].to_pylist(), strict=True))
    reasons |= dict.fromkeys(clips.duplicate_of)
    return join_subjects(tables, reasons, settings, excluded, clips.duplicate_of)


def _table(evidence: Evidence) -> pa.Table:
    """Evidence as columns; the ids are those of table SUBJECTS."""
    names = [field.name for field in fields(evidence) if field.name != "ids"]
    return pa.table({name: getattr(evidence, name) for name in names})


def _kept(store: StepStore, key: str, pool: Pool, floor: Floats) -> Found | None:
    """What was found before, if the search went down to ``floor`` at least."""
    about, links = store.about("found", key), store.load("links", key)
    vectors = store.load_array("face-vectors", key)
    if about is None or links is None or vectors is None:
        return None
    said = store.about("links", key)  # an array has no checksum of its own
    if said is None or said[1] != zlib.crc32(np.ascontiguousarray(vectors).data):
        return None
    if (np.array(about[1]) > np.nan_to_num(floor)).any():
        return None
    found: dict[str, Any] = {}
    for field in fields(Evidence):
        if field.name == "ids":
            continue
        # One after the other: each is held twice while its pieces are joined.
        column = store.load("found", key, [field.name])
        if column is None:
            return None
        found[field.name] = columns.whole(column[field.name]).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(pool.kept & (pool.face_embedder >= 0))
    sides = (links[name].to_numpy() for name in ("a", "b", "strength"))
    return Found(Evidence(ids=pool.ids, **found), FaceBank(at, vectors, Links(*sides)))
