"""Steps of the data plan: nobody waits, nothing is lost, and nobody can tell who computed them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.model.config import Config
from s2v.model.data.buckets import Bucket, Sizing
from s2v.model.data.plan import Draw, Plan
from s2v.model.data.pool import Pool, pool_of
from s2v.model.data.steps import Step, StepPlan
from s2v.model.errors import ModelError
from s2v.model.mmdit import Widths

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))  # scripts, no package

from bench_loader_balance import naive_steps
from drawn_durations import drawn, wan

WIDTHS = Widths(16, 4096, 1280)


def _plan(config: Config, samples: int = 4000, seed: int = 0) -> StepPlan:
    return StepPlan.of(config, pool_of(drawn(samples, seed), config.data), WIDTHS)


def _ids(steps: Sequence[Step]) -> list[list[str]]:
    return [[d.sample_id for micro in step.slots for d in micro.draws] for step in steps]


@pytest.mark.parametrize("group", ["false", "true"])
@pytest.mark.parametrize("slots", [8, 64])
def test_no_rank_waits_long_for_another(slots: int, group: str) -> None:
    config = wan(f"train.slots={slots}", f"data.group_references={group}")
    plan = _plan(config)
    steps = [plan.next() for _ in range(100)]
    assert plan.imbalance < 0.05
    assert max(step.imbalance() for step in steps) < 0.05
    for world in (2, 4, 8):  # whoever shares the slots
        most = sum(max(_costs(s, world)) for s in steps)
        assert most / sum(np.mean(_costs(s, world)) for s in steps) - 1 < 0.05
    # What buckets of equal tokens do on the same samples, each rank taking the next full one.
    naive = naive_steps(_plan(config), 100)
    assert naive > 0.2


def _costs(step: Step, world: int) -> list[float]:
    return [sum(m.cost for m in step.of_rank(rank, world)) for rank in range(world)]


def test_both_bounds_hold_for_every_micro_batch() -> None:
    config = wan("train.slots=8", "train.batch=2", "data.max_tokens=70000")
    plan = _plan(config)
    dearest = 2 * max(plan.sizing.cost.values())
    for _ in range(50):
        for micro in plan.next().slots:
            n = len(micro.draws)
            assert n * plan.sizing.tokens[micro.bucket] <= 70_000
            assert micro.cost == pytest.approx(n * plan.sizing.cost[micro.bucket])
            assert micro.cost <= dearest * 1.000001
    with pytest.raises(ModelError, match=r"max_tokens 100: one sample of .* has"):
        _plan(wan("data.max_tokens=100"))


def test_every_sample_comes_once_per_epoch_through_the_steps() -> None:
    """Nothing drawn is thrown away: taken or waiting, each sample once for each epoch."""
    config = wan("train.slots=4")
    plan = _plan(config, samples=600)
    taken: list[Draw] = []
    for _ in range(400):
        taken += [d for micro in plan.next().slots for d in micro.draws]
        assert plan.pending <= plan.max_pending
    waiting = [(n, s, t) for n, s, t, _ in plan.state()["pending"]]
    drawn_all = sorted([(d.number, d.source, d.turn) for d in taken] + waiting)
    assert [n for n, _, _ in drawn_all] == list(range(len(drawn_all)))  # none lost, none twice
    for source, size in plan.pool.counts.items():
        by_epoch = Counter(turn // size for _, s, turn in drawn_all if s == source)
        last = max(by_epoch)
        assert last >= 2
        assert all(by_epoch[epoch] == size for epoch in range(last))
    assert len(taken) > 2 * plan.pool.size


def test_nothing_waits_for_ever() -> None:
    """A size that one sample in a thousand has must not keep that sample waiting for company."""
    common, rare = Bucket(17, 64, 64, 0), Bucket(81, 64, 64, 0)
    ids = [f"{n:04d}" for n in range(1000)]
    pool = Pool.of_ids({"in": ids})
    places = np.zeros(1000, np.int16)
    places[7] = 1
    pool = Pool(pool.ids, pool.rows, (common, rare), (places,), pool.shown)
    sizing = Sizing(
        {common: 1.0, rare: 4.3}, {common: 1, rare: 4}, {common: 1, rare: 4}, {common: 4, rare: 1}
    )
    plan = StepPlan(pool, [{"in": 1.0}], [0], sizing, slots=4, seed=3)
    number = next(n for n in range(1000) if plan.plan.copy().at(n, "in", n).row == 7)
    for _ in range(200):
        step = plan.next()
        if any(micro.bucket == rare for micro in step.slots):
            assert step.imbalance() < 0.1  # the nearest in cost there are: 4 to 4.3
            break
    else:
        pytest.fail("the rare sample never came")
    first = min(d.number for micro in step.slots for d in micro.draws)
    assert first == number  # it was the oldest by then
    assert max(d.number for m in step.slots for d in m.draws) - number <= plan.max_pending


def test_draws_that_wait_keep_the_size_of_their_phase_over_a_restart() -> None:
    small, large = Bucket(17, 64, 64, 0), Bucket(33, 64, 64, 0)
    base = Pool.of_ids({"in": [f"{n:03d}" for n in range(50)]})
    mixed = (np.arange(50) % 3 == 0).astype(np.int16)
    pool = Pool(base.ids, base.rows, (small, large), (1 - mixed, mixed), base.shown)
    sizing = Sizing({small: 1.0, large: 2.0}, {small: 1, large: 2}, {small: 1, large: 2},
                    {small: 4, large: 2})  # fmt: skip

    def plan() -> StepPlan:
        return StepPlan(pool, [{"in": 1.0}] * 2, [0, 4], sizing, slots=4, seed=1)

    straight = plan()
    waited = set()
    for done in range(12):
        state = json.loads(json.dumps(straight.state()))
        waited |= {phase for *_, phase in state["pending"]}
        other = plan()
        other.restore(state)
        assert other.peek(4) == straight.peek(4), done  # buckets, too
        straight.next()
    assert waited == {0, 1}  # else this has shown nothing


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    slots=st.sampled_from([4, 8]),
    cut=st.integers(0, 30),
    group=st.booleans(),
)
def test_any_world_size_and_any_restart_give_the_same_samples(
    seed: int, slots: int, cut: int, group: bool
) -> None:
    config = wan(
        f"train.slots={slots}", f"train.seed={seed}", f"data.group_references={str(group).lower()}"
    )
    whole = _plan(config, 300, seed)
    steps = [whole.next() for _ in range(40)]
    for world in (1, 2, 4):
        ranks = [[m for s in steps for m in s.of_rank(rank, world)] for rank in range(world)]
        together = sorted(d.number for rank in ranks for m in rank for d in m.draws)
        assert together == sorted(d.number for s in steps for m in s.slots for d in m.draws)
        assert len(set(together)) == len(together)  # none twice across ranks
        again = [
            [ranks[n % world][s * slots // world + n // world] for n in range(slots)]
            for s in range(len(steps))
        ]
        assert [tuple(one) for one in again] == [s.slots for s in steps]
    stopped = _plan(config, 300, seed)
    for _ in range(cut):
        stopped.next()
    resumed = _plan(config, 300, seed)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert [resumed.next() for _ in range(40 - cut)] == steps[cut:]
    assert resumed.imbalance == whole.imbalance


def test_one_size_needs_no_buffer_and_no_other_order() -> None:
    """The plain case: step n has the samples n * batch to (n + 1) * batch of the stream."""
    pool = Pool.of_ids({"in": [f"i{n}" for n in range(10)], "cross": ["c0", "c1", "c2"]})
    only = pool.buckets[0]
    sizing = Sizing({only: 1.0}, {only: 1}, {only: 1}, {only: 4})
    for slots in (1, 2, 4):
        plan = StepPlan(pool, [{"in": 0.7, "cross": 0.3}], [0], sizing, slots=slots, seed=1)
        for n in range(20):
            numbers = [d.number for micro in plan.next().slots for d in micro.draws]
            assert numbers == list(range(n * 4 * slots, (n + 1) * 4 * slots))
            assert plan.pending == 0


def test_a_phase_begins_at_its_step_with_its_own_mixture_and_sizes() -> None:
    phases = (
        "data.phases=[{ from_step = 20, mix = { cross = 1.0 } },"
        " { from_step = 40, mix = { in = 0.3, cross = 0.7 }, sizes = [[81, 720, 1280]] }]"
    )
    config = wan("train.slots=2", "data.mix={ in = 1.0 }", "data.sizes=[[49, 480, 832]]", phases)
    plan = _plan(config, 500)
    steps = [plan.next() for _ in range(80)]
    assert [step.phase for step in steps] == [0] * 20 + [1] * 20 + [2] * 40
    numbers: dict[int, list[Draw]] = {}
    for step in steps:
        for micro in step.slots:
            numbers.setdefault(step.phase, []).extend(micro.draws)
    assert {d.source for d in numbers[0]} == {"in"}
    # Draws of the phase before that waited come first; from then on its own mixture is.
    late = [d for d in numbers[1] if d.source == "in"]
    assert len(late) <= plan.max_pending
    assert {m.bucket.size for s in steps[45:] for m in s.slots} == {(81, 720, 1280)}
    assert {m.bucket.size for s in steps[:20] for m in s.slots} == {(49, 480, 832)}
    # A source goes on through its samples from one phase to the next: none comes twice early.
    in_turns = [d.turn for n in numbers.values() for d in n if d.source == "in"]
    assert len(set(in_turns)) == len(in_turns)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=2, max_size=4),
    st.lists(st.integers(1, 100), min_size=2, max_size=4),
    st.integers(1, 150),
)
def test_each_phase_mixes_exactly_by_itself(first: list[int], then: list[int], at: int) -> None:
    names = [f"s{i}" for i in range(4)]
    pool = Pool.of_ids({name: [f"{name}-{n}" for n in range(30)] for name in names}, phases=2)
    mixes = [dict(zip(names, map(float, one), strict=False)) for one in (first, then)]
    plan = Plan(pool, mixes, 0)
    drawn_: list[Counter[str]] = [Counter(), Counter()]
    for n in range(300):
        phase = int(n >= at)
        drawn_[phase][plan.next(phase).source] += 1
        total = drawn_[phase].total()
        share = plan.share[phase]
        assert all(abs(drawn_[phase][s] - share[s] * total) < 1 for s in share)


def test_a_restart_within_a_phase_goes_on_with_its_mixture() -> None:
    """Counted anew at every restart, it would begin each time with the same source."""
    pool = Pool.of_ids({s: [f"{s}-{n}" for n in range(30)] for s in ("in", "cross")}, phases=2)
    mixes = [{"in": 1.0, "cross": 1.0}, {"in": 0.6, "cross": 0.4}]
    for stopped in range(1, 12):
        straight = Plan(pool, mixes, 0)
        for n in range(7 + stopped):
            straight.next(int(n >= 7))
        resumed = Plan(pool, mixes, 0)
        resumed.restore(json.loads(json.dumps(straight.state())))
        assert [resumed.next(1) for _ in range(20)] == [straight.next(1) for _ in range(20)]


def test_a_damaged_or_foreign_state_is_not_continued() -> None:
    config = wan("train.slots=4")
    plan = _plan(config, 300)
    for _ in range(5):
        plan.next()
    state = plan.state()
    assert state["pending"]
    with pytest.raises(ModelError, match="damaged"):
        _plan(config, 300).restore(state | {"pending": state["pending"][1:]})
    with pytest.raises(ModelError, match=r"train\.slots changed"):
        _plan(wan("train.slots=8"), 300).restore(state)
    with pytest.raises(ModelError, match=r"samples, data\.mix or train\.seed changed"):
        _plan(config, 301).restore(state)


def test_the_state_does_not_grow() -> None:
    config = wan("train.slots=4")
    plan = _plan(config, 500)
    sizes = []
    for _ in range(300):
        plan.next()
        sizes.append(len(json.dumps(plan.state())))
    assert max(sizes[150:]) <= 1.3 * max(sizes[:150])
    assert len(plan.state()["pending"]) <= plan.max_pending


def test_the_weight_of_a_step_is_known_from_the_plan() -> None:
    by_token = _plan(wan("train.slots=4", "flow.reduction=token"), 300)
    by_sample = _plan(wan("train.slots=4"), 300)
    for _ in range(10):
        a, b = by_token.next(), by_sample.next()
        assert b.weight == b.samples
        tokens = [(m.bucket.frames + 3) // 4 * (m.bucket.height // 16) * (m.bucket.width // 16)
                  for m in a.slots for _ in m.draws]  # fmt: skip
        assert a.weight == sum(tokens)
