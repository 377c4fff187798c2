"""Where a run's time went: ``timings.json``.

What is measured here depends on the machine and on the hour, so it lies in a file of its own: every
other file of a run has the same bytes whoever makes it, and nothing reads this one back.

The metrics, the encoders that they ask and the decoding of videos report to the stopwatch of the
run that is going on, wherever in the process that is. In another process (`jobs/evaluate.py`) the
stopwatch is drained there and absorbed here.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Any, Final, Literal, cast

from s2v.evals.encoders.production import Encoders

SCHEMA: Final = "s2v-eval-timings/1"
ABOUT: Final = (
    "seconds on this machine, at this hour; a network's time is also in that of the metric that "
    "asked it first, and nothing else of the run depends on this file"
)
Kind = Literal["step", "decode", "metric", "encoder", "load"]
Spent = tuple[Kind, str, float, float, int]
"""Kind, name, wall seconds, CPU seconds, calls: what travels between processes."""


@dataclass
class Lap:
    """What one thing took.

    Attributes:
        wall_s: seconds.
        cpu_s: seconds of CPU of all threads of the process that did it.
        calls: how often.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    calls: int = 0


class Stopwatch:
    """Adds up what things of a name took."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()
        self._laps: defaultdict[tuple[Kind, str], Lap] = defaultdict(Lap)

    @contextmanager
    def measure(self, kind: Kind, name: str) -> Iterator[None]:
        """Count the time of a block, also of one that fails."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            lap = self._laps[kind, name]
            lap.wall_s += time.perf_counter() - wall
            lap.cpu_s += time.process_time() - cpu
            lap.calls += 1

    def drain(self) -> list[Spent]:
        """Everything so far, and begin anew: for another process to absorb."""
        found = [(kind, name, lap.wall_s, lap.cpu_s, lap.calls)
                 for (kind, name), lap in sorted(self._laps.items())]  # fmt: skip
        self._laps.clear()
        return found

    def absorb(self, spent: Sequence[Spent]) -> None:
        """Add what another process has measured."""
        for kind, name, wall, cpu, calls in spent:
            lap = self._laps[kind, name]
            lap.wall_s += wall
            lap.cpu_s += cpu
            lap.calls += calls

    def of(self, kind: Kind) -> dict[str, Lap]:
        """Name -> what it took, sorted by name."""
        return {name: lap for (k, name), lap in sorted(self._laps.items()) if k == kind}

    def whole(self) -> Lap:
        """Since the stopwatch was made."""
        wall, cpu = self._began
        return Lap(time.perf_counter() - wall, time.process_time() - cpu, 1)


_CURRENT: ContextVar[Stopwatch | None] = ContextVar("s2v-eval-stopwatch", default=None)


def begin() -> Stopwatch:
    """A new stopwatch, which is the current one until another run begins in this context."""
    made = Stopwatch()
    _CURRENT.set(made)
    return made


def current() -> Stopwatch:
    """The stopwatch of the run that is going on; outside of a run, one that nobody reads."""
    return _CURRENT.get() or begin()


class _Timed:
    """Stands before an encoder and counts the time of its methods."""

    def __init__(self, role: str, encoder: Any) -> None:
        self._role = role
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._encoder, name)
        if not callable(found):
            return found
        role = self._role

        @wraps(found)
        def counted(*arguments: Any, **named: Any) -> Any:
            with current().measure("encoder", role):
                return found(*arguments, **named)

        vars(self)[name] = counted
        return counted


class _TimedEncoders:
    """Stands before all encoders of a run."""

    def __init__(self, encoders: Encoders) -> None:
        self._encoders = encoders

    def __getattr__(self, role: str) -> Any:
        if role == "weights":
            return self._encoders.weights
        with current().measure("load", role):
            made = _Timed(role, getattr(self._encoders, role))
        vars(self)[role] = made
        return made


def timed(encoders: Encoders) -> Encoders:
    """The same encoders; what making and asking them takes is counted on the current stopwatch."""
    return cast(Encoders, _TimedEncoders(encoders))


@dataclass(frozen=True)
class Videos:
    """How many of the run's videos were decoded for it.

    Attributes:
        measured: in this run.
        from_cache: with every metric; none of them was decoded to be measured.
        unusable: missing, damaged, or otherwise refused.
    """

    measured: int
    from_cache: int
    unusable: int


def content(
    watch: Stopwatch, videos: Videos, cached: Mapping[str, int], protocols: Sequence[str]
) -> dict[str, object]:
    """The content of ``timings.json``.

    Args:
        watch: of the run.
        videos: of the run.
        cached: protocol -> measurements that came from the cache.
        protocols: of the run, in order.
    """
    metrics, loads = watch.of("metric"), watch.of("load")
    whole = watch.whole()
    return {
        "schema": SCHEMA,
        "about": ABOUT,
        "machine": {"cpus": len(os.sched_getaffinity(0)), "gpu": _gpu()},
        "wall_s": _rounded(whole.wall_s),
        "cpu_s": _rounded(whole.cpu_s),
        "peak_memory_bytes": _peaks(),
        "videos": asdict(videos),
        "steps": {name: _seconds(lap) for name, lap in watch.of("step").items()},
        "decode": {
            **_seconds(watch.of("decode").get("videos", Lap())),
            "videos": watch.of("decode").get("videos", Lap()).calls,
        },
        "metrics": {
            name: {
                **_seconds(metrics.get(name, Lap())),
                "measured": metrics.get(name, Lap()).calls,
                "from_cache": cached.get(name, 0),
            }
            for name in protocols
        },
        "encoders": {
            name: {
                **_seconds(lap),
                "calls": lap.calls,
                "load": _seconds(loads.get(name, Lap())),
            }
            for name, lap in watch.of("encoder").items()
        },
    }


def _seconds(lap: Lap) -> dict[str, float]:
    return {"wall_s": _rounded(lap.wall_s), "cpu_s": _rounded(lap.cpu_s)}


def _rounded(seconds: float) -> float:
    return round(seconds, 3)


def _peaks() -> dict[str, int | None]:
    """Largest resident size of this process and of its largest child, and what torch took."""
    kib = 1024  # Linux counts in these
    mine, children = (
        resource.getrusage(who).ru_maxrss * kib
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cuda = _cuda()
    return {
        "process": mine,
        "largest_child": children,
        "gpu": int(cuda.max_memory_allocated()) if cuda is not None else None,
    }


def _gpu() -> str | None:
    cuda = _cuda()
    return str(cuda.get_device_name()) if cuda is not None else None


def _cuda() -> Any:
    """torch's, if this process has used it; it is not imported for this."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
