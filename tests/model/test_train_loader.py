"""The loader: workers change only the time, bad samples cost only themselves."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s2v.model.data import workers
from s2v.model.data.buckets import Bucket, Sizing
from s2v.model.data.fetch import Fetch
from s2v.model.data.loader import Loader
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.steps import Micro, StepPlan
from s2v.model.errors import ModelError

sys.path.append(str(Path(__file__).parent))  # workers import it too

from drawn_reading import Drawn

SMALL, LARGE = Bucket(5, 16, 16, 0), Bucket(9, 16, 16, 0)
Steps = list[list[list[tuple[int, str]]]]


def _pool(large: int = 10) -> Pool:
    """Thirty in-pairs and ten cross-pairs; the last ``large`` in-pairs are of another size."""
    pool = Pool.of_ids(
        {"in": [f"i{n:02d}" for n in range(30)], "cross": [f"c{n}" for n in range(10)]}
    )
    places = np.zeros(40, np.int16)
    places[40 - large :] = 1
    return Pool(pool.ids, pool.rows, (SMALL, LARGE), (places,), pool.shown)


def _plan(pool: Pool | None = None, slots: int = 4) -> StepPlan:
    sizing = Sizing({SMALL: 1.0, LARGE: 2.0}, {SMALL: 1, LARGE: 2}, {SMALL: 1, LARGE: 2},
                    {SMALL: 4, LARGE: 2})  # fmt: skip
    return StepPlan(pool or _pool(), [{"in": 0.7, "cross": 0.3}], [0], sizing, slots=slots, seed=5)


def _together(bucket: Bucket, draws: Any, items: Any) -> list[tuple[int, str]]:
    assert all(item["frames"] == bucket.frames for item in items)
    assert all(item["value"].dtype == torch.bfloat16 for item in items)
    assert [item["id"] for item in items] == [draw.sample_id for draw in draws]
    return [(draw.number, draw.sample_id) for draw in draws]


def _loader(read: Drawn, plan: StepPlan | None = None, **options: Any) -> Loader[Any, Any]:
    plan = plan or _plan()
    return Loader(plan, Fetch(plan.pool, read, 5), _together, **({"until": 12} | options))


def _all(loader: Loader[Any, Any]) -> Steps:
    return [[part.batch for part in parts] for _, parts in loader]


def _slots(ranks: list[Steps]) -> Steps:
    """Steps of all slots in order, from what the ranks had."""
    world = len(ranks)
    return [
        [ranks[n % world][s][n // world] for n in range(world * len(ranks[0][s]))]
        for s in range(len(ranks[0]))
    ]


BAD = frozenset({"i03", "i11", "i25", "c4"})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_world_size_and_workers_change_no_sample_even_where_some_are_bad(
    world: int, workers: int
) -> None:
    alone = _all(_loader(Drawn(bad=BAD)))
    planned = [d for s in (_plan().next() for _ in range(12)) for m in s.slots for d in m.draws]
    if world == 1 and workers == 0:
        return
    read = Drawn(bad=BAD, slow_s=0.002 if workers else 0.0)  # late ones must not be overtaken
    ranks = [_all(_loader(read, rank=r, world=world, workers=workers)) for r in range(world)]
    assert _slots(ranks) == alone
    ids = [i for step in alone for slot in step for _, i in slot]
    assert not BAD & set(ids)
    assert any(d.sample_id in BAD for d in planned)  # some had to be filled in
    assert len(ids) > 100


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_stopped_at_any_step_the_rest_is_the_same(before: int, after: int) -> None:
    """What was read ahead and never handed out is read again, by whatever number of workers."""
    whole = _all(_loader(Drawn()))
    for cut in (1, 7):
        loader = _loader(Drawn(), workers=before)
        steps = []
        for _, parts in loader:
            steps.append([part.batch for part in parts])
            if len(steps) == cut:
                state = json.loads(json.dumps(loader.state()))
                break
        resumed = _loader(Drawn(), workers=after, rank=0, world=1)
        resumed.restore(state)
        assert steps + _all(resumed) == whole


def test_a_stand_in_is_of_the_same_size_and_source_and_is_counted() -> None:
    plan = _plan()
    loader = _loader(Drawn(bad=BAD), quarantine=Quarantine(20))
    places = {
        str(i): int(p) for i, p in zip(plan.pool.ids.to_pylist(), plan.pool.places[0], strict=True)
    }
    filled = 0
    for _, parts in loader:
        for part in parts:
            assert part.bucket == part.micro.bucket
            for was, now in zip(part.micro.draws, part.draws, strict=True):
                assert (was.number, was.epoch) == (now.number, now.epoch)  # its noise stays
                if was.sample_id in BAD:
                    filled += 1
                    assert now.sample_id[0] == was.sample_id[0]
                    assert places[now.sample_id] == places[was.sample_id]
                else:
                    assert was == now
    assert loader.figures.stand_ins == filled > 0
    assert {f.sample_id for f in loader.quarantine.faults} <= BAD  # each once, however often met
    assert len(loader.quarantine.faults) == len({f.sample_id for f in loader.quarantine.faults})


def test_not_the_same_sample_stands_in_for_all() -> None:
    """Else one clip would be seen as often as all the unreadable ones together."""
    pool = _pool()
    fetch = Fetch(pool, Drawn(bad=frozenset({"i00"})), 5)
    row = pool.ids.to_pylist().index("i00")
    found = [
        fetch(Micro(SMALL, (Draw(number, "in", "i00", 0, 0, row),), 1.0)).draws[0]
        for number in range(40)
    ]
    assert [draw.number for draw in found] == list(range(40))
    assert len({draw.sample_id for draw in found}) > 10


def test_a_stand_in_is_of_the_size_that_holds_in_its_phase() -> None:
    """From 480p to 720p: who stands in for a bad sample of 720p is read at 720p."""
    pool = _pool()
    places = (np.zeros(40, np.int16), np.ones(40, np.int16))
    pool = Pool(pool.ids, pool.rows, (SMALL, LARGE), places, pool.shown)
    fetch = Fetch(pool, Drawn(bad=frozenset({"i00"})), 5)
    draw = Draw(3, "in", "i00", 0, 0, pool.ids.to_pylist().index("i00"))
    for phase, bucket in enumerate((SMALL, LARGE)):
        got = fetch(Micro(bucket, (draw,), 1.0, phase))
        assert got.bucket == bucket
        assert got.draws[0].sample_id != "i00"
        assert got.items[0]["frames"] == bucket.frames


def test_one_bad_sample_never_ends_a_run_not_even_the_only_one_of_its_size() -> None:
    pool = _pool(large=1)
    only = next(i for i, p in zip(pool.ids.to_pylist(), pool.places[0], strict=True) if p == 1)
    plan = _plan(pool)
    loader = _loader(Drawn(bad=frozenset({only})), plan, until=60)
    moved = [part for _, parts in loader for part in parts if part.bucket != part.micro.bucket]
    assert moved
    assert all(part.bucket == SMALL and len(part.draws) == len(part.micro.draws) for part in moved)


def test_broken_shards_stop_the_run_by_the_fuse() -> None:
    everything = frozenset(_pool().ids.to_pylist())
    most = frozenset(name for name in everything if not name.endswith("0"))
    with pytest.raises(ModelError, match=r"9 samples in a row .*in-000000\.tar.*cut short"):
        _all(_loader(Drawn(bad=most), quarantine=Quarantine(9)))
    with pytest.raises(ModelError, match=r"none of \d+ samples .*cut short"):
        _all(_loader(Drawn(bad=everything), quarantine=Quarantine(10_000)))
    with pytest.raises(ModelError, match=r"none of \d+ samples .*cut short"):
        _all(_loader(Drawn(bad=everything), quarantine=Quarantine(10_000), workers=1))


def test_samples_that_a_list_excludes_are_no_faults() -> None:
    loader = _loader(Drawn(left_out=BAD), quarantine=Quarantine(2))
    ids = {i for step in _all(loader) for slot in step for _, i in slot}
    assert not ids & BAD
    assert loader.figures.excluded > 0
    assert not loader.quarantine.faults


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (Drawn(dies="i07"), r"died by signal 9 while it read sample i07; .*lower data\.workers.*"
                            r'"key_type": "sample_id", "key": "i07"'),
        (Drawn(hangs="i07"), r"sample i07 has been read for 1 s and hangs .*worker_timeout_s"),
    ],
)  # fmt: skip
def test_a_dying_or_hanging_worker_is_named_with_its_sample(read: Drawn, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=said):
        _all(_loader(read, workers=2, timeout_s=1.0))
    assert time.monotonic() - began < 60


def test_a_worker_that_takes_long_to_start_is_no_sample_that_hangs() -> None:
    """On a busy machine loading torch takes longer than a sample may."""
    slow = _all(_loader(Drawn(starts_s=2.0), workers=2, timeout_s=0.5))
    assert slow == _all(_loader(Drawn()))


def test_a_worker_that_never_starts_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_START_S", 0.2)
    with pytest.raises(ModelError, match=r"s2v-read-\d has not begun .*data\.workers = 0"):
        _all(_loader(Drawn(starts_s=600), workers=2, timeout_s=0.1))


def test_a_bug_in_reading_is_told_whole() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)sample i07: .*a bug in the reader"):
        _all(_loader(Drawn(fails="i07"), workers=1))


def test_no_process_is_left_behind() -> None:
    loader = _loader(Drawn(), workers=2)
    for _ in loader:
        break
    deadline = time.monotonic() + 20
    while (left := _readers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _readers() -> list[str]:
    import multiprocessing as mp

    return [p.name for p in mp.active_children() if p.name.startswith("s2v-read")]


def test_reading_ahead_is_bounded_by_memory(tmp_path: Path) -> None:
    """Batches of 2 MB, room for 12: while a step is trained on, no more is read than fits."""
    log = tmp_path / "read"
    read = Drawn(numbers=250_000, log=log)  # 0.5 MB a sample, four to a slot
    loader = _loader(read, _plan(slots=1), until=40, workers=2, prefetch_bytes=12 << 20)
    steps = iter(loader)
    for _ in range(4):  # by now it is known how large they are
        next(steps)
    time.sleep(1.5)
    first = len(log.read_text().split())
    time.sleep(0.5)
    ahead = first - 4 * 4
    assert len(log.read_text().split()) == first  # it stands still
    assert 8 <= ahead <= 4 * (6 + 2)
    del steps


def test_waiting_for_data_is_measured() -> None:
    slow = _loader(Drawn(slow_s=0.02), until=4)
    _all(slow)
    assert slow.figures.waited_s > 4 * 0.02
    assert 0 < slow.figures.last_wait_s < slow.figures.waited_s


def test_a_world_that_does_not_divide_the_slots_is_refused() -> None:
    with pytest.raises(ModelError, match=r"train\.slots 4 does not divide by 3 .*\[1, 2, 4\]"):
        _loader(Drawn(), world=3)


def test_a_disk_that_fails_once_costs_nothing() -> None:
    class Flaky(Drawn):
        def __call__(self, draw: Draw, bucket: Bucket) -> dict[str, Any]:
            if draw.sample_id not in self.seen and draw.number % 5 == 0:
                self.seen.append(draw.sample_id)
                raise OSError(5, "Input/output error")
            return super().__call__(draw, bucket)

    loader = _loader(Flaky())
    assert _all(loader) == _all(_loader(Drawn()))
    assert not loader.quarantine.faults
