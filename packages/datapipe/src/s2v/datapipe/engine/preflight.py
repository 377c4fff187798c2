"""Every model is loaded once before the first clip is measured.

Weights that are cut short, a server that is down or a GPU that is too small would otherwise
show after hours, when the first unit comes to their stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from s2v.datapipe.engine.errors import (
    FAULTS,
    NO_FAILURE,
    ModelFaultError,
    failure,
    raise_failure,
)
from s2v.datapipe.engine.pools import GIB, Need
from s2v.datapipe.engine.stage import StageRun


def load_once(run: Path, stages: Sequence[StageRun]) -> Iterator[str]:
    """Load the models of stages where their actors would, in processes that end with it.

    Args:
        run: the run folder.
        stages: those whose models are to be tried.

    Yields:
        The name of each stage whose models could be loaded.

    Raises:
        ModelFaultError, UnitFailedError: naming the role, what is wrong, and the way out.
    """
    import ray

    # The process ends with its task, and gives back the GPU.
    kind = ray.remote(max_calls=1, max_retries=0)(_load)
    waiting: dict[Any, list[StageRun]] = {}
    for need, group in _tasks(stages):
        task = kind.options(
            num_cpus=need.cpus,
            num_gpus=need.gpus or None,
            memory=int(need.memory_gb * GIB) if need.memory_gb else None,
        )
        waiting[task.remote(str(run), group)] = group
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        group = waiting.pop(ready)
        try:
            for name, failed in ray.get(ready):
                raise_failure(f"stage {name}", failed)
                yield name
        except ray.exceptions.WorkerCrashedError:
            raise ModelFaultError(
                f"{' or '.join(one.named for one in group)}: loading it killed its process (out of "
                "memory, or a crash inside a library)"
            ) from None


def _tasks(stages: Sequence[StageRun]) -> list[tuple[Need, list[StageRun]]]:
    """Stages on CPUs one after the other in one process, each with a GPU in its own."""
    on_cpu = [one for one in stages if not one.need.gpus]
    tasks = [(one.need, [one]) for one in stages if one.need.gpus]
    if on_cpu:
        most = Need(
            cpus=max(one.need.cpus for one in on_cpu),
            memory_gb=max(one.need.memory_gb or 0.0 for one in on_cpu) or None,
        )
        # Models on disk first: a server that is down is asked for half a minute.
        tasks.append((most, sorted(on_cpu, key=lambda one: one.need.served)))
    return tasks


def _load(run: str, stages: list[StageRun]) -> list[tuple[str, dict[str, str]]]:
    """Each stage with its fault; none after the first."""
    told: list[tuple[str, dict[str, str]]] = []
    while stages:
        one = stages.pop(0)  # and let go of the one before: they need not fit together
        try:
            with one.naming_its_models():
                one.stage.setup()
        except FAULTS as error:
            return [*told, (one.stage.name, failure(error, Path(run)))]
        told.append((one.stage.name, NO_FAILURE))
    return told
