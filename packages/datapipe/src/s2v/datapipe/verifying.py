"""Verify: a second model looks at the pairs that passed the rules, and the selection runs again.

The selection says which pairs have no verdict; they are asked about in units on Ray, each answer
is committed once, and the selection is made again with it. It names further pairs where the model
refused some (:mod:`s2v.datapipe.pair.judge`), until none is left: at most
``select.retrieval.verifier_rounds`` rounds. A stopped run asks only what is left. Answers stand
while model, prompt and pictures stand: another threshold asks about the newly admitted pairs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe import pipeline
from s2v.datapipe.base import records
from s2v.datapipe.base.exclusions import Exclusion
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
from s2v.datapipe.pair.questions import Questions
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.steps import Steps
from s2v.datapipe.pair.unseen import TestFaces
from s2v.datapipe.roles import PairVerifier, Roles
from s2v.datapipe.serving import Servers, check_servers, own, reserved, untried
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
    servers: Servers | None = None,
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
        servers: the run's own, of whoever holds them, perhaps up already. ``None``: they end with
            the last question.
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
    asked = 0
    with Servers(settings) if servers is None else nullcontext(servers) as held:
        asking = _Asking(settings, roles, held, retry_quarantine, quiet)
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
            book.check(settings.engine.quarantine_budget)  # a broken prompt is not asked on
    book.check(settings.engine.quarantine_budget)
    tables = dict(measured.tables)
    tables["verdicts"] = verdicts
    tables["quarantine"] = pa.concat_tables([tables["quarantine"], book.quarantine(verdicts)])
    return Verified(selection, tables, asked, len(without))


def _not_verified(selection: Selection) -> list[tuple[str, str]]:
    """Detections of the pairs that fail nothing but for want of a verdict."""
    pairs = selection.pairs.select(["target_subject_id", "reference_subject_id", "rules"])
    pairs = pairs.filter(pc.equal(pc.list_value_length(pairs["rules"]), 1))
    rule = pc.list_flatten(pairs["rules"]).cast(pa.string())
    pairs = pairs.filter(pc.equal(rule, _NOT_VERIFIED))
    subjects = selection.subjects
    ends = [
        subjects["detection_id"].take(
            pc.index_in(
                pairs[f"{side}_subject_id"].cast(pa.string()),
                value_set=subjects["subject_id"].cast(pa.string()),
            )
        )
        for side in ("target", "reference")
    ]
    return list(zip(*(end.to_pylist() for end in ends), strict=True))


class _Book:
    """The verdicts of a run that stand for the questions of today.

    Args:
        settings: the configuration.
        verifier: whose verdicts.
        measured: what the questions are made of.
        reopen: what is in quarantine counts as never asked.
    """

    def __init__(
        self, settings: Settings, verifier: PairVerifier, measured: Measured, reopen: bool
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
        self._known = records.table("verdicts", [])
        self._refused: dict[str, Row] = {}  # quarantine rows by verdict_id
        self._open: set[str] = set()  # in quarantine and to be asked again once they are reached
        self._read()
        if reopen:
            self._open = set(self._refused)
            self._leave_out_open()

    def table(self) -> pa.Table:
        """Verdicts that stand: their question would be put the same way today."""
        names = (KEY, "target_detection_id", "reference_detection_id")
        ids, targets, references = (self._known[name].to_pylist() for name in names)
        self._questions.look_up([*targets, *references])
        today = map(self._questions.id_of, targets, references)
        stands = [one == now for one, now in zip(ids, today, strict=True)]
        return self._known.filter(pa.array(stands, pa.bool_())).sort_by(KEY)

    def questions(self, pairs: Iterable[tuple[str, str]]) -> dict[str, Row]:
        """Questions about pairs of detections, each once, by id."""
        wanted = list(pairs)
        self._questions.look_up(one for pair in wanted for one in pair)
        found = (self._questions.question(*pair) for pair in wanted)
        return dict(sorted((row[KEY], row) for row in found))

    def settle(self, questions: Mapping[str, Row]) -> bool:
        """Enter what is in quarantine without a row, as after a death; say if any was."""
        there = set(self._known[KEY].to_pylist())
        rows = [
            {
                **verdict_row(questions[one], self._verifier),
                "reason": f"quarantined: {self._refused[one]['error']}",
            }
            for one in questions
            if one in self._refused and one not in there
        ]
        self._known = pa.concat_tables([self._known, records.table("verdicts", rows)])
        return bool(rows)

    def read(self, asked: Mapping[str, Row]) -> None:
        """Take in the answers to what was asked.

        Raises:
            StoreError: some have neither answer nor quarantine.
        """
        self._open -= asked.keys()
        self._read()
        lost = sorted(asked.keys() - set(self._known[KEY].to_pylist()) - self._refused.keys())
        if lost:
            raise StoreError(
                f"{self._folder}/measure/{STAGE}-{self._fingerprint}: {len(lost)} of {len(asked)} "
                f"questions have no commit here (first: {lost[0]}) though they were asked; the run "
                "folder must lie on storage that all machines share, and be left alone while a "
                "run is on"
            )

    def quarantine(self, verdicts: pa.Table) -> pa.Table:
        """Quarantine rows of the verdicts that stand and have no answer."""
        bad = verdicts.filter(pc.is_valid(verdicts["reason"]))[KEY].to_pylist()
        return records.table("quarantine", [dict(self._refused[one]) for one in bad])

    def check(self, budget: float) -> None:
        """Stop when much of what was asked has no answer: then it is the prompt or the model.

        Raises:
            QuarantineBudgetError: naming the first.
        """
        verdicts = self.table()
        bad = self.quarantine(verdicts)
        lost, asked = bad.num_rows, verdicts.num_rows
        if lost > 1 and lost > budget * asked:
            raise QuarantineBudgetError(
                f"stage {STAGE}: {lost} of {asked} pairs in quarantine, over "
                f"engine.quarantine_budget = {budget:g}; first: {bad['message'][0]}. Change "
                "roles.verifier or its prompts and run again, ask again with --retry-quarantine, "
                "or raise the budget"
            )

    def _read(self) -> None:
        """All commits of this verifier; an answer stands before a quarantine of another unit."""
        store = StageStore.listed(self._folder, STAGE, self._fingerprint)
        tables = store.tables(store.listing())
        if "verdicts" not in tables:
            return
        rows = tables["verdicts"]
        unanswered = pc.is_valid(rows["reason"]).to_numpy()
        rows = rows.take(pa.array(np.argsort(unanswered, kind="stable")))
        code = pc.dictionary_encode(rows[KEY]).combine_chunks().indices.to_numpy()
        self._known = rows.take(pa.array(np.unique(code, return_index=True)[1]))
        answered = set(self._known.filter(pc.is_null(self._known["reason"]))[KEY].to_pylist())
        bad = tables["quarantine"].to_pylist() if "quarantine" in tables else []
        self._refused = {row["id"]: row for row in bad if row["id"] not in answered}
        self._leave_out_open()

    def _leave_out_open(self) -> None:
        if self._open:
            out = pc.is_in(self._known[KEY], value_set=pa.array(sorted(self._open), pa.string()))
            self._known = self._known.filter(pc.invert(out))
            self._refused = {n: row for n, row in self._refused.items() if n not in self._open}


class _Asking:
    """Puts questions to the model on Ray, in units that are committed one by one."""

    def __init__(
        self,
        settings: Settings,
        roles: Roles,
        servers: Servers,
        retry_quarantine: bool,
        quiet: bool,
    ) -> None:
        self._settings, self._roles, self._servers = settings, roles, servers
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
        if own_server:  # the same, but for its addresses
            run = pipeline.verify_run(self._settings, self._servers.roles())
        self._phase(run, items, own_server)

    def _admit(self, run: StageRun, own_server: bool) -> None:
        """See once that the model answers, before units of work are cut short by it."""
        self._admitted = True
        if own_server:
            if not self._servers.up:
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
