"""A training on Ray: who each process is told to be, and how all of them end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from finished_run import environment

JOBS = Path(__file__).parents[2] / "jobs"

LAUNCH = """
import sys
sys.path.insert(0, sys.argv[1])
from s2v.datapipe.engine.execute import start_ray, stop_ray
from workers import launch
start_ray(2)
try:
    for program in sys.argv[2:]:
        status = launch([sys.executable, "-c", program], 2, cpus=1, gpus=0)
        print("status", status, flush=True)
finally:
    stop_ray()
"""
MEET = """
import os, torch.distributed as dist
dist.init_process_group("gloo")
told = [None, None]
dist.all_gather_object(told, (dist.get_rank(), os.environ["LOCAL_RANK"]))
if dist.get_rank() == 0:
    print("met", sorted(told), flush=True)
dist.destroy_process_group()
"""
FAIL = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    sys.exit("the disk is full")
def saved(*_):
    print("rank 0 has saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
time.sleep(300)
"""


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(JOBS))
    import workers as module

    return module


def test_processes_of_a_machine_are_neighbours_and_see_its_gpus(workers: object) -> None:
    place = workers.Place  # type: ignore[attr-defined]
    given = [place("b", "10.0.0.2", ("3",)), place("a", "10.0.0.1", ("0",)),
             place("b", "10.0.0.2", ("5",)), place("a", "10.0.0.1", ("1",))]  # fmt: skip
    order = workers.ranked(given)  # type: ignore[attr-defined]
    assert order == [0, 2, 1, 3]
    told = workers.environments([given[i] for i in order], 4711)  # type: ignore[attr-defined]
    assert [x["RANK"] for x in told] == ["0", "1", "2", "3"]
    assert [x["LOCAL_RANK"] for x in told] == ["0", "1", "0", "1"]
    assert [x["CUDA_VISIBLE_DEVICES"] for x in told] == ["3,5", "3,5", "0,1", "0,1"]
    assert {(x["WORLD_SIZE"], x["MASTER_ADDR"], x["MASTER_PORT"]) for x in told} == {
        ("4", "10.0.0.2", "4711")
    }
    alone = workers.environments([place("a", "10.0.0.1", ())], 4711)  # type: ignore[attr-defined]
    assert "CUDA_VISIBLE_DEVICES" not in alone[0]


@pytest.mark.ray
def test_processes_meet_and_the_first_to_fail_is_named_and_ends_all(
    shared_ray: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(JOBS), MEET, FAIL],
        capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
        env={k: v for k, v in environment(shared_ray).items() if k != "RANK"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == ["status 0", "status 1"]
    assert "met [(0, '0'), (1, '1')]" in done.stderr
    assert "rank 1 on " in done.stderr
    assert "ended with status 1: the disk is full" in done.stderr
    assert "rank 0 has saved" in done.stderr
