"""A study whose order favours a model measures the order."""

from collections import Counter
from itertools import combinations, pairwise

import pytest

from s2v.evals.errors import EvalError
from s2v.evals.study.design import Slot, plan, williams

GROUPS = [f"g{n}" for n in range(12)]
MODELS = ["a", "b", "c", "d"]


def items(slots: list[Slot]) -> list[Slot]:
    return [s for s in slots if s.kind == "item"]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_williams_squares_balance_places_and_neighbours(n: int) -> None:
    rows = williams(n)
    assert all(sorted(row) == list(range(n)) for row in rows)
    times = len(rows) // n
    for place in range(n):
        assert Counter(row[place] for row in rows) == dict.fromkeys(range(n), times)
    after = Counter(two for row in rows for two in pairwise(row))
    assert set(after.values()) <= {times}
    assert len(after) == n * (n - 1)


@pytest.mark.parametrize("mode", ["scale", "pairwise"])
def test_everybody_sees_every_method_of_their_groups_once(mode: str) -> None:
    shown = 4 if mode == "scale" else 6
    for slots in plan(GROUPS, MODELS, mode=mode, raters=6, per_rater=4):  # type: ignore[arg-type]
        mine = items(slots)
        assert len(mine) == 4 * shown
        assert len({(s.group, frozenset(s.models)) for s in mine}) == len(mine)
        assert len({s.group for s in mine}) == 4


def test_groups_are_rated_equally_often_and_models_stand_at_every_place() -> None:
    sessions = plan(GROUPS, MODELS, mode="scale", raters=12, per_rater=4, gold=0, repeats=0)
    often = Counter(s.group for slots in sessions for s in slots)
    assert set(often.values()) == {12 * 4 * 4 // 12}
    blocks = [Counter(s.models[0] for slots in sessions for s in slots[4 * b : 4 * b + 4])
              for b in range(4)]  # fmt: skip
    assert all(set(block.values()) == {12} for block in blocks)


def test_each_pair_has_its_sides_turned_equally_often() -> None:
    sessions = plan(GROUPS, MODELS, mode="pairwise", raters=10, per_rater=6, gold=0, repeats=0)
    left = Counter(s.models for slots in sessions for s in slots)
    for a, b in combinations(MODELS, 2):
        assert abs(left[a, b] - left[b, a]) <= 12  # one of each of the twelve groups
    per_group = Counter((s.group, s.models) for slots in sessions for s in slots)
    for group in GROUPS:
        for a, b in combinations(MODELS, 2):
            assert abs(per_group[group, (a, b)] - per_group[group, (b, a)]) <= 1


def test_repeats_come_late_and_turned_and_name_their_first_showing() -> None:
    for slots in plan(GROUPS, MODELS, mode="pairwise", raters=5, per_rater=4, repeats=3):
        again = [(n, s) for n, s in enumerate(slots) if s.kind == "repeat"]
        assert len(again) == 3
        for n, slot in again:
            assert slot.of is not None
            assert n - slot.of >= 4
            first = slots[slot.of]
            assert (first.kind, first.group) == ("item", slot.group)
            assert first.models == slot.models[::-1]


def test_gold_is_never_first_and_its_damaged_side_varies() -> None:
    sessions = plan(GROUPS, MODELS, mode="pairwise", raters=20, per_rater=3, gold=2)
    gold = [s for slots in sessions for s in slots if s.kind == "gold"]
    assert len(gold) == 40
    assert all(slots[0].kind == "item" for slots in sessions)
    assert {s.damaged for s in gold} == {0, 1}
    assert all(s.models[0] == s.models[1] for s in gold)


def test_the_seed_decides_and_nothing_else() -> None:
    first, second, other = (
        plan(GROUPS, MODELS, mode="scale", raters=3, per_rater=5, seed=s) for s in (4, 4, 5)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": []}, "every model answered"),
        ({"models": ["a"], "mode": "pairwise"}, "more models"),
        ({"raters": 0}, "raters=0"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    wanted: dict[str, object] = {"groups": GROUPS, "models": MODELS, "mode": "scale", "raters": 2,
                                 "per_rater": 2}  # fmt: skip
    wanted |= changes
    with pytest.raises(EvalError, match=message):
        plan(wanted.pop("groups"), wanted.pop("models"), **wanted)  # type: ignore[arg-type]
