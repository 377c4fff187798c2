"""The engine on a real two-CPU Ray: it neither hangs, nor loses what a dead actor held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import canary
import engine_stages
import pytest
from engine_stages import (
    AfterStage,
    DiesOnceStage,
    FaultyStage,
    KillsOnStage,
    LengthStage,
    clip,
    item,
)
from vlm_double import double, reads_the_code

from s2v.datapipe.engine.execute import UnitFailedError, execute, start_ray
from s2v.datapipe.engine.pools import Need
from s2v.datapipe.engine.stage import StageRun
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
def test_a_row_that_kills_its_process_goes_to_quarantine_and_costs_no_other(
    tmp_path: Path,
) -> None:
    runs = [
        StageRun(LengthStage(), "f", Need(cpus=0.5)),
        StageRun(KillsOnStage(fatal="c1-1"), "f", Need(cpus=0.5, served=True)),
    ]
    list(execute(tmp_path, runs, units(2), mode="stream"))
    store = StageStore(tmp_path, "kills", "f")
    rows = [r for n in range(2) for r in store.rows(f"u{n}").get("quarantine", [])]
    assert [(r["id"], r["error"]) for r in rows] == [("c1-1", "worker_died")]
    assert "died 2 times at it alone" in rows[0]["message"]
    assert len(measured(tmp_path, "kills", 2)) == 5
    assert not list(tmp_path.glob("measure/*/.*")), "notes of attempts are gone"


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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", ["stream", "phases"])
def test_stages_in_pools_of_their_own_see_the_rows_of_those_before_them(
    tmp_path: Path, mode: str
) -> None:
    half = Need(cpus=0.5)
    served = Need(cpus=0.5, served=True)
    runs = [
        StageRun(LengthStage(poisoned=("c1-0",)), "f", half),
        StageRun(AfterStage(), "f", served),
    ]
    reports = list(execute(tmp_path, runs, units(3), mode=mode))  # type: ignore[arg-type]
    last = [r for r in reports if "after" in r["stages"]]
    assert sorted(r["unit"] for r in last) == ["u0", "u1", "u2"]
    store = StageStore(tmp_path, "after", "f")
    rows = {r["clip_id"]: r["caption"] for n in range(3) for r in store.rows(f"u{n}")["captions"]}
    assert len(rows) == 8, "the poisoned clip is in quarantine and goes no further"
    assert rows["c0-1"] == "length 0.04"
    again = list(execute(tmp_path, runs, units(3), mode=mode))  # type: ignore[arg-type]
    assert all(not done["measured"] for r in again for done in r["stages"].values())


@pytest.mark.timeout(180)
def test_a_fault_in_the_first_pool_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    faulty = StageRun(FaultyStage([ImportError("no such library")] * 3), "f", Need(cpus=0.5))
    after = StageRun(AfterStage(), "f", Need(cpus=0.5, served=True))
    with pytest.raises(UnitFailedError, match="no such library"):
        list(execute(tmp_path, [faulty, after], units(1), mode="stream"))


@pytest.mark.timeout(240)
def test_every_caption_is_its_own_clips_through_actors_of_ray(tmp_path: Path) -> None:
    film = canary.make_film(tmp_path / "codes.mp4")
    run = tmp_path / "run"
    run.mkdir()
    with double(reads_the_code(6, trouble=0.3)) as server:
        stages = canary.stages(canary.served(server.url))
        reports = list(execute(run, stages, canary.units(film)))
    assert len({report["unit"] for report in reports}) == canary.UNITS
    assert canary.strayed(canary.captions(run)) == []
    assert len(server.requests) > len(canary.CODES)
