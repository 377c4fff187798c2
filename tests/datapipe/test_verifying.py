"""From rules to verdicts: what is asked, kept, asked again, and what a selection says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from synthetic_tables import World
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
    truth,
)
from vlm_double import Double, Handler, double, status

from s2v.datapipe import pipeline, verifying
from s2v.datapipe.base import records
from s2v.datapipe.engine import runner as runner_module
from s2v.datapipe.engine.errors import (
    ModelFaultError,
    StoreError,
    UnitFailedError,
    raise_failure,
)
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.engine.pools import Node
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import StageRun
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measuring import QuarantineBudgetError
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.select import select
from s2v.datapipe.verifying import Verified, select_verified

ASKED_ONLY = {"verifier_same_identity", "verifier_different_context"}


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    import ray

    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own runner in this process; tests marked ``ray`` run it in actors of Ray."""
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("two_cpus")
        return

    def here(
        run: Path, pools: Any, stages: list[StageRun], items: list[Any], **other: Any
    ) -> Iterator[Any]:
        runner = UnitRunner(str(run), stages, other["retry_quarantine"], session="one")
        for item in items:
            (told,) = runner({"item": [json.dumps(item)], "report": ["{}"]})["report"]
            report = json.loads(told)
            raise_failure(f"unit {report['unit']}", report["failed"])
            yield report

    def once(run: Path, stages: list[StageRun]) -> Iterator[str]:
        for stage in stages:
            with stage.naming_its_models():
                stage.stage.setup()
            yield stage.stage.name

    monkeypatch.setattr(verifying, "run_phase", here)
    monkeypatch.setattr(verifying, "load_once", once)
    monkeypatch.setattr(verifying, "start_ray", lambda cpus: None)
    monkeypatch.setattr(verifying, "cluster", lambda: [Node(2, 0, 8)])
    monkeypatch.setattr(runner_module, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return paired_world(tmp_path)


def verified(run: Path, world: World, url: str, **other: Any) -> Verified:
    model = {name: other.pop(name) for name in ("revision", "prompts", "tries") if name in other}
    settings = settings_of(run, url, **model)
    roles = roles_of(settings)
    measured = measured_of(world, settings, roles)
    return select_verified(settings, roles, measured, quiet=True, **other)


def verdicts(made: Verified) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.tables["verdicts"].to_pylist()
    return rows


def pairs(made: Verified) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = made.selection.pairs.to_pylist()
    return rows


def by_rules(world: World, run: Path) -> set[frozenset[str]]:
    """Pairs that the rules alone accept."""
    selection = select(world.tables(), settings_of(run, "http://127.0.0.1:9").select)
    return {ends(row) for row in selection.pairs.to_pylist() if row["accepted"]}


def ends(row: dict[str, Any]) -> frozenset[str]:
    return frozenset((row["target_subject_id"], row["reference_subject_id"]))


def asked(server: Double) -> Counter[tuple[int, int]]:
    return Counter(codes(request) for request in server.requests if "response_format" in request)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_model_decides_what_the_rules_let_through_and_every_pair_is_accounted_for(
    world: World, tmp_path: Path
) -> None:
    rules_say = by_rules(world, tmp_path)
    with double(judges(1, trouble=0.2)) as server:
        made = verified(tmp_path, world, server.url)
    rows = verdicts(made)
    assert strayed(rows) == []
    assert {ends(row) for row in rows} == rules_say, "asked about these, each once, and no others"
    assert made.asked == len(rows)
    assert made.missing == 0

    best = {r["subject_id"]: r["detection_id"] for r in made.selection.subjects.to_pylist()}
    for row in pairs(made):
        if ends(row) not in rules_say:
            assert (row["same_identity"], row["different_context"]) == (None, None)
            continue
        numbers = [code_of(best[row[f"{side}_subject_id"]]) for side in ("target", "reference")]
        said = truth(numbers[0], numbers[1])
        assert (row["same_identity"], row["different_context"]) == said
        assert row["accepted"] == (said == ("yes", "yes") and not row["rules"])
        assert ("verifier_same_identity" in row["rules"]) == (said[0] != "yes")
        assert ("verifier_different_context" in row["rules"]) == (said[1] != "yes")
    kept = {ends(row) for row in pairs(made) if row["accepted"]}
    assert kept
    assert kept < rules_say
    for row in rows:
        assert row["verifier"] == "vllm:double"
        assert row["prompt"] == f"verify_{row['class']}-1"
        assert len(row["prompt_sha256"]) == 64
    assert {row["class"] for row in rows} == {"human", "animal", "product"}

    report = check(made.tables, made.selection, settings_of(tmp_path, server.url).select)
    ledger = next(one for one in report.ledgers if one.table == "pairs")
    assert ledger.missing() == 0
    assert ledger.kept == sum(row["accepted"] for row in pairs(made))
    assert ASKED_ONLY & set(ledger.dropped)


def test_a_second_selection_asks_nothing_and_says_the_same(world: World, tmp_path: Path) -> None:
    with double(judges(2)) as server:
        first = verified(tmp_path, world, server.url)
        before = len(server.requests)
        again = verified(tmp_path, world, server.url)
        assert len(server.requests) == before
    without_model = verified(tmp_path, world, "http://127.0.0.1:9", ask=False)
    for other in (again, without_model):
        assert other.asked == 0
        assert other.tables["verdicts"].equals(first.tables["verdicts"])
        assert other.selection.pairs.equals(first.selection.pairs)
        assert other.selection.samples.equals(first.selection.samples)


def test_a_pair_without_a_verdict_never_passes_and_is_counted(world: World, tmp_path: Path) -> None:
    rules_say = by_rules(world, tmp_path)
    made = verified(tmp_path, world, "http://127.0.0.1:9", ask=False)
    assert not any(row["accepted"] for row in pairs(made))
    waiting = [row for row in pairs(made) if row["rules"] == ["not_verified"]]
    assert {ends(row) for row in waiting} == rules_say
    assert made.missing == len(waiting)
    report = check(made.tables, made.selection, settings_of(tmp_path, "http://x").select)
    assert report.rules["not_verified"] == len(waiting)
    assert next(one for one in report.ledgers if one.table == "pairs").kept == 0


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


def test_another_prompt_asks_its_class_again_and_no_other(world: World, tmp_path: Path) -> None:
    own = tmp_path / "product.toml"
    own.write_text('id = "stricter"\nversion = 2\nuser = "{first} or {second}?"\n')
    with double(judges(5)) as server:
        first = verified(tmp_path, world, server.url)
        before = len(server.requests)
        second = verified(tmp_path, world, server.url, prompts={"product": str(own)})
        names = Counter(
            request["response_format"]["json_schema"]["name"]
            for request in server.requests[before:]
            if "response_format" in request
        )
    products = [row for row in verdicts(first) if row["class"] == "product"]
    assert products
    assert names == {"stricter": len(products)}
    assert {r["prompt"] for r in verdicts(second) if r["class"] == "product"} == {"stricter-2"}
    others = [r for r in verdicts(first) if r["class"] != "product"]
    assert others == [r for r in verdicts(second) if r["class"] != "product"]
    # Back to the first words: its answers are still there.
    back = verified(tmp_path, world, "http://127.0.0.1:9", ask=False)
    assert back.tables["verdicts"].equals(first.tables["verdicts"])


def test_other_weights_are_asked_everything_anew(world: World, tmp_path: Path) -> None:
    with double(judges(6)) as server:
        first = verified(tmp_path, world, server.url)
        second = verified(tmp_path, world, server.url, revision="2")
    assert second.asked == first.asked == len(verdicts(second))
    assert {row["verifier"] for row in verdicts(second)} == {"vllm:double@2"}


def test_a_box_that_moved_is_another_question_and_the_rest_stands(
    world: World, tmp_path: Path
) -> None:
    with double(judges(7)) as server:
        first = verified(tmp_path, world, server.url)
        one = verdicts(first)[0]
        touched, moved = one["target_subject_id"], one["target_detection_id"]
        next(r for r in world.rows["detections"] if r["detection_id"] == moved)["box"][0] += 1.0
        before = len(server.requests)
        second = verified(tmp_path, world, server.url)
        assert len(server.requests) > before
    assert second.asked == sum(touched in ends(row) for row in verdicts(first))
    kept = [row for row in verdicts(first) if touched not in ends(row)]
    assert kept == [row for row in verdicts(second) if touched not in ends(row)]


def test_without_a_verifier_the_rules_decide_and_no_table_says_otherwise(
    world: World, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path, "http://127.0.0.1:9")
    roles = roles_of(settings)
    measured = measured_of(world, settings, roles)
    roles.verifier = None
    made = select_verified(settings, roles, measured)
    assert made.missing is None
    assert made.tables["verdicts"].num_rows == 0
    assert {ends(row) for row in pairs(made) if row["accepted"]} == by_rules(world, tmp_path)
    assert set(made.selection.pairs["same_identity"].to_pylist()) == {None}


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_verifying import verified
from verify_world import paired_world
run = Path(sys.argv[1])
made = verified(run, paired_world(run), sys.argv[2])
print("done", len(made.tables["verdicts"]))
"""


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_run_killed_between_select_and_verify_goes_on_and_ends_the_same(
    world: World, tmp_path: Path
) -> None:
    """kill -9 of the whole driver and its actors while answers come in."""
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


def test_the_table_takes_notes_of_strangers_as_text(tmp_path: Path, world: World) -> None:
    said = json.dumps(
        {
            "note": "=1+1 <script>alert(1)</script> ../../x",
            "same_identity": "yes",
            "different_context": "yes",
        }
    )
    with double(lambda request, handler: handler.say(said)) as server:
        made = verified(tmp_path, world, server.url)
    assert {row["note"] for row in verdicts(made)} == {json.loads(said)["note"]}
    assert made.tables["verdicts"].schema == records.TABLES["verdicts"]
    assert isinstance(made.tables["verdicts"], pa.Table)
