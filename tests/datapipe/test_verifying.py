"""From rules to verdicts: what is asked, kept, asked again, and what a selection says of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from synthetic_tables import World
from verify_world import (
    by_rules,
    code_of,
    ends,
    in_this_process,
    judges,
    measured_of,
    paired_world,
    pairs,
    roles_of,
    settings_of,
    strayed,
    truth,
    verdicts,
    verified,
)
from vlm_double import double

from s2v.datapipe.base import records
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.verifying import select_verified

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
    else:
        in_this_process(monkeypatch.setattr)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return paired_world(tmp_path)


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
