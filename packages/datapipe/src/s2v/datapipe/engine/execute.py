"""Runs a group of stages over units on Ray Data: the same path from one core to a cluster.

Ray Data carries only names and rows of small tables; the results are the commits that the
actors write, so a lost actor, node or driver loses at most the units in flight, and no
checkpoint of Ray's is involved.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe.engine.errors import UnitFailedError, raise_failure
from s2v.datapipe.engine.runner import StageRun, UnitRunner

__all__ = ["AdmissionError", "Pool", "UnitFailedError", "admit", "execute", "start_ray", "stop_ray"]

RESERVED_CPUS = 0.25  # for Ray Data's own tasks, so that a pool never starves them


class AdmissionError(RuntimeError):
    """A plan that cannot run on this machine or cluster, refused before it starts."""


@dataclass(frozen=True)
class Pool:
    """Size of an actor pool: how many actors, and the CPU share each is booked with."""

    actors: int
    cpus_each: float


def admit(cpus: float, wanted: int | None, units: int) -> Pool:
    """Size the pool so that it and Ray Data's own tasks fit the cluster.

    A pool that books every CPU starves the tasks that feed it, and Ray waits without a
    word; here the plan is refused or cut down before anything starts.

    Args:
        cpus: CPUs of the cluster.
        wanted: actors asked for by the configuration, ``None`` for one per CPU.
        units: how many units there are; more actors than units would idle.

    Raises:
        AdmissionError: when even one actor does not fit.
    """
    if cpus < 1:
        raise AdmissionError(f"the cluster offers {cpus} CPUs; at least 1 is needed")
    actors = max(1, min(wanted or int(cpus), units))
    if wanted is not None and wanted > cpus:
        raise AdmissionError(
            f"engine.actors = {wanted} but the cluster has {cpus:g} CPUs; "
            "lower engine.actors or leave it out"
        )
    return Pool(actors, round(min(1.0, (cpus - RESERVED_CPUS) / actors), 3))


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
    retry_quarantine: bool = False,
) -> Iterator[dict[str, Any]]:
    """Take every item through the stages; yield a report per finished unit.

    Raises:
        AdmissionError: the plan does not fit.
        UnitFailedError: the machine or the run folder failed a unit to the last try.
    """
    import ray

    pool = admit(float(_resources().get("CPU", 0)), actors, len(items))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    units = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    dataset = units.map_batches(
        UnitRunner,
        fn_constructor_args=(str(run), list(stages), retry_quarantine),
        batch_size=1,
        num_cpus=pool.cpus_each,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.actors),
    )
    for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="numpy"):
        for report in batch["report"]:
            raise_failure(f"unit {report['unit']}", report["failed"])
            yield report


def _resources() -> dict[str, float]:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    return resources
