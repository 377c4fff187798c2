"""One audit: draw, judge, estimate, write. The same run, settings and labels, the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from s2v.datapipe.audit.draw import Drawn, Ties, draw, sizes_by_kind, ties
from s2v.datapipe.audit.estimate import Observation, Share, Stratum, share
from s2v.datapipe.audit.judges import FAULTS, Answer, Fault, Judged, Judges
from s2v.datapipe.audit.labels import Labels, merged, read_labels, template
from s2v.datapipe.audit.pairs import AuditError, accepted_pairs
from s2v.datapipe.audit.settings import AuditSettings
from s2v.datapipe.base import atomic
from s2v.datapipe.base.progress import track
from s2v.datapipe.report.run import RunFolder

State = Literal["met", "exceeded", "unknown"]
ALL: Final = "all"


@dataclass(frozen=True)
class Estimate:
    """The share of one fault in one class, by judges or by people.

    Attributes:
        kind: the class, or ``all``.
        fault: ``wrong`` subject or near ``copy``.
        by: ``judges`` or ``people``.
        population: accepted pairs of the class.
        drawn: pairs of it in the sample.
        unsure: pairs in doubt, left out of ``share``.
        unjudged: pairs that nobody judged, left out too.
        shared: what ties pairs together: ``source`` or ``subject``.
        sources: long videos the sample comes from.
        share: the estimate with its interval.
        at_worst: the share if every pair in doubt had the fault.
    """

    kind: str
    fault: Fault
    by: Literal["judges", "people"]
    population: int
    drawn: int
    unsure: int
    unjudged: int
    shared: str
    sources: int
    share: Share
    at_worst: float | None


@dataclass(frozen=True)
class Budget:
    """A stated limit and whether it was kept.

    Attributes:
        state: ``exceeded`` when the estimate of a class lies above the limit; ``unknown`` when a
            class has no estimate, for a limit that nobody checked is not kept.
        shown: the interval of every class lies below it too; else the sample is too small to say
            so.
    """

    fault: Fault
    limit: float
    state: State
    shown: bool
    classes: dict[str, State]


@dataclass(frozen=True)
class Audit:
    """All that an audit found."""

    settings: AuditSettings
    judges: dict[str, str]
    drawn: Drawn
    judged: list[Judged]
    labels: Labels
    estimates: list[Estimate]
    budgets: list[Budget]

    @property
    def kept(self) -> bool:
        """Whether every stated budget was kept."""
        return all(budget.state == "met" for budget in self.budgets)

    @property
    def used(self) -> dict[str, int]:
        """How many pairs people labelled, and how many of these are in the sample."""
        given = {name for name, said in self.labels.answers.items() if said}
        drawn = {pair.pair_id for pair in self.drawn.pairs}
        return {"pairs": len(given), "in this sample": len(given & drawn)}

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        strata = [
            {
                "class": kind,
                "scenario": scenario,
                "pairs": size,
                "drawn": sum(one.stratum == (kind, scenario) for one in self.drawn.pairs),
            }
            for (kind, scenario), size in sorted(self.drawn.population.items())
        ]
        return {
            "settings": self.settings.model_dump(mode="json"),
            "judges": self.judges,
            "population": sum(self.drawn.population.values()),
            "drawn": len(self.drawn.pairs),
            "strata": strata,
            "labels": self.used,
            "disputed": self.labels.disputed,
            "estimates": [asdict(one) for one in self.estimates],
            "budgets": [asdict(one) for one in self.budgets],
            "kept": self.kept,
        }


def audit_run(
    run: RunFolder, settings: AuditSettings, labels: Sequence[Path] = (), *, quiet: bool = True
) -> tuple[Audit, Judges]:
    """Draw a sample of a run's accepted cross pairs and judge it.

    Args:
        run: the run, selected.
        settings: how many, which, and the judges' thresholds.
        labels: filled-in CSVs of an earlier call, one for each person.
        quiet: no progress.

    Returns:
        The audit, and the judges, which can still show the pictures.

    Raises:
        AuditError: no cross pair was accepted, tables contradict each other, bad labels.
        StoreError: a stored frame is missing or damaged; the message names it and the way out.
    """
    given = merged(labels)
    population = accepted_pairs(run, settings.population)
    if not population:
        raise AuditError(
            f"{run.folder}: no cross pair was accepted, so there is nothing to audit; "
            "`s2v-data report` shows what refused them"
        )
    drawn = draw(population, settings.pairs, settings.seed)
    judges = Judges(run, settings)
    judged = []
    with track("audit", len(drawn.pairs), quiet=quiet) as step:
        for pair in drawn.pairs:
            judged.append(judges.judge(pair))
            step()
    estimates = _estimates(drawn, judged, given, settings.confidence)
    limits: tuple[tuple[Fault, float | None], ...] = (
        ("wrong", settings.max_wrong),
        ("copy", settings.max_copies),
    )
    budgets = [_budget(fault, limit, estimates) for fault, limit in limits if limit is not None]
    return Audit(settings, judges.ids, drawn, judged, given, estimates, budgets), judges


def _estimates(
    drawn: Drawn, judged: Sequence[Judged], labels: Labels, confidence: float
) -> list[Estimate]:
    found = []
    kinds = [*sizes_by_kind(drawn.population)]
    for kind in [*kinds, *([ALL] if len(kinds) > 1 else [])]:
        part = [one for one in judged if kind in (ALL, one.pair.kind)]
        sizes = {key: size for key, size in drawn.population.items() if kind in (ALL, key[0])}
        tied = ties([one.pair for one in part])
        for fault in FAULTS:
            said = [(one, one.findings[fault].answer) for one in part]
            whole = kind != ALL or _every_stratum(said, sizes)
            if whole:  # a share of all classes from those with a judge would be none
                found.append(_estimate(kind, fault, "judges", said, sizes, tied, confidence))
            human = [(one, labels.of(one.pair, fault) or "no judge") for one in part]
            if any(answer != "no judge" for _, answer in human):
                found.append(_estimate(kind, fault, "people", human, sizes, tied, confidence))
    return found


def _every_stratum(said: Sequence[tuple[Judged, Answer]], sizes: dict[Stratum, int]) -> bool:
    """Whether some pair of every stratum was judged."""
    judged = {one.pair.stratum for one, answer in said if answer in ("yes", "no")}
    return judged >= set(sizes)


def _estimate(
    kind: str,
    fault: Fault,
    by: Literal["judges", "people"],
    said: Sequence[tuple[Judged, Answer]],
    sizes: dict[Stratum, int],
    tied: Ties,
    confidence: float,
) -> Estimate:
    def observed(*, doubt: bool) -> list[Observation]:
        taken = ("yes", "no", "unsure") if doubt else ("yes", "no")
        return [
            Observation(one.pair.stratum, tied.units[one.pair.pair_id], answer != "no")
            for one, answer in said
            if answer in taken
        ]

    return Estimate(
        kind=kind,
        fault=fault,
        by=by,
        population=sum(sizes.values()),
        drawn=len(said),
        unsure=sum(answer == "unsure" for _, answer in said),
        unjudged=sum(answer == "no judge" for _, answer in said),
        shared=tied.by,
        sources=tied.sources,
        share=share(observed(doubt=False), sizes, confidence),
        at_worst=share(observed(doubt=True), sizes, confidence).estimate,
    )


def _budget(fault: Fault, limit: float, estimates: Sequence[Estimate]) -> Budget:
    """People's word counts where they judged as many pairs as the judges; else the worse of both.

    People are who the judges stand in for, but one labelled pair is no answer to a hundred judged.
    """
    asked: dict[str, list[Estimate]] = {}
    for one in estimates:
        if one.fault == fault and one.kind != ALL:
            asked.setdefault(one.kind, []).append(one)
    best = {kind: _worst(found) for kind, found in asked.items()}
    classes: dict[str, State] = {}
    for kind, one in best.items():
        if one.share.estimate is None:
            classes[kind] = "unknown"
        else:
            classes[kind] = "exceeded" if one.share.estimate > limit else "met"
    states = set(classes.values())
    worst: State = "exceeded" if "exceeded" in states else "unknown"
    return Budget(
        fault=fault,
        limit=limit,
        state="met" if states == {"met"} else worst,
        shown=all(one.share.high <= limit for one in best.values()),
        classes=classes,
    )


def _worst(found: Sequence[Estimate]) -> Estimate:
    """The estimate of one class that a budget is held against."""
    most = max(one.share.judged for one in found)
    trusted = [one for one in found if one.by == "people" and one.share.judged == most]
    return max(trusted or found, key=lambda one: (one.share.estimate or 0.0, one.share.judged))


def write_audit(audit: Audit, out: Path, sheet: str, blind: str) -> list[Path]:
    """Write ``audit.json``, ``pairs.csv``, ``sheet.html``, ``blind.html`` and ``labels.csv``.

    A ``labels.csv`` that is there is somebody's work and stays as it is; new pairs then go to
    ``labels-new.csv``.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "pairs.csv": _table(audit),
        "sheet.html": sheet.encode(),
        "blind.html": blind.encode(),
    }
    kept = out / "labels.csv"
    if not kept.exists():
        files["labels.csv"] = template(audit.drawn.pairs)
    else:
        known = read_labels(kept).answers
        fresh = [pair for pair in audit.drawn.pairs if pair.pair_id not in known]
        if fresh:
            files["labels-new.csv"] = template(fresh)
    for name, data in files.items():
        atomic.write_bytes(out / name, data)
    atomic.write_json(out / "audit.json", audit.summary())
    return [out / name for name in (*files, "audit.json")]


def _table(audit: Audit) -> bytes:
    """Every judged pair with its weight, verdicts and figures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = sorted({name for one in audit.judged for name in one.figures})
    names = ("pair_id", "class", "scenario", "target_subject_id", "reference_subject_id", "weight")
    words = [f"{by}_{fault}" for fault in FAULTS for by in ("judge", "people")]
    selected = ("similarity", "face_similarity", "background_similarity", "gap_us")
    writer.writerow([*names, *words, *figures, *selected])
    for one in audit.judged:
        pair = one.pair
        said = [
            word
            for fault in FAULTS
            for word in (one.findings[fault].answer, audit.labels.of(pair, fault) or "")
        ]
        writer.writerow(
            [
                *(pair.pair_id, pair.kind, pair.scenario),
                *(pair.target.subject["subject_id"], pair.reference.subject["subject_id"]),
                f"{audit.drawn.weight(pair):.6g}",
                *said,
                *("" if one.figures.get(n) is None else one.figures[n] for n in figures),
                *("" if (v := getattr(pair, n)) is None else v for n in selected),
            ]
        )
    return out.getvalue().encode()
