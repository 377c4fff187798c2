"""Models that refuse, servers that die, runs that are killed: no verdict is lost or made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic_tables import World
from verify_world import (
    answer,
    asked,
    by_rules,
    code_of,
    codes,
    ends,
    in_this_process,
    judges,
    paired_world,
    pairs,
    roles_of,
    settings_of,
    strayed,
    verdicts,
    verified,
)
from vlm_double import Handler, double, status

from s2v.datapipe import pipeline
from s2v.datapipe.engine.errors import ModelFaultError, StoreError, UnitFailedError
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measuring import QuarantineBudgetError
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.select import select


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch.setattr)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return paired_world(tmp_path)


def test_answers_that_stay_wrong_are_quarantined_alone_and_asked_again_only_on_request(
    world: World, tmp_path: Path
) -> None:
    some = sorted(by_rules(world, tmp_path), key=sorted)[:2]
    subjects = {r["subject_id"]: r for r in select_rows(world, tmp_path)}
    poisoned = {
        tuple(code_of(d) for d in sorted(subjects[s]["detection_id"] for s in pair))
        for pair in some
    }

    def spoilt(request: dict[str, Any], handler: Handler) -> None:
        good = codes(request) not in poisoned
        handler.say(answer(*codes(request)) if good else "no comment")

    with double(spoilt) as server:
        made = verified(tmp_path, world, server.url)
        bad = [row for row in verdicts(made) if row["reason"]]
        assert {ends(row) for row in bad} == set(some)
        assert strayed(row for row in verdicts(made) if not row["reason"]) == []
        quarantine = made.tables["quarantine"].to_pylist()
        assert {r["id"] for r in quarantine} == {row["verdict_id"] for row in bad}
        assert all("no valid answer in 3 attempts" in row["message"] for row in quarantine)
        refused = {ends(row) for row in pairs(made) if row["rules"] == ["verdict_quarantined"]}
        assert refused == set(some)
        report = check(made.tables, made.selection, settings_of(tmp_path, server.url).select)
        ledger = next(one for one in report.ledgers if one.table == "pairs")
        assert ledger.quarantined == sum(ends(row) in refused for row in pairs(made))
        assert ledger.missing() == 0
        before = len(server.requests)
        verified(tmp_path, world, server.url)
        assert len(server.requests) == before, "a wrong answer is not asked for at every selection"
    with double(judges(3)) as server:
        mended = verified(tmp_path, world, server.url, retry_quarantine=True)
        assert set(asked(server)) == poisoned
    assert [row for row in verdicts(mended) if row["reason"]] == []
    assert mended.tables["quarantine"].num_rows == 0
    assert strayed(verdicts(mended)) == []
    assert verified(tmp_path, world, "http://127.0.0.1:9", ask=False).missing == 0


def select_rows(world: World, run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = select(
        world.tables(), settings_of(run, "http://127.0.0.1:9").select
    ).subjects.to_pylist()
    return rows


def test_a_model_that_refuses_most_pairs_stops_the_run_and_is_named(
    world: World, tmp_path: Path
) -> None:
    def says_nothing_of_use(request: dict[str, Any], handler: Handler) -> None:
        handler.say("I'm sorry")

    told = r"stage verify: \d+ of \d+ pairs in quarantine.*no valid answer.*roles\.verifier"
    with double(says_nothing_of_use) as server, pytest.raises(QuarantineBudgetError, match=told):
        verified(tmp_path, world, server.url)
    with double(judges(11)) as server:
        mended = verified(tmp_path, world, server.url, retry_quarantine=True)
    assert strayed(verdicts(mended)) == []


def test_a_server_that_dies_half_way_costs_nothing_that_it_answered(
    world: World, tmp_path: Path
) -> None:
    answered = 0

    def dies(request: dict[str, Any], handler: Handler) -> None:
        nonlocal answered
        if answered >= 20:
            handler.send('{"error": {"message": "shutting down"}}', 503)
        else:
            answered += 1
            handler.say(answer(*codes(request)))

    with double(dies) as server, pytest.raises(UnitFailedError, match=r"roles\.verifier.*503"):
        verified(tmp_path, world, server.url, tries=1)
    left = verified(tmp_path, world, "http://127.0.0.1:9", ask=False)
    assert left.missing, "no verdict is made up for a pair that was not answered"
    assert left.tables["quarantine"].num_rows == 0, "a dead server is no pair's fault"
    known = len(verdicts(left))
    assert 1 <= known <= 20, "whole units were committed before it died"
    with double(judges(4)) as server:
        made = verified(tmp_path, world, server.url)
        assert made.asked == sum(asked(server).values()) == len(verdicts(made)) - known
    assert strayed(verdicts(made)) == []
    assert made.missing == 0


def test_a_server_that_is_down_is_told_before_any_unit(world: World, tmp_path: Path) -> None:
    began = time.monotonic()
    with double(status(200), on_models=status(503)) as server:
        with pytest.raises(ModelFaultError, match=r"roles\.verifier"):
            verified(tmp_path, world, server.url, tries=1)
        assert not server.requests
    assert time.monotonic() - began < 60


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from verify_world import in_this_process, paired_world, verified
in_this_process(setattr)
run = Path(sys.argv[1])
made = verified(run, paired_world(run), sys.argv[2])
print("done", len(made.tables["verdicts"]))
"""


@pytest.mark.timeout(300)
def test_a_run_killed_between_select_and_verify_goes_on_and_ends_the_same(
    world: World, tmp_path: Path
) -> None:
    """kill -9 while answers come in and units are committed."""
    with double(judges(8, longest_s=0.2)) as server:
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            str(tmp_path),
            server.url,
            str(Path(__file__).parent),
        ]
        run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 150
        while not list(tmp_path.glob("measure/verify-*/*.json")):
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        left = verified(tmp_path, world, server.url, ask=False)
        assert left.missing
        made = verified(tmp_path, world, server.url)
        assert made.asked < len(verdicts(made))
    assert strayed(verdicts(made)) == []
    with double(judges(9)) as server:
        whole = tmp_path / "whole"
        one_go = verified(whole, paired_world(whole), server.url)
    assert one_go.tables["verdicts"].equals(made.tables["verdicts"])
    assert one_go.selection.samples.equals(made.selection.samples)


def test_a_pair_that_killed_its_process_is_refused_and_counted_with_its_boxes(
    world: World, tmp_path: Path
) -> None:
    """The engine quarantines such a pair itself, without a row of the stage's."""
    elsewhere = tmp_path / "elsewhere"
    with double(judges(12)) as server:
        killer = verdicts(verified(elsewhere, paired_world(elsewhere), server.url))[0]
    settings = settings_of(tmp_path, "http://127.0.0.1:9")
    fingerprint = pipeline.verify_run(settings, roles_of(settings)).fingerprint
    told = {
        "id": killer["verdict_id"],
        "stage": "verify",
        "unit": "u",
        "error": "worker_died",
        "message": "the process that measured it died 2 times at it alone",
        "retry": "run again with --retry-quarantine",
    }
    StageStore(tmp_path, "verify", fingerprint).commit(
        "u", "verdict_id", [killer["verdict_id"]], {"verdicts": [], "quarantine": [told]}, 0.0
    )
    with double(judges(12)) as server:
        made = verified(tmp_path, world, server.url)
    bad = [row for row in verdicts(made) if row["reason"]]
    assert [row["reason"] for row in bad] == ["quarantined: worker_died"]
    assert ends(bad[0]) == ends(killer)
    assert [row["id"] for row in made.tables["quarantine"].to_pylist()] == [killer["verdict_id"]]
    refused = [row for row in pairs(made) if "verdict_quarantined" in row["rules"]]
    assert {ends(row) for row in refused} == {ends(killer)}
    assert made.missing == 0


def test_a_damaged_commit_is_named_with_the_way_out(world: World, tmp_path: Path) -> None:
    with double(judges(10)) as server:
        verified(tmp_path, world, server.url)
    part = min(tmp_path.glob("measure/verify-*/*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="delete the unit's commit file"):
        verified(tmp_path, world, "http://127.0.0.1:9", ask=False)
