"""The canary of the pairs: a verdict can never land on another pair.

Every subject has a number drawn in its box; the server reads both numbers off the pictures and
answers by them. Through threads, retries, wrong answers, drops and units in any order, each
verdict must be that of its own two numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from verify_world import (
    answer,
    code_of,
    codes,
    judges,
    measured_of,
    paired_world,
    roles_of,
    settings_of,
    strayed,
)
from vlm_double import Handler, double

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import Row, StageRun, Unit
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.verify import KEY, QUESTIONS, VerifyStage
from s2v.datapipe.pair.questions import Questions
from s2v.datapipe.roles import PairVerifier

UNITS, PAIRS = 4, 60


class Asked:
    """Questions about pairs of a world, in units, with the run folder they are answered in."""

    def __init__(self, run: Path, url: str, **other: Any) -> None:
        self.run = run
        settings = settings_of(run, url, concurrency=16, **other)
        roles = roles_of(settings)
        assert roles.verifier is not None
        self.verifier: PairVerifier = roles.verifier
        self.tables = measured_of(paired_world(run), settings, roles).tables
        self.questions = self._questions()

    def _questions(self) -> dict[str, Row]:
        book = Questions(self.tables, {}, (), "f", self.verifier.prompts)
        names = self.tables["detections"]["detection_id"].to_pylist()
        book.look_up(names)
        # A spread of all pairs: each detection is in several of them, with many others.
        every = sorted(combinations(names, 2), key=stable_hash)
        found = [book.question(*pair) for pair in every[:PAIRS]]
        return {row[KEY]: row for row in found}

    def answered(self, kind: type[VerifyStage] = VerifyStage) -> list[Row]:
        """All questions through the real runner; the rows of table verdicts."""
        runner = UnitRunner(str(self.run), [StageRun(kind(self.verifier), "f")])
        ids = sorted(self.questions)
        for n in range(UNITS):
            mine = ids[n::UNITS]
            tables = {QUESTIONS: [self.questions[one] for one in mine]}
            runner.measure({"unit": f"u{n}", "key": KEY, "ids": mine, "tables": tables})
        store = StageStore(self.run, "verify", "f")
        return [row for n in range(UNITS) for row in store.rows(f"u{n}")["verdicts"]]


def test_the_numbers_survive_jpeg_and_differ(tmp_path: Path) -> None:
    """Else the canary below would prove nothing."""
    with double(judges(0)) as server:
        asked = Asked(tmp_path, server.url)
        rows = asked.answered()
    assert len(asked.questions) == len(rows) == PAIRS
    seen = {codes(request) for request in server.requests}
    assert seen == {
        (code_of(q["target"]["detection_id"]), code_of(q["reference"]["detection_id"]))
        for q in asked.questions.values()
    }
    assert len(seen) == PAIRS
    assert {row["same_identity"] for row in rows} == {"yes", "no", "unsure"}


@pytest.mark.parametrize("seed", [1, 2])
def test_every_verdict_is_its_own_pairs_through_threads_retries_and_drops(
    tmp_path: Path, seed: int
) -> None:
    with double(judges(seed, trouble=0.4)) as server:
        asked = Asked(tmp_path, server.url, attempts=8)
        rows = asked.answered()
    assert {row[KEY] for row in rows} == set(asked.questions)
    assert strayed(rows) == []
    assert server.most_at_once > 4
    assert len(server.requests) > 1.2 * PAIRS


def test_an_answer_meant_for_another_pair_is_not_taken(tmp_path: Path) -> None:
    """A gateway hands every third answer to the request before, with its own id."""
    last: list[tuple[str, str]] = []

    def mixes(request: dict[str, Any], handler: Handler) -> None:
        mine = (answer(*codes(request)), handler.headers["X-Request-Id"])
        last.append(mine)
        text, request_id = last[-2] if len(last) % 3 == 0 else mine
        handler.say(text, request_id=request_id)

    with double(mixes) as server:
        rows = Asked(tmp_path, server.url).answered()
    assert strayed(rows) == []
    assert len(server.requests) > 1.2 * PAIRS


def test_one_bad_pair_costs_no_other_pair(tmp_path: Path) -> None:
    asked = Asked(tmp_path, "http://127.0.0.1:9")
    bad = dict(zip(sorted(asked.questions)[:3], ("refused", "nonsense", "poison"), strict=True))
    of_codes = {
        (code_of(q["target"]["detection_id"]), code_of(q["reference"]["detection_id"])): one
        for one, q in asked.questions.items()
    }

    def spoilt(request: dict[str, Any], handler: Handler) -> None:
        if request.get("max_tokens") == 4:  # whether it answers others
            handler.say("grey")
            return
        kind = bad.get(of_codes[codes(request)])
        if kind == "refused":
            handler.send('{"error": {"message": "cannot load the image"}}', 400)
        elif kind == "nonsense":
            handler.say(json.dumps({"note": "x", "same_identity": "maybe"}))
        elif kind == "poison":
            handler.send('{"error": {"message": "list index out of range"}}', 500)
        else:
            handler.say(answer(*codes(request)))

    with double(spoilt) as server:
        rows = Asked(tmp_path, server.url, tries=3).answered()
    told = {row[KEY]: row["reason"] for row in rows if row["reason"]}
    assert told == dict.fromkeys(bad, "quarantined: AnswerError")
    assert strayed(row for row in rows if not row["reason"]) == []
    store = StageStore(tmp_path, "verify", "f")
    said = [r for n in range(UNITS) for r in store.rows(f"u{n}").get("quarantine", [])]
    messages = {row["id"]: row["message"] for row in said}
    assert messages.keys() == bad.keys()
    assert any("cannot load the image" in text for text in messages.values())
    assert any("no valid answer in 3 attempts" in text for text in messages.values())


class InOrderOfArrival(VerifyStage):
    """Files the n-th answer that comes back under the n-th pair, as batching in flight did."""

    def each(self, unit: Unit, clips: Iterable[str], work: Callable[[str], list[Row]]) -> list[Row]:
        wanted = sorted(clips)
        own = ("target_detection_id", "reference_detection_id", KEY)
        with ThreadPoolExecutor(16) as pool:
            arrived = [done.result() for done in as_completed(pool.submit(work, c) for c in wanted)]
        mine = {row[KEY]: row for rows in arrived for row in rows}
        return [
            {**rows[0], **{name: mine[one][name] for name in own}}
            for one, rows in zip(wanted, arrived, strict=True)
        ]


def test_the_canary_dies_when_answers_are_filed_in_order_of_arrival(tmp_path: Path) -> None:
    with double(judges(5)) as server:
        rows = Asked(tmp_path, server.url).answered(InOrderOfArrival)
    assert len(rows) == PAIRS
    assert len(strayed(rows)) > PAIRS / 2
