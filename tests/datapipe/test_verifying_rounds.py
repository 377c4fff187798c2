"""Pairs that the verifier refuses make room for the next: bounded, once, and always the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_selection import changed, rows
from synthetic_tables import World
from verify_world import (
    answer,
    asked,
    code_of,
    codes,
    ends,
    in_this_process,
    judges,
    measured_of,
    paired_world,
    pairs,
    roles_of,
    settings_of,
    truth,
    verdicts,
)
from vlm_double import MODEL, Handler, double

from s2v.datapipe.backends.vlm import fleet
from s2v.datapipe.base import records
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import Node
from s2v.datapipe.measuring import QuarantineBudgetError
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.judge import _reaches
from s2v.datapipe.pair.select import select
from s2v.datapipe.serving import Servers, make_roles
from s2v.datapipe.verifying import Verified, select_verified

YES = ("yes", "yes")


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    in_this_process(monkeypatch.setattr)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return paired_world(tmp_path)


def few(run: Path, url: str, candidates: int, rounds: int) -> Settings:
    """Lists so short that a refusal leaves a target with nothing."""
    made = settings_of(run, url)
    asking = {"candidates": candidates, "verifier_rounds": rounds}
    retrieval = made.select.retrieval.model_copy(update=asking)
    return made.model_copy(
        update={"select": made.select.model_copy(update={"retrieval": retrieval})}
    )


def verified(world: World, chosen: Settings, **other: Any) -> Verified:
    roles = roles_of(chosen)
    return select_verified(chosen, roles, measured_of(world, chosen, roles), quiet=True, **other)


def passing_lists(world: World, run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Every pair that the rules let through, by target and search, in the order of the search."""
    whole = select(world.tables(), few(run, "http://127.0.0.1:9", 64, 1).select)
    lists = defaultdict(list)
    rows = [row for row in whole.pairs.to_pylist() if not set(row["rules"]) - {"identity_conflict"}]
    score = {"faces": "face_similarity", "joint": "joint_similarity"}
    for row in rows:
        lists[row["target_subject_id"], row["search"]].append(row)
    for (_, search), found in lists.items():
        by = score.get(search, "similarity")
        found.sort(key=lambda row: (-row[by], row["reference_subject_id"]))
    return dict(lists)


def expected(
    world: World, run: Path, candidates: int, rounds: int
) -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    """Pairs asked about, and told yes twice, by asking list after list, round after round."""
    plain = select(world.tables(), settings_of(run, "http://127.0.0.1:9").select)
    best = {row["subject_id"]: row["detection_id"] for row in plain.subjects.to_pylist()}

    def said(row: dict[str, Any]) -> tuple[str, str]:
        one, other = (code_of(best[row[f"{side}_subject_id"]]) for side in ("target", "reference"))
        return truth(one, other)

    questions, accepted = set(), set()
    for found in passing_lists(world, run).values():
        at = 0
        missing = candidates
        for _ in range(rounds):
            heard = found[at : at + missing]
            at += len(heard)
            questions |= {ends(row) for row in heard}
            yes = [row for row in heard if said(row) == YES]
            accepted |= {ends(row) for row in yes}
            missing = len(heard) - len(yes)
    return questions, accepted


@pytest.mark.parametrize(("candidates", "rounds"), [(1, 1), (1, 2), (1, 9), (2, 3)])
def test_a_refused_pair_is_replaced_by_the_next_that_the_rules_let_through(
    world: World, tmp_path: Path, candidates: int, rounds: int
) -> None:
    questions, accepted = expected(world, tmp_path, candidates, rounds)
    with double(judges(11)) as server:
        chosen = few(tmp_path, server.url, candidates, rounds)
        made = verified(world, chosen)
        assert asked(server).most_common(1)[0][1] == 1, "a question was put twice"
    assert {ends(row) for row in verdicts(made)} == questions
    assert made.asked == len(questions)
    assert made.missing == 0
    told_yes = {
        ends(row)
        for row in verdicts(made)
        if (row["same_identity"], row["different_context"]) == YES
    }
    assert told_yes == accepted
    kept = {ends(row) for row in pairs(made) if row["accepted"]}
    assert kept <= accepted
    conflicts = {ends(row) for row in pairs(made) if "identity_conflict" in row["rules"]}
    assert accepted - kept <= conflicts
    check(made.tables, made.selection, chosen.select)


def test_more_rounds_only_add_pairs_and_some_targets_need_them(
    world: World, tmp_path: Path
) -> None:
    with double(judges(12)) as server:
        once, often = (verified(world, few(tmp_path, server.url, 1, rounds)) for rounds in (1, 9))
        assert asked(server).most_common(1)[0][1] == 1
    told = [{ends(row) for row in verdicts(one) if one is not None} for one in (once, often)]
    assert told[0] < told[1]
    with_reference = [
        {row["target_subject_id"] for row in pairs(one) if row["accepted"]} for one in (once, often)
    ]
    assert with_reference[0] < with_reference[1], "no target was helped by a second choice"


def test_the_way_there_leaves_no_trace(world: World, tmp_path: Path) -> None:
    """Few rounds first, another width, then the wanted ones: as if they had been asked at once."""
    fresh = tmp_path / "fresh"
    world.store_frames(fresh)
    with double(judges(13)) as server:
        for candidates, rounds in ((1, 2), (3, 1)):
            verified(world, few(tmp_path, server.url, candidates, rounds))
        late = verified(world, few(tmp_path, server.url, 2, 3))
        direct = verified(world, few(fresh, server.url, 2, 3))
    assert late.selection.pairs.equals(direct.selection.pairs)
    assert late.selection.samples.equals(direct.selection.samples)
    # And without the model, from what is committed.
    again = verified(world, few(tmp_path, "http://127.0.0.1:9", 2, 3), ask=False)
    assert again.selection.pairs.equals(direct.selection.pairs)


def test_no_answer_counts_as_a_refusal_and_asking_again_gives_the_same_as_an_answer_at_once(
    world: World, tmp_path: Path
) -> None:
    """Quarantined pairs are replaced; reopened, their lists are walked anew from the start."""
    fresh = tmp_path / "fresh"
    world.store_frames(fresh)

    def broken(request: dict[str, Any], handler: Handler) -> None:
        if sum(codes(request)) % 3 and "response_format" in request:
            handler.say('{"note": "no verdict"}')
        else:
            handler.say(answer(*codes(request)) if "response_format" in request else "grey")

    with double(broken) as server:
        chosen = few(tmp_path, server.url, 1, 4)
        loose = chosen.model_copy(
            update={"engine": chosen.engine.model_copy(update={"quarantine_budget": 1.0})}
        )
        first = verified(world, loose)
        strict = few(tmp_path / "strict", server.url, 1, 4)
        world.store_frames(tmp_path / "strict")
        before = len(server.requests)
        with pytest.raises(QuarantineBudgetError, match="pairs in quarantine"):
            verified(world, strict)
        once = sum("response_format" in r for r in server.requests[before:])
    lost = [row for row in verdicts(first) if row["reason"] is not None]
    assert lost
    assert once < 3 * len(verdicts(first)), "a broken prompt was asked through all rounds"
    told = Counter(row["target_subject_id"] for row in pairs(first) if not row["rules"])
    quarantined = {ends(row) for row in lost}
    replaced = [
        row for row in pairs(first) if ends(row) in quarantined and told[row["target_subject_id"]]
    ]
    assert replaced, "no target whose first choice had no answer got another"
    check(first.tables, first.selection, loose.select)

    with double(judges(15)) as server:
        again = verified(world, few(tmp_path, server.url, 1, 4), retry_quarantine=True)
        asked_again = asked(server)
        direct = verified(world, few(fresh, server.url, 1, 4))
    assert asked_again.most_common(1)[0][1] == 1
    assert again.selection.pairs.equals(direct.selection.pairs)
    assert again.selection.samples.equals(direct.selection.samples)


def test_a_verdict_of_another_subject_keeps_the_two_apart_however_alike_they_are() -> None:
    """Above `pair.strong` a likeness alone links an identity; a "no" is the better witness."""
    world = World()
    world.source("film", seconds=100)
    for start in (1, 41):
        world.subject(world.clip("film", start, start + 6), "cup", "thing", noun="cup",
                      closeness=0.94)  # fmt: skip
    rules = changed(pair={"strong": 0.85})
    plain = select(world.tables(), rules)
    (pair, _) = rows(plain, "pairs")
    assert pair["accepted"], pair["rules"]
    best = {row["subject_id"]: row["detection_id"] for row in rows(plain, "subjects")}
    first, second = sorted(best[pair[f"{side}_subject_id"]] for side in ("target", "reference"))
    for same, count in (("yes", 1), ("no", 2)):
        said = {"target_detection_id": first, "reference_detection_id": second}
        said |= {"verdict_id": "v", "same_identity": same, "different_context": "yes"}
        made = select(world.tables(), rules, verdicts=records.table("verdicts", [said]))
        assert len({row["identity_id"] for row in rows(made, "subjects")}) == count


LISTS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=24)


@settings(max_examples=200, deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 5))
def test_a_list_reaches_as_far_as_asking_it_round_by_round_would(
    drawn: list[list[tuple[bool, bool]]], candidates: int, rounds: int
) -> None:
    lists = [row for row in drawn if row] or [[(True, False)]]
    list_of = np.repeat(np.arange(len(lists)), [len(row) for row in lists])
    passing = np.array([p for row in lists for p, _ in row])
    refused = passing & np.array([r for row in lists for _, r in row])
    got = _reaches(list_of, len(lists), passing, refused, candidates, rounds)
    for n, row in enumerate(lists):
        answers = [r for p, r in row if p]  # of those who pass: was it refused
        at, lost = candidates, sum(answers[:candidates])
        for _ in range(rounds - 1):
            at, lost = at + lost, sum(answers[at : at + lost])
        assert candidates <= got[n] == at <= candidates * rounds


def served(run: Path) -> Settings:
    """The verifier asks a server that the run starts itself."""
    plain = few(run, "http://127.0.0.1:9", 1, 9).model_dump(mode="json", by_alias=True)
    del plain["roles"]["verifier"]["urls"]
    del plain["roles"]["verifier"]["model"]
    (run / "model").mkdir(parents=True, exist_ok=True)
    return Settings.model_validate(
        {**plain, "serve": {"model": str(run / "model"), "served_name": MODEL, "gpus": 0}}
    )


class Starts:
    """Stands for vLLM: the double's address, and how often it was asked to start and to end."""

    def __init__(self, url: str) -> None:
        self.url, self.counts = url, Counter[str]()

    @contextmanager
    def serving(self, settings: Any, count: int = 1) -> Iterator[list[str]]:
        self.counts["start"] += 1
        try:
            yield [self.url]
        finally:
            self.counts["end"] += 1

    def check(self, settings: Any, count: int = 1) -> None:
        self.counts["check"] += 1


def test_a_server_of_the_runs_own_starts_once_for_all_rounds_and_stays_if_it_is_up(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2v.datapipe.serving.start_ray", lambda cpus: None)
    monkeypatch.setattr("s2v.datapipe.verifying.cluster", lambda: [Node(4, 0, 8)])
    with double(judges(14)) as server:
        starts = Starts(server.url)
        monkeypatch.setattr(fleet, "serving", starts.serving)
        monkeypatch.setattr(fleet, "check_serving", starts.check)
        chosen = served(tmp_path)
        roles = make_roles(chosen)
        measured = measured_of(world, chosen, roles)
        alone = select_verified(chosen, roles, measured, quiet=True)
        assert alone.asked > alone.selection.subjects.num_rows // 4, "there were several rounds"
        assert starts.counts == {"check": 1, "start": 1, "end": 1}

        # Up already, as after captions: neither checked (it would wait for its own GPUs) nor
        # started again, and its end is the affair of whoever holds it.
        other = served(tmp_path / "other")
        world.store_frames(tmp_path / "other")
        starts.counts.clear()
        with Servers(other) as held:
            held.roles()
            made = select_verified(other, roles, measured, (), held, quiet=True)
            assert starts.counts == {"start": 1}
            held.keep_for({"verifier"})
            assert held.up
            held.keep_for({"captioner"})
            assert not held.up
        assert starts.counts == {"start": 1, "end": 1}
        assert made.selection.pairs.equals(alone.selection.pairs)
        # Nothing to ask: no server.
        starts.counts.clear()
        select_verified(chosen, roles, measured, quiet=True)
        assert not starts.counts
