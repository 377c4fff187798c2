"""Verify: a second model looks at the pairs that passed the rules, and the selection runs again.

The selection says which pairs have no verdict; they are asked about in units on Ray, each answer
is committed once, and the selection is made again with it. A stopped run asks only what is
left. Answers stand while model, prompt and pictures stand: another threshold asks about the
newly admitted pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from s2v.datapipe import pipeline
from s2v.datapipe.base import records
from s2v.datapipe.base.progress import track
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.execute import cluster, run_phase, start_ray
from s2v.datapipe.engine.pools import place
from s2v.datapipe.engine.preflight import load_once
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore, StoreError
from s2v.datapipe.engine.units import slices
from s2v.datapipe.measure.verify import KEY, QUESTIONS, verdict_row
from s2v.datapipe.measuring import Measured, QuarantineBudgetError
from s2v.datapipe.pair.evidence import UNANSWERED_RULES
from s2v.datapipe.pair.exclusions import Exclusion
from s2v.datapipe.pair.questions import Questions
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.steps import Steps
from s2v.datapipe.pair.unseen import TestFaces
from s2v.datapipe.roles import PairVerifier, Roles
from s2v.datapipe.serving import check_servers, own, reserved, roles_at_work, untried
from s2v.datapipe.sources import identity_of

STAGE = "verify"
_NOT_VERIFIED = UNANSWERED_RULES[-1]


@dataclass
class Verified:
    """A selection with the verdicts that it rests on.

    Attributes:
        selection: made with all verdicts there are.
        tables: the measure tables, with ``verdicts`` and their part of ``quarantine``.
        asked: questions put to the model this time.
        missing: candidate pairs that pass every other rule and have no verdict; ``None`` where no
            verifier is configured.
    """

    selection: Selection
    tables: dict[str, pa.Table]
    asked: int = 0
    missing: int | None = None


def select_verified(
    settings: Settings,
    roles: Roles,
    measured: Measured,
    exclusions: Sequence[Exclusion] = (),
    *,
    ask: bool = True,
    retry_quarantine: bool = False,
    quiet: bool = False,
    steps: Steps | None = None,
    test_faces: TestFaces | None = None,
) -> Verified:
    """Select, ask the verifier about what passed the rules, and select again.

    Args:
        settings: the configuration.
        roles: without a verifier the rules decide alone.
        measured: what the pairs are made of.
        exclusions: exclusion and takedown list.
        ask: ``False`` takes the committed verdicts and runs no model.
        retry_quarantine: ask again where the answer stayed wrong.
        quiet: no progress.
        steps: what keeps the first steps of a selection, which no verdict changes.
        test_faces: of an evaluation set, whose people are kept out.

    Raises:
        UnitFailedError: the server gave no answer to the last try; what was answered is kept.
        AdmissionError, ModelFaultError, ServerStartError: one clear line each.
        QuarantineBudgetError: so many answers stay wrong that the cause is hardly the pairs.
        StoreError: a committed part is missing or damaged.
    """
    chosen = partial(
        select,
        *(measured.tables, settings.select, exclusions),
        steps=steps,
        test_faces=test_faces,
    )
    if roles.verifier is None:
        return Verified(chosen(), measured.tables)
    book = _Book(settings, roles.verifier, measured, retry_quarantine)
    asking = _Asking(settings, roles, retry_quarantine, quiet)
    asked = 0
    while True:
        verdicts = book.table()
        selection = chosen(verdicts=verdicts)
        without = _not_verified(selection)
        questions = book.questions(without)
        if book.settle(questions):
            continue
        if not ask or not questions:
            break
        asking.put(questions)
        asked += len(questions)
        book.read(questions)
    refused = book.quarantine(verdicts)
    _check_budget(refused, verdicts, settings.engine.quarantine_budget)
    tables = dict(measured.tables)
    tables["verdicts"] = verdicts
    tables["quarantine"] = pa.concat_tables([tables["quarantine"], refused])
    return Verified(selection, tables, asked, len(without))


def _check_budget(refused: pa.Table, verdicts: pa.Table, budget: float) -> None:
    """Stop when much of what was asked has no answer: then it is the prompt or the model."""
    lost, asked = refused.num_rows, verdicts.num_rows
    if lost > 1 and lost > budget * asked:
        raise QuarantineBudgetError(
            f"stage {STAGE}: {lost} of {asked} pairs in quarantine, over engine.quarantine_budget "
            f"= {budget:g}; first: {refused['message'][0]}. Change roles.verifier or its prompts "
            "and run again, ask again with --retry-quarantine, or raise the budget"
        )


def _not_verified(selection: Selection) -> list[tuple[str, str]]:
    """Detections of the pairs that fail nothing but for want of a verdict."""
    pairs = selection.pairs.select(["target_subject_id", "reference_subject_id", "rules"])
    subjects = selection.subjects
    names = subjects["subject_id"].to_pylist()
    best = dict(zip(names, subjects["detection_id"].to_pylist(), strict=True))
    return [
        (best[row["target_subject_id"]], best[row["reference_subject_id"]])
        for row in pairs.to_pylist()
        if row["rules"] == [_NOT_VERIFIED]
    ]


@dataclass
class _Kept:
    """What the commits of this verifier say."""

    rows: dict[str, Row] = field(default_factory=dict)  # verdict_id -> row of table verdicts
    refused: dict[str, Row] = field(default_factory=dict)  # verdict_id -> quarantine row


class _Book:
    """The verdicts of a run that stand for the questions of today."""

    def __init__(
        self,
        settings: Settings,
        verifier: PairVerifier,
        measured: Measured,
        retry_quarantine: bool,
    ) -> None:
        self._folder = Path(settings.folder)
        self._verifier = verifier
        self._fingerprint = measured.fingerprints[STAGE]
        sources = measured.tables["sources"].to_pylist()
        drawn = settings.select.classes.drawn_origins
        self._questions = Questions(
            measured.tables,
            {row["video_id"]: identity_of(row) for row in sources},
            frozenset(row["video_id"] for row in sources if row["origin"] in drawn),
            measured.fingerprints["frames"],
            verifier.prompts,
        )
        self._kept = self._read()
        if retry_quarantine:  # they are then as if never asked
            for one in self._kept.refused:
                self._kept.rows.pop(one, None)
            self._kept.refused.clear()

    def table(self) -> pa.Table:
        """Verdicts that stand: their question would be put the same way today."""
        rows = [row for row in self._kept.rows.values() if self._stands(row)]
        return records.table("verdicts", sorted(rows, key=lambda row: str(row[KEY])))

    def questions(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Row]:
        """Questions about pairs of detections, each once, by id."""
        wanted = list(pairs)
        self._questions.look_up(one for pair in wanted for one in pair)
        found: dict[str, Row] = {}
        for pair in wanted:
            question = self._questions.question(*pair)
            if question is None:
                raise ValueError(f"pair {pair} has detections without a frame, phrase or clip")
            found[question[KEY]] = question
        return dict(sorted(found.items()))

    def settle(self, questions: Mapping[str, Row]) -> bool:
        """Enter what is in quarantine without a row, as after a death; say if any was."""
        kept = self._kept
        lost = [one for one in questions if one in kept.refused and one not in kept.rows]
        for one in lost:
            reason = f"quarantined: {kept.refused[one]['error']}"
            kept.rows[one] = {**verdict_row(questions[one], self._verifier), "reason": reason}
        return bool(lost)

    def read(self, asked: Mapping[str, Row]) -> None:
        """Take in the answers to what was asked.

        Raises:
            StoreError: some have neither answer nor quarantine.
        """
        found = self._read()
        for one in asked:
            if one in found.rows:
                self._kept.rows[one] = found.rows[one]
            if one in found.refused:
                self._kept.refused[one] = found.refused[one]
        lost = sorted(asked.keys() - self._kept.rows.keys() - self._kept.refused.keys())
        if lost:
            raise StoreError(
                f"{self._folder}/measure/{STAGE}-{self._fingerprint}: {len(lost)} of {len(asked)} "
                f"questions have no commit here (first: {lost[0]}) though they were asked; the run "
                "folder must lie on storage that all machines share, and be left alone while a "
                "run is on"
            )

    def quarantine(self, verdicts: pa.Table) -> pa.Table:
        """Quarantine rows of the verdicts that stand and have no answer."""
        table = verdicts.select([KEY, "reason"]).to_pylist()
        rows = [self._kept.refused[row[KEY]] for row in table if row["reason"] is not None]
        return records.table("quarantine", [dict(row) for row in rows])

    def _stands(self, row: Row) -> bool:
        question = self._questions.question(
            row["target_detection_id"], row["reference_detection_id"]
        )
        return question is not None and question[KEY] == row[KEY]

    def _read(self) -> _Kept:
        """All commits of this verifier; an answer stands before a quarantine of another unit."""
        store = StageStore.listed(self._folder, STAGE, self._fingerprint)
        tables = store.tables(store.listing())
        kept = _Kept()
        for row in tables["verdicts"].to_pylist() if "verdicts" in tables else []:
            before = kept.rows.get(row[KEY])
            if before is None or before["reason"] is not None:
                kept.rows[row[KEY]] = row
        for row in tables["quarantine"].to_pylist() if "quarantine" in tables else []:
            answer = kept.rows.get(row["id"])
            if answer is None or answer["reason"] is not None:
                kept.refused[row["id"]] = row
        names = ("target_detection_id", "reference_detection_id")
        self._questions.look_up(row[name] for row in kept.rows.values() for name in names)
        return kept


class _Asking:
    """Puts questions to the model on Ray, in units that are committed one by one."""

    def __init__(
        self, settings: Settings, roles: Roles, retry_quarantine: bool, quiet: bool
    ) -> None:
        self._settings, self._roles = settings, roles
        self._retry, self._quiet = retry_quarantine, quiet
        self._folder = Path(settings.folder)
        self._admitted = False

    def put(self, questions: Mapping[str, Row]) -> None:
        """Ask; returns when every question is answered or in quarantine.

        Raises:
            UnitFailedError, AdmissionError, ModelFaultError, ServerStartError: see above.
        """
        of_unit = self._settings.engine.unit_clips
        items = []
        for name, ids in slices({one: one for one in questions}, of_unit):
            tables = {QUESTIONS: [questions[one] for one in ids]}
            items.append({"unit": name, "key": KEY, "ids": ids, "tables": tables})
        start_ray(self._settings.engine.cpus)
        own_server = "verifier" in own(self._settings)
        run = pipeline.verify_run(self._settings, self._roles)
        if not self._admitted:
            self._admit(run, own_server)
        if own_server:
            with roles_at_work(self._settings) as roles:
                there = pipeline.verify_run(self._settings, roles)  # the same, but its addresses
                self._phase(there, items, own_server)
        else:
            self._phase(run, items, own_server)

    def _admit(self, run: StageRun, own_server: bool) -> None:
        """See once that the model answers, before units of work are cut short by it."""
        self._admitted = True
        if own_server:
            check_servers(self._settings)
        elif "verifier" in untried(self._settings):
            with track("load the verifier once", 1, quiet=self._quiet) as step:
                for _ in load_once(self._folder, [run]):
                    step()

    def _phase(self, run: StageRun, items: list[dict[str, Any]], own_server: bool) -> None:
        placement = place(
            [(STAGE, run.need)],
            cluster(),
            len(items),
            wanted=self._settings.engine.actors,
            mode=self._settings.engine.mode,
            reserved=reserved(self._settings) if own_server else (),
        )
        with track("verify pairs", len(items), quiet=self._quiet) as step:
            for phase in placement.phases:
                for _ in run_phase(self._folder, phase, [run], items, retry_quarantine=self._retry):
                    step()
