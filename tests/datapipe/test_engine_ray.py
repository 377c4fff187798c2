"""The engine on a real two-CPU Ray: it neither hangs, nor loses what a dead actor held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_stages
import pytest
from engine_stages import DiesOnceStage, LengthStage, clip, item

from s2v.datapipe.engine.execute import AdmissionError, Pool, admit, execute, start_ray
from s2v.datapipe.engine.runner import StageRun
from s2v.datapipe.engine.store import StageStore

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def two_cpus() -> Iterator[None]:
    import ray

    start_ray(2)
    # The workers cannot import the test's helper by name, so it travels with the call.
    ray.cloudpickle.register_pickle_by_value(engine_stages)
    yield
    ray.shutdown()


def units(count: int) -> list[dict[str, Any]]:
    return [item(f"u{n}", [clip(f"c{n}-{i}") for i in range(3)]) for n in range(count)]


def measured(run: Path, stage: str, count: int) -> list[str]:
    store = StageStore(run, stage, "f")
    return sorted(r["clip_id"] for n in range(count) for r in store.rows(f"u{n}")["quality"])


@pytest.mark.timeout(180)
def test_a_pool_on_two_cpus_never_starves_its_readers(tmp_path: Path) -> None:
    reports = list(execute(tmp_path, [StageRun(LengthStage(), "f")], units(6)))
    assert sorted(r["unit"] for r in reports) == [f"u{n}" for n in range(6)]
    assert len(measured(tmp_path, "length", 6)) == 18


@pytest.mark.timeout(180)
def test_a_killed_actor_loses_no_unit_and_doubles_no_row(tmp_path: Path) -> None:
    list(execute(tmp_path, [StageRun(DiesOnceStage(), "f")], units(4)))
    assert (tmp_path / "died").exists()
    rows = measured(tmp_path, "dies", 4)
    assert len(rows) == len(set(rows)) == 12


@pytest.mark.timeout(180)
def test_results_do_not_depend_on_how_many_actors_there_are(tmp_path: Path) -> None:
    for name, actors in (("one", 1), ("two", 2)):
        run = tmp_path / name
        run.mkdir()
        list(execute(run, [StageRun(LengthStage(), "f")], units(3), actors=actors))
    parts = [
        {p.name: p.read_bytes() for p in (tmp_path / n / "measure/length-f").glob("*.parquet")}
        for n in ("one", "two")
    ]
    assert parts[0] == parts[1]
    assert len(parts[0]) == 3


def test_a_plan_that_cannot_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(AdmissionError, match=r"engine\.actors = 8 .* 2 CPUs"):
        admit(2, 8, 10)
    with pytest.raises(AdmissionError, match=r"0\.5 CPUs"):
        admit(0.5, None, 10)


@pytest.mark.parametrize(("cpus", "units_"), [(1, 5), (2, 5), (4, 2), (64, 1000)])
def test_an_admitted_pool_leaves_room_for_the_tasks_that_feed_it(cpus: int, units_: int) -> None:
    pool = admit(cpus, None, units_)
    assert isinstance(pool, Pool)
    assert pool.actors >= 1
    assert pool.actors * pool.cpus_each < cpus
