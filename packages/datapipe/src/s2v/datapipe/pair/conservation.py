"""Nothing gets lost: in = kept + dropped by reason + quarantined, for every table.

Fan-out is counted, every moment of a source lies in a clip or in a dropped span with a
reason, and the samples are what the pairs say. :func:`check` raises when any of it fails,
and otherwise returns the funnel that the report shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from s2v.datapipe.base import ids
from s2v.datapipe.pair.evidence import RULES, clip_of
from s2v.datapipe.pair.rows import KEYS, Row, Tables, by, group, read
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import SelectSettings

_SHOWN = 10
_LOST = "lost"
_PARENTS = (
    ("probe", "video_id", "sources"),
    ("spans", "video_id", "sources"),
    ("clips", "video_id", "sources"),
    ("frames", "clip_id", "clips"),
    ("overlays", "clip_id", "clips"),
    ("quality", "clip_id", "clips"),
    ("captions", "clip_id", "clips"),
    ("phrases", "clip_id", "clips"),
    ("detections", "subject_id", "phrases"),
    ("detections", "frame_id", "frames"),
    ("masks", "detection_id", "detections"),
    ("embeddings", "detection_id", "detections"),
    ("faces", "frame_id", "frames"),
    ("people", "clip_id", "clips"),
)


class ConservationError(RuntimeError):
    """Rows that are neither kept nor dropped nor quarantined, or are so twice."""


@dataclass(frozen=True)
class Ledger:
    """One line of the funnel: ``entered == kept + sum(dropped) + quarantined``.

    Attributes:
        table: what is counted.
        unit: ``rows`` or ``us`` (time of sources).
        entered: how many there were.
        kept: how many go on.
        dropped: how many do not, by reason.
        quarantined: how many could not be measured.
    """

    table: str
    entered: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    unit: str = "rows"

    def missing(self) -> int:
        """Entered, less everything accounted for; 0 when it adds up."""
        return self.entered - self.kept - sum(self.dropped.values()) - self.quarantined


@dataclass(frozen=True)
class Report:
    """The funnel, in the order of the pipeline.

    Attributes:
        ledgers: one per table.
        rules: how many candidate pairs fail each rule; one may fail several.
        samples: how many samples of each pair type, split and scenario.
    """

    ledgers: tuple[Ledger, ...]
    rules: dict[str, int]
    samples: dict[str, int]

    def funnel(self) -> list[dict[str, Any]]:
        """Rows ``{table, unit, outcome, reason, count}`` for reports, in funnel order."""
        rows = []
        for ledger in self.ledgers:
            head = {"table": ledger.table, "unit": ledger.unit}
            rows.append({**head, "outcome": "entered", "reason": None, "count": ledger.entered})
            rows.append({**head, "outcome": "kept", "reason": None, "count": ledger.kept})
            rows += [
                {**head, "outcome": "dropped", "reason": reason, "count": count}
                for reason, count in sorted(ledger.dropped.items(), key=lambda d: (-d[1], d[0]))
            ]
            if ledger.quarantined:
                count = ledger.quarantined
                rows.append({**head, "outcome": "quarantined", "reason": None, "count": count})
        return rows


def check(tables: Tables, selection: Selection, settings: SelectSettings) -> Report:
    """Check the conservation of everything and return the funnel.

    Raises:
        ConservationError: with the first violations and how many there are in all.
    """
    checker = _Checker(tables, selection, settings)
    problems = [
        *checker.unique_keys(),
        *checker.parents(),
        *checker.sources(),
        *checker.time(),
        *checker.fan_out(),
        *checker.pairs(),
        *checker.samples(),
        *checker.splits(),
    ]
    report = checker.report()
    problems += [
        f"{ledger.table}: {ledger.entered} entered, {ledger.missing()} of them unaccounted for"
        for ledger in report.ledgers
        if ledger.missing()
    ]
    problems += [
        f"{ledger.table}: {ledger.dropped[_LOST]} have fit subjects but no sample"
        for ledger in report.ledgers
        if _LOST in ledger.dropped
    ]
    if problems:
        more = len(problems) - _SHOWN
        lines = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise ConservationError(
            "rows were lost or made up; this is a defect of the pipeline, not of the input:\n  "
            + "\n  ".join(lines)
        )
    return report


class _Checker:
    def __init__(self, tables: Tables, selection: Selection, settings: SelectSettings) -> None:
        self.rows = {name: read(tables, name) for name in KEYS if name in tables}
        for name in ("subjects", "pairs", "samples"):
            self.rows[name] = read({name: getattr(selection, name)}, name)
        self.clip_rows = selection.clips.to_pylist()
        self.box_rows = selection.boxes.to_pylist()
        self.face_rows = selection.faces.to_pylist()
        self.excluded_samples = selection.excluded_samples
        self.sample_rows = selection.sample_reasons.to_pylist()
        self.settings = settings
        self.reason = {row["clip_id"]: row["reason"] for row in self.clip_rows}
        self.quarantined = {row["id"] for row in self.of("quarantine")}

    def of(self, table: str) -> list[Row]:
        return self.rows.get(table, [])

    def unique_keys(self) -> Iterator[str]:
        for name in sorted(set(self.rows) - {"quarantine"}):
            seen = Counter(tuple(row[k] for k in KEYS[name]) for row in self.of(name))
            for key, count in seen.items():
                if count > 1:
                    yield f"{name}: {'/'.join(map(str, key))} is there {count} times"

    def parents(self) -> Iterator[str]:
        for child, column, parent in _PARENTS:
            known = {row[KEYS[parent][0]] for row in self.of(parent)}
            for row in self.of(child):
                if row[column] not in known:
                    yield f"{child}: {column} {row[column]!r} is not in table {parent}"

    def sources(self) -> Iterator[str]:
        probed = {row["video_id"] for row in self.of("probe")}
        for row in self.of("sources"):
            video = row["video_id"]
            if video not in probed and video not in self.quarantined:
                yield f"sources: {video!r} is neither probed nor quarantined"

    def _scanned(self) -> list[Row]:
        """Probes of videos whose every moment must be accounted for."""
        kinds = {row["video_id"]: row["kind"] for row in self.of("sources")}
        return [
            row
            for row in self.of("probe")
            if row["reason"] is None
            and kinds.get(row["video_id"]) != "image"
            and row["video_id"] not in self.quarantined
        ]

    def time(self) -> Iterator[str]:
        spans = group(self.of("spans"), "video_id")
        clips = by(self.of("clips"), "clip_id")
        for probe in self._scanned():
            video, found = probe["video_id"], spans.get(probe["video_id"], [])
            if not found:
                yield f"spans: {video!r} has none for its {probe['duration_us']} us"
                continue
            edges = [(0, 0), *((s["start_us"], s["end_us"]) for s in found)]
            edges.append((probe["duration_us"], probe["duration_us"]))
            for (_, end), (start, _) in pairwise(edges):
                if start != end:
                    what = "lost" if start > end else "there twice"
                    first, last = sorted((start, end))
                    yield f"spans: {video!r} between {first} and {last} us is {what}"
        listed = set()
        for span in self.of("spans"):
            if (span["clip_id"] is None) == (span["reason"] is None):
                at = f"{span['video_id']!r} at {span['start_us']} us"
                yield f"spans: {at} needs a clip or a reason"
            if span["clip_id"] is not None:
                listed.add(span["clip_id"])
                clip = clips.get(span["clip_id"])
                times = (span["start_us"], span["end_us"])
                if clip is None or (clip["start_us"], clip["end_us"]) != times:
                    yield f"spans: clip {span['clip_id']!r} is not in table clips with these times"
        for clip in self.of("clips"):
            if clip["kind"] != "image" and clip["clip_id"] not in listed:
                yield f"clips: {clip['clip_id']!r} is in no span"

    def fan_out(self) -> Iterator[str]:
        yield from _same_ids("clips", self.of("clips"), self.clip_rows, "clip_id")
        yield from _same_ids("subjects", self.of("phrases"), self.of("subjects"), "subject_id")
        yield from _same_ids("boxes", self.of("detections"), self.box_rows, "detection_id")
        yield from _same_ids("faces", self.of("faces"), self.face_rows, "frame_id", "face")
        for table in ("frames", "overlays", "quality", "captions"):
            known = {row["clip_id"] for row in self.of(table)}
            for clip, reason in self.reason.items():
                if reason is None and clip not in known:
                    yield f"{table}: kept clip {clip!r} has no row, no reason and no quarantine"

    def pairs(self) -> Iterator[str]:
        known = {row["subject_id"] for row in self.of("subjects")}
        for row in self.of("pairs"):
            name = f"pairs: {row['target_subject_id']} with {row['reference_subject_id']}"
            if row["accepted"] != (not row["rules"]):
                yield f"{name} is accepted={row['accepted']} but fails {row['rules']}"
            if not {row["target_subject_id"], row["reference_subject_id"]} <= known:
                yield f"{name}: unknown subject"

    def samples(self) -> Iterator[str]:
        kept_samples = [row for row in self.sample_rows if row["reason"] is None]
        yield from _same_ids("samples", kept_samples, self.of("samples"), "sample_id")
        accepted = {
            (row["target_subject_id"], row["reference_subject_id"])
            for row in self.of("pairs")
            if row["accepted"]
        }
        fit = {row["detection_id"] for row in self.box_rows if row["reason"] is None}
        kept = {row["subject_id"] for row in self.of("subjects") if row["reason"] is None}
        seen = Counter((row["clip_id"], row["pair_type"]) for row in self.of("samples"))
        yield from (f"samples: {c} has {n} {t!r} samples" for (c, t), n in seen.items() if n > 1)
        for row in self.of("samples"):
            name, refs = f"samples: {row['sample_id']}", row["references"]
            wanted = ids.sample_id(
                row["pair_type"], row["clip_id"], [ref["detection_id"] for ref in refs]
            )
            if row["sample_id"] != wanted:
                yield f"{name} should be {wanted}"
            if self.reason.get(row["clip_id"], "unknown") is not None:
                yield f"{name} is of dropped clip {row['clip_id']}"
            if not 1 <= len(refs) <= self.settings.sample.max_references:
                yield f"{name} has {len(refs)} references"
            for ref in refs:
                ends = (ref["subject_id"], ref["reference_subject_id"])
                if clip_of(ref["subject_id"]) != row["clip_id"] or not set(ends) <= kept:
                    yield f"{name}: {ends} are no kept subjects of its clip"
                if row["pair_type"] != "in" and ends not in accepted:
                    yield f"{name}: {ends} is no accepted pair"
                if ref["detection_id"] not in fit:
                    yield f"{name}: {ref['detection_id']} fails a rule"

    def splits(self) -> Iterator[str]:
        identity = {row["subject_id"]: row["identity_id"] for row in self.of("subjects")}
        seen: dict[str, str] = {}
        for row in self.of("samples"):
            refs = [r[k] for r in row["references"] for k in ("subject_id", "reference_subject_id")]
            for key in sorted({row["long_video_id"], *(identity.get(r) or r for r in refs)}):
                if seen.setdefault(key, row["split"]) != row["split"]:
                    yield f"samples: {key!r} is in train and in test"
            if row["heldout"] and row["split"] != "train":
                yield f"samples: {row['sample_id']} is held out of a split it is not in"

    def report(self) -> Report:
        pairs = self.of("pairs")
        samples = self.of("samples")
        tally: Counter[str] = Counter()
        for row in samples:
            tally.update((row["pair_type"], row["split"], row["scenario"]))
            tally.update(("heldout",) if row["heldout"] else ())
        failed = Counter(rule for row in pairs for rule in row["rules"])
        order = {rule: n for n, rule in enumerate(RULES)}
        first = [min(row["rules"], key=order.__getitem__, default=None) for row in pairs]
        return Report(
            ledgers=(
                self._sources(),
                self._time(),
                _ledger("clips", [row["reason"] for row in self.clip_rows]),
                _ledger("subjects", [row["reason"] for row in self.of("subjects")]),
                _ledger("boxes", [row["reason"] for row in self.box_rows]),
                _ledger("faces", [row["reason"] for row in self.face_rows]),
                _ledger("pairs", first),
                _ledger("samples", [row["reason"] for row in self.sample_rows]),
                _ledger("clips with a sample", self._clip_outcomes()),
            ),
            rules={rule: failed[rule] for rule in RULES if failed[rule]},
            samples=dict(sorted(tally.items())),
        )

    def _sources(self) -> Ledger:
        reasons = {row["video_id"]: row["reason"] for row in self.of("probe")}
        return _ledger(
            "sources",
            [
                "quarantined"
                if row["video_id"] in self.quarantined
                else reasons.get(row["video_id"])
                for row in self.of("sources")
            ],
        )

    def _time(self) -> Ledger:
        """Microseconds of the videos that were scanned."""
        scanned = self._scanned()
        videos = {row["video_id"] for row in scanned}
        dropped: Counter[str] = Counter()
        kept = 0
        for span in self.of("spans"):
            if span["video_id"] in videos:
                length = span["end_us"] - span["start_us"]
                if span["reason"] is None:
                    kept += length
                else:
                    dropped[span["reason"]] += length
        total = sum(row["duration_us"] for row in scanned)
        return Ledger("time", total, kept, dict(sorted(dropped.items())), unit="us")

    def _clip_outcomes(self) -> list[str | None]:
        """Why a kept clip has no sample."""
        sampled = {row["clip_id"] for row in self.of("samples")}
        phrased = {row["clip_id"] for row in self.of("phrases")}
        fit = {row["clip_id"] for row in self.of("subjects") if row["reason"] is None}
        images = {row["clip_id"] for row in self.of("clips") if row["kind"] == "image"}
        dropped = {row["clip_id"]: row["reason"] for row in self.sample_rows if row["reason"]}
        found: list[str | None] = []
        for clip in (row["clip_id"] for row in self.clip_rows if row["reason"] is None):
            if clip in sampled:
                found.append(None)
            elif clip in images:
                found.append("photograph, for reference only")
            elif clip not in phrased:
                found.append("no subject in the caption")
            elif clip not in fit:
                found.append("no subject kept")
            elif clip in dropped:
                found.append(dropped[clip].partition(":")[0])
            elif self.excluded_samples:
                found.append("excluded")
            else:
                found.append(_LOST)  # every fit subject gives an in-pair
        return found


def _same_ids(name: str, before: Iterable[Row], after: Iterable[Row], *key: str) -> Iterator[str]:
    one, other = ({tuple(row[k] for k in key) for row in rows} for rows in (before, after))
    for lost in sorted(one - other):
        yield f"{name}: {'/'.join(map(str, lost))!r} was lost"
    for invented in sorted(other - one):
        yield f"{name}: {'/'.join(map(str, invented))!r} came from nowhere"


def _ledger(table: str, reasons: list[str | None]) -> Ledger:
    count = Counter(reason for reason in reasons if reason is not None)
    quarantined = sum(n for reason, n in count.items() if "quarantined" in reason)
    dropped = {r: n for r, n in sorted(count.items()) if "quarantined" not in r}
    kept = sum(reason is None for reason in reasons)
    return Ledger(table, len(reasons), kept, dropped, quarantined)
