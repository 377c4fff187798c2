"""Candidate pairs: priors restrict the search, then every rule is asked of every candidate.

Searches (Phantom-Data, steps 2 and 3):

- ``own``: inside the subject's long video; living subjects are searched there only.
- ``faces``: persons by face, in all other long videos and photographs.
- ``all``: things, everywhere.

Each search over-fetches, capped, until enough candidates pass. Clips with the same content
were collapsed before (:mod:`.copies`); what was collapsed is still listed as a candidate, so
that a reader sees that the copy was met and refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s2v.datapipe.pair.copies import NOT_COMPARED, FrameHashes, parse_hash
from s2v.datapipe.pair.index import cosine, exact_top
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.settings import SelectSettings
from s2v.datapipe.pair.verify import (
    VERIFIER_RULES,
    Evidence,
    Flags,
    PairVerifier,
    failed_rules,
)

Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass
class Candidates:
    """Candidate pairs with their evidence and the rules they fail.

    Attributes:
        evidence: ``n`` candidates, by target, search and descending similarity.
        failed: ``[n]`` flags per rule.
    """

    evidence: Evidence
    failed: dict[str, Flags]
    said: dict[str, list[str | None]] | None = None  # a second model's answers, by column

    def refuse(self, rule: str, flags: Flags) -> None:
        """Add a rule that some candidates fail."""
        self.failed[rule] = self.failed.get(rule, np.zeros(len(self.evidence), np.bool_)) | flags

    def hear(self, failed: dict[str, Flags], said: dict[str, pa.Array]) -> None:
        """Take in what a second model said: the rules that fail by it, and its answers."""
        for rule, flags in failed.items():
            self.refuse(rule, flags)
        self.said = {name: answers.to_pylist() for name, answers in said.items()}

    def accepted(self) -> Flags:
        """Candidates that fail no rule."""
        any_failed = np.zeros(len(self.evidence), np.bool_)
        for flags in self.failed.values():
            any_failed |= flags
        return ~any_failed

    def involve(self, subjects: set[str]) -> Flags:
        """Candidates with one of ``subjects`` on either side."""
        e = self.evidence
        return np.array(
            [t in subjects or r in subjects for t, r in zip(e.target, e.reference, strict=True)],
            np.bool_,
        )

    def rows(self) -> list[Row]:
        """Rows of table PAIRS, by target and rank."""
        e, accepted, ranks = self.evidence, self.accepted(), self._ranks()
        names = list(self.failed)
        table = np.stack([self.failed[name] for name in names], axis=1)
        rows = []
        for n in range(len(e)):
            target, reference = e.target[n], e.reference[n]
            rows.append(
                {
                    "target_subject_id": target,
                    "reference_subject_id": reference,
                    "target_clip_id": clip_of(target),
                    "reference_clip_id": clip_of(reference),
                    "bank": str(e.bank[n]),
                    "similarity": float(e.similarity[n]),
                    "face_similarity": _float(e.face_similarity[n]),
                    "background_similarity": _float(e.background_similarity[n]),
                    "phash_distance": _int(e.phash_distance[n]),
                    "face_phash_distance": _int(e.face_phash_distance[n]),
                    "frame_phash_distance": _int(e.frame_phash_distance[n]),
                    "gap_us": _int(e.gap_us[n]),
                    "rank": int(ranks[n]),
                    "rules": [names[i] for i in np.flatnonzero(table[n])],
                    "accepted": bool(accepted[n]),
                }
            )
        for name, answers in (self.said or {}).items():
            for row, answer in zip(rows, answers, strict=True):
                row[name] = answer
        return sorted(rows, key=lambda row: (row["target_subject_id"], row["rank"]))

    def _ranks(self) -> Ints:
        """Place among the target's candidates by descending similarity, from 0."""
        e = self.evidence
        order = sorted(range(len(e)), key=lambda n: (e.target[n], -e.similarity[n], e.reference[n]))
        ranks, seen = np.empty(len(e), np.int64), defaultdict[str, int](int)
        for n in order:
            ranks[n] = seen[e.target[n]]
            seen[e.target[n]] += 1
        return ranks


@dataclass(frozen=True)
class Copies:
    """Clips that others stand for.

    Attributes:
        subjects: rows of SUBJECTS of clips dropped as duplicates; listed as candidates of
            the clip that stands for them, never indexed.
        of: duplicate clip to the clip that is kept.
    """

    subjects: list[Row]
    of: dict[str, str]


def clip_of(subject_id: str) -> str:
    """The clip of a subject: ``<clip_id>-s<n>``."""
    return subject_id.rsplit("-", 1)[0]


def find_candidates(
    subjects: list[Row],
    copies: Copies,
    hashes: FrameHashes,
    settings: SelectSettings,
    verifier: PairVerifier,
) -> Candidates:
    """Search, judge and cap the candidates of every subject.

    Args:
        subjects: kept rows of SUBJECTS, sorted by id.
        copies: what was collapsed.
        hashes: perceptual hashes of all frames.
        settings: thresholds.
        verifier: asked about what passes all rules.
    """
    everyone = subjects + copies.subjects
    search = _Search(subjects, settings)
    proposals = search.own() + search.faces() + search.everywhere()
    proposals += _collapsed_pairs(subjects, copies)
    evidence = _evidence(everyone, proposals, copies.of, hashes)
    failed = failed_rules(evidence, settings)
    candidates = _first_passing(
        Candidates(evidence, failed), [p.search for p in proposals], settings.retrieval.candidates
    )
    _ask(candidates, verifier)
    return candidates


@dataclass(frozen=True)
class _Proposal:
    target: int
    reference: int
    search: str
    order: float  # similarity the search went by; higher first


class _Search:
    """The three searches over kept subjects; positions are indices into them."""

    def __init__(self, subjects: list[Row], settings: SelectSettings) -> None:
        self.subjects = subjects
        self.settings = settings

    def own(self) -> list[_Proposal]:
        """Other clips of the same long video, for banks not searched everywhere."""
        groups = self._groups(
            lambda s: (s["bank"], s["embedder"], s["long_video_id"]),
            lambda s: self.settings.pair.of(s["bank"]).across_sources != "yes",
        )
        return self._within(groups, "own", "embedding")

    def everywhere(self) -> list[_Proposal]:
        """All sources at once, for banks searched everywhere."""
        groups = self._groups(
            lambda s: (s["bank"], s["embedder"]),
            lambda s: self.settings.pair.of(s["bank"]).across_sources == "yes",
        )
        return self._within(groups, "all", "embedding")

    def faces(self) -> list[_Proposal]:
        """Faces in other long videos and photographs."""
        groups = self._groups(
            lambda s: (s["bank"], s["face_embedder"], s["embedder"]),
            lambda s: (
                s["face_embedding"] is not None
                and self.settings.pair.of(s["bank"]).across_sources == "faces"
            ),
        )
        found: list[_Proposal] = []
        for members in groups:
            own: dict[str, list[int]] = defaultdict(list)
            for n in members:
                own[self.subjects[n]["long_video_id"]].append(n)
            for queries in own.values():
                mine = set(queries)
                bank = [n for n in members if n not in mine]
                found += self._top(queries, bank, "faces", "face_embedding")
        return found

    def _groups(
        self, key: Callable[[Row], tuple[str | None, ...]], admitted: Callable[[Row], bool]
    ) -> list[list[int]]:
        groups: dict[tuple[str | None, ...], list[int]] = defaultdict(list)
        for n, subject in enumerate(self.subjects):
            if admitted(subject):
                groups[key(subject)].append(n)
        return list(groups.values())

    def _within(self, groups: Iterable[list[int]], search: str, column: str) -> list[_Proposal]:
        return [p for members in groups for p in self._top(members, members, search, column)]

    def _top(
        self, queries: list[int], bank: list[int], search: str, column: str
    ) -> list[_Proposal]:
        """Up to ``overfetch`` neighbours in other clips, per query."""
        if not queries or not bank:
            return []
        cap = self.settings.retrieval.overfetch
        clips = [self.subjects[n]["clip_id"] for n in bank]
        most = max(clips.count(c) for c in set(clips)) if queries is bank else 0
        found, similarity = exact_top(
            vectors(self.subjects, queries, column),
            vectors(self.subjects, bank, column),
            cap + most,
            self.settings.retrieval.backend,
        )
        proposals = []
        for row, query in enumerate(queries):
            own_clip, taken = self.subjects[query]["clip_id"], 0
            for at, value in zip(found[row], similarity[row], strict=True):
                if clips[at] == own_clip:
                    continue
                if taken == cap:
                    break
                proposals.append(_Proposal(query, bank[at], search, float(value)))
                taken += 1
        return proposals


def vectors(rows: list[Row], at: Iterable[int], column: str) -> Vectors:
    """Stack one embedding column, ``[n, d]`` float32."""
    return np.array([rows[n][column] for n in at], np.float32)


def _collapsed_pairs(subjects: list[Row], copies: Copies) -> list[_Proposal]:
    """A collapsed clip's subjects against those of the clip that stands for it."""
    kept: dict[str, list[int]] = defaultdict(list)
    for n, subject in enumerate(subjects):
        kept[subject["clip_id"]].append(n)
    found = []
    for offset, subject in enumerate(copies.subjects):
        for n in kept.get(copies.of[subject["clip_id"]], []):
            if all(subjects[n][k] == subject[k] for k in ("bank", "embedder")):
                found.append(_Proposal(n, len(subjects) + offset, "copy", 0.0))
    return found


def _evidence(
    subjects: list[Row],
    proposals: list[_Proposal],
    duplicate_of: dict[str, str],
    hashes: FrameHashes,
) -> Evidence:
    proposals.sort(
        key=lambda p: (
            subjects[p.target]["subject_id"],
            p.search,
            -p.order,
            subjects[p.reference]["subject_id"],
        )
    )
    pairs = [(subjects[p.target], subjects[p.reference]) for p in proposals]
    clip = hashes.index
    frame = hashes.distance(
        [clip[a["clip_id"]] for a, _ in pairs], [clip[b["clip_id"]] for _, b in pairs]
    )

    def flags(test: Callable[[Row, Row], bool]) -> Flags:
        return np.array([test(a, b) for a, b in pairs], np.bool_)

    def content(row: Row) -> str:
        name: str = row["clip_id"]
        return duplicate_of.get(name, name)

    return Evidence(
        target=[a["subject_id"] for a, _ in pairs],
        reference=[b["subject_id"] for _, b in pairs],
        bank=np.array([a["bank"] for a, _ in pairs], np.str_),
        similarity=_cosines(pairs, "embedding", "embedder"),
        face_similarity=_cosines(pairs, "face_embedding", "face_embedder"),
        background_similarity=_cosines(pairs, "background", "embedder"),
        phash_distance=np.array([_bits(a, b, "crop_phash") for a, b in pairs], np.int64),
        face_phash_distance=np.array([_bits(a, b, "face_phash") for a, b in pairs], np.int64),
        frame_phash_distance=np.where(frame == NOT_COMPARED, -1, frame),
        gap_us=np.array([_gap(a, b) for a, b in pairs], np.int64),
        same_clip=flags(lambda a, b: a["clip_id"] == b["clip_id"]),
        same_frame=flags(lambda a, b: (a["video_id"], a["pts_us"]) == (b["video_id"], b["pts_us"])),
        same_long_video=flags(lambda a, b: a["long_video_id"] == b["long_video_id"]),
        same_noun=flags(lambda a, b: a["noun"] == b["noun"]),
        duplicate=flags(lambda a, b: content(a) == content(b) and a["clip_id"] != b["clip_id"]),
    )


def _cosines(pairs: list[tuple[Row, Row]], column: str, embedder: str) -> npt.NDArray[np.float64]:
    """Cosine of one embedding column, NaN where one side lacks it or the embedders differ."""
    found = np.full(len(pairs), np.nan)
    at = [
        n
        for n, (a, b) in enumerate(pairs)
        if a[column] is not None and b[column] is not None and a[embedder] == b[embedder]
    ]
    for begin in range(0, len(at), 8192):
        part = at[begin : begin + 8192]
        a = np.array([pairs[n][0][column] for n in part], np.float32)
        b = np.array([pairs[n][1][column] for n in part], np.float32)
        found[part] = cosine(a, b)
    return found


def _bits(a: Row, b: Row, column: str) -> int:
    first, second = parse_hash(a[column]), parse_hash(b[column])
    if first is None or second is None:
        return -1
    return (first ^ second).bit_count()


def _gap(a: Row, b: Row) -> int:
    """Time between two clips of one file; 0 where they touch, -1 across files."""
    if a["video_id"] != b["video_id"] or a["kind"] == "image":
        return -1
    return max(0, int(a["start_us"] - b["end_us"]), int(b["start_us"] - a["end_us"]))


def _first_passing(found: Candidates, searches: list[str], wanted: int) -> Candidates:
    """Cut each target's list, per search, after the ``wanted``-th candidate that passes.

    A pair that two searches found is kept once.
    """
    passing = found.accepted()
    e = found.evidence
    keep: list[int] = []
    count: dict[tuple[str, str], int] = defaultdict(int)
    seen: set[tuple[str, str]] = set()
    for n, search in enumerate(searches):
        key, pair = (e.target[n], search), (e.target[n], e.reference[n])
        if count[key] >= wanted or pair in seen:
            continue
        seen.add(pair)
        keep.append(n)
        count[key] += bool(passing[n])
    at = np.array(keep, np.int64)
    return Candidates(e.take(at), {name: flags[at] for name, flags in found.failed.items()})


def _ask(candidates: Candidates, verifier: PairVerifier) -> None:
    at = np.flatnonzero(candidates.accepted())
    verdicts = verifier.verify(candidates.evidence, at)
    if len(verdicts) != len(at):
        raise ValueError(
            f"verifier {verifier.verifier_id!r} gave {len(verdicts)} verdicts on {len(at)} pairs"
        )
    for rule, answer in zip(VERIFIER_RULES, ("same_identity", "different_context"), strict=True):
        flags = np.zeros(len(candidates.evidence), np.bool_)
        flags[at] = [getattr(verdict, answer) != "yes" for verdict in verdicts]
        candidates.refuse(rule, flags)


def _float(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _int(value: int) -> int | None:
    return None if value < 0 else int(value)
