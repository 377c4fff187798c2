"""Nothing gets lost: in = kept + dropped by reason + quarantined, for every table.

Fan-out is counted, every moment of a source lies in a clip or in a dropped span with a
reason, and the samples are what the pairs say. :func:`check` raises when any of it fails,
and otherwise returns the funnel that the report shows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair import soundness
from s2v.datapipe.pair.columns import codes, ints, positions, whole
from s2v.datapipe.pair.evidence import RULES
from s2v.datapipe.pair.rows import KEYS, Tables, check_columns, measured
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import SelectSettings

_SHOWN = 10
_LOST = "lost"


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


def check(
    tables: Tables,
    selection: Selection,
    settings: SelectSettings,
    *,
    measured_is_sound: bool = False,
) -> Report:
    """Check the conservation of everything and return the funnel.

    Args:
        tables: the measure tables.
        selection: what was made of them.
        settings: with which.
        measured_is_sound: the measure tables were checked when they were made; only what was made
            of them now is.

    Raises:
        ConservationError: with the first violations and how many there are in all.
    """
    views = {name: getattr(selection, name) for name in ("subjects", "pairs", "samples")}
    everything = {name: tables[name] for name in KEYS if name in tables} | views
    for name, table in everything.items():
        check_columns(name, table)
    problems = [] if measured_is_sound else list(soundness.of_measured(everything))
    problems += soundness.of_selection(everything, selection, settings)
    report = _report(everything, selection)
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


def _report(tables: Tables, selection: Selection) -> Report:
    pairs, samples = selection.pairs, selection.samples
    tally: Counter[str] = Counter()
    for name in ("pair_type", "split", "scenario"):
        tally.update({str(value): count for value, count in _tally(samples[name]).items()})
    tally.update({"heldout": pc.sum(samples["heldout"]).as_py() or 0})
    code, names = codes(pc.list_flatten(pairs["rules"]))
    counts = np.bincount(code, minlength=len(names)).tolist()
    failed = dict(zip(names.to_pylist(), counts, strict=True))
    return Report(
        ledgers=(
            _sources(tables),
            _time(tables),
            _ledger("clips", selection.clips["reason"]),
            _ledger("subjects", selection.subjects["reason"]),
            _ledger("boxes", selection.boxes["reason"]),
            _ledger("faces", selection.faces["reason"]),
            _ledger("pairs", _first_rules(pairs["rules"])),
            _ledger("samples", selection.sample_reasons["reason"]),
            _ledger("clips with a sample", _clip_outcomes(tables, selection)),
        ),
        rules={rule: failed[rule] for rule in RULES if failed.get(rule)},
        samples={key: count for key, count in sorted(tally.items()) if count},
    )


def _tally(column: pa.ChunkedArray) -> dict[str | None, int]:
    counted = pc.value_counts(column)
    return dict(zip(*(counted.field(n).to_pylist() for n in ("values", "counts")), strict=True))


def _first_rules(rules: pa.ChunkedArray) -> pa.Array:
    """The first rule, in their order, that each pair fails; null where none."""
    lists = whole(rules)
    code, names = codes(pc.list_flatten(lists))
    order = np.array([RULES.index(name) for name in names.to_pylist()] or [0], np.int64)
    first = np.full(len(lists), len(RULES), np.int64)
    np.minimum.at(first, pc.list_parent_indices(lists).to_numpy(), order[code])
    return pa.array(RULES).take(pa.array(first, mask=first == len(RULES)))


def _sources(tables: Tables) -> Ledger:
    videos, probe = measured(tables, "sources")["video_id"], measured(tables, "probe")
    at = positions(videos, probe["video_id"])
    reasons = whole(probe["reason"]).take(pa.array(at, mask=at < 0))
    lost = pc.is_in(videos, value_set=whole(measured(tables, "quarantine")["id"]))
    return _ledger("sources", pc.if_else(whole(lost), "quarantined", reasons))


def _time(tables: Tables) -> Ledger:
    """Microseconds of the videos that were scanned."""
    videos, spans = soundness.scanned(tables), measured(tables, "spans")
    mine = spans.filter(pc.is_in(spans["video_id"], value_set=whole(videos["video_id"])))
    length = ints(mine["end_us"], 0) - ints(mine["start_us"], 0)
    code, names = codes(mine["reason"])
    dropped = {reason: int(length[code == n].sum()) for n, reason in enumerate(names.to_pylist())}
    total, kept = int(ints(videos["duration_us"], 0).sum()), int(length[code < 0].sum())
    return Ledger("time", total, kept, dict(sorted(dropped.items())), unit="us")


def _clip_outcomes(tables: Tables, selection: Selection) -> pa.Array:
    """Why a kept clip has no sample."""
    subjects, reasons = selection.subjects, selection.sample_reasons
    kept = selection.clips.filter(pc.is_null(selection.clips["reason"]))["clip_id"]
    clips = measured(tables, "clips")
    fit = subjects.filter(pc.is_null(subjects["reason"]))["clip_id"]
    dropped = reasons.filter(pc.is_valid(reasons["reason"]))
    at = positions(kept, dropped["clip_id"][::-1])
    why = whole(dropped["reason"]).take(pa.array(dropped.num_rows - 1 - at, mask=at < 0))
    why = pc.replace_substring_regex(why, ":.*", "")
    images = clips.filter(pc.equal(clips["kind"], "image"))["clip_id"]

    def among(known: pa.ChunkedArray) -> pa.Array:
        return whole(pc.is_in(kept, value_set=whole(known)))

    conditions = [
        among(selection.samples["clip_id"]),
        among(images),
        pc.invert(among(measured(tables, "phrases")["clip_id"])),
        pc.invert(among(fit)),
        pc.is_valid(why),
    ]
    last = "excluded" if selection.excluded_samples else _LOST  # every fit subject gives an in-pair
    return pc.case_when(
        pc.make_struct(*conditions),
        pa.scalar(None, pa.string()),
        pa.scalar("photograph, for reference only"),
        pa.scalar("no subject in the caption"),
        pa.scalar("no subject kept"),
        why,
        pa.scalar(last),
    )


def _ledger(table: str, reasons: pa.ChunkedArray | pa.Array) -> Ledger:
    count = _tally(reasons)
    kept = count.pop(None, 0)
    told = {str(reason): n for reason, n in count.items()}
    quarantined = sum(n for reason, n in told.items() if "quarantined" in reason)
    dropped = {r: n for r, n in sorted(told.items()) if "quarantined" not in r}
    return Ledger(table, len(reasons), kept, dropped, quarantined)
