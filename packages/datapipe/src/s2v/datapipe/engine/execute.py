"""Runs a group of stages over units on Ray Data: the same path from one core to a cluster.

Ray Data carries only names and rows of small tables; the results are the commits that the
actors write, so a lost actor, node or driver loses at most the units in flight, and no
checkpoint of Ray's is involved.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2v.datapipe.engine.errors import UnitFailedError, raise_failure
from s2v.datapipe.engine.pools import (
    GIB,
    AdmissionError,
    Mode,
    Need,
    Node,
    Pool,
    nodes_of_cluster,
    place,
)
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import StageRun

__all__ = ["AdmissionError", "UnitFailedError", "cluster", "execute", "start_ray", "stop_ray"]


def start_ray(cpus: int | None) -> None:
    """Connect to the cluster of the environment, or start a local one."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's C++ core warns on every actor pool that its arguments lie in the object store.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _quieten_ray_data()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _without_log_level_line():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(
                address="local",  # never the cluster of somebody else on this machine
                num_cpus=cpus or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=200 * 1024 * 1024,
                **quiet,
            )


def stop_ray() -> None:
    """End a local Ray, so that what follows has the machine to itself; a cluster stays."""
    if "ray" not in sys.modules:
        return  # nobody started it; importing it takes longer than many a selection
    import ray

    if ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        ray.shutdown()


@contextmanager
def _without_log_level_line() -> Iterator[None]:
    """Hold standard error back and leave out the line with which Ray's core confirms its level."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if b"Set ray log level" not in line:
                    os.write(2, line)


def _quieten_ray_data() -> None:
    """Keep Ray Data's messages to its log file; ours is the progress that users see."""
    import ray.data  # noqa: F401  importing it sets up its logger

    for handler in logging.getLogger("ray.data").handlers:
        if not hasattr(handler, "_filename"):  # all but the file in the session's folder
            handler.setLevel(logging.CRITICAL)


def execute(
    run: Path,
    stages: Sequence[StageRun],
    items: list[dict[str, Any]],
    *,
    actors: int | None = None,
    mode: Mode = "auto",
    reserved: Sequence[Need] = (),
    retry_quarantine: bool = False,
) -> Iterator[dict[str, Any]]:
    """Place the stages and take every item through them; see :func:`run_phase`.

    Raises:
        AdmissionError: the plan does not fit.
        UnitFailedError: the machine or the run folder failed a unit to the last try.
    """
    placement = place(
        [(one.stage.name, one.need) for one in stages],
        cluster(),
        len(items),
        wanted=actors,
        mode=mode,
        reserved=reserved,
    )
    done: list[StageRun] = []
    for phase in placement.phases:
        inside = [one for one in stages if one.stage.name in {n for p in phase for n in p.stages}]
        yield from run_phase(
            run, phase, inside, items, before=done, retry_quarantine=retry_quarantine
        )
        done += inside


def run_phase(
    run: Path,
    pools: Sequence[Pool],
    stages: Sequence[StageRun],
    items: Sequence[dict[str, Any]],
    *,
    before: Sequence[StageRun] = (),
    retry_quarantine: bool = False,
) -> Iterator[dict[str, Any]]:
    """All pools at once: a unit goes from one to the next as they have room.

    Args:
        run: the run folder.
        pools: of one phase of a placement.
        stages: those of the pools.
        items: units as plain data; each names its ids and the rows it begins with.
        before: stages that all units have passed.
        retry_quarantine: measure again what is in quarantine.

    Yields:
        A report per finished unit: ``unit`` and ``stages`` (measured ids and CPU seconds each).

    Raises:
        UnitFailedError: the machine or the run folder failed a unit to the last try.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    folder, session = str(run.absolute()), uuid.uuid4().hex
    rows = [{"item": json.dumps(item), "report": "{}"} for item in items]
    dataset: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    by_name = {one.stage.name: one for one in stages}
    passed = list(before)
    for pool in pools:
        group = [by_name[name] for name in pool.stages]
        dataset = dataset.map_batches(
            UnitRunner,
            fn_constructor_args=(folder, group, retry_quarantine, list(passed), session),
            batch_size=1,
            num_cpus=pool.need.cpus,
            num_gpus=pool.need.gpus or None,
            memory=int(pool.need.memory_gb * GIB) if pool.need.memory_gb else None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.actors),
        )
        passed += group
    for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
        for told in batch["report"]:
            report = json.loads(told)
            raise_failure(f"unit {report['unit']}", report["failed"])
            yield report


def cluster() -> list[Node]:
    """The machines of the Ray that is connected to."""
    import ray

    return nodes_of_cluster(ray.nodes())  # type: ignore[no-untyped-call]  # Ray's
