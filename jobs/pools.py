"""Evaluation on Ray: a pool of actors per encoder, and one of videos.

A video actor decodes what the metrics need of a video, once, and measures; whenever a metric asks
an encoder, the question goes to that encoder's pool, which holds its weights in memory once per
actor. Numbers, files and bytes are those of ``s2v-eval run`` in one process: what is asked of an
encoder is the same, and in what order videos come back does not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from s2v.datapipe.engine.execute import cluster, start_ray
from s2v.datapipe.engine.pools import AdmissionError
from s2v.evals import timings
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.production import Encoders
from s2v.evals.inspection import Inspected
from s2v.evals.manifest import Manifest
from s2v.evals.metrics import build, protocols, roles
from s2v.evals.metrics.base import Measurement, Metric
from s2v.evals.run import Scored, Work, score

RETRIES = 3  # of a call whose actor was lost
TOLD = ("id", "frames", "context")
"""What metrics read of an encoder besides calling it."""
SMALLEST = 0.05
"""CPUs that an actor is booked with at least: below, hundreds would share a core."""


class EncoderActor:
    """One encoder with its weights."""

    def __init__(self, role: str, weights: Weights) -> None:
        import cv2
        import torch

        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        self.encoder = getattr(Encoders(weights), role)

    def told(self) -> dict[str, Any]:
        """Its plain attributes."""
        return {name: getattr(self.encoder, name) for name in TOLD if hasattr(self.encoder, name)}

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method returns."""
        return getattr(self.encoder, method)(*arguments)


class Pooled:
    """Stands for an encoder whose actors are elsewhere; they take turns."""

    def __init__(self, told: Mapping[str, Any], actors: Sequence[Any]) -> None:
        self._told = dict(told)
        self._actors = actors
        self._turn = count()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._told:
            return self._told[name]

        def ask(*arguments: Any) -> Any:
            import ray

            actor = self._actors[next(self._turn) % len(self._actors)]
            try:
                return ray.get(actor.call.remote(name, *arguments))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # as if it had been raised here

        return ask


class VideoActor:
    """Decodes and measures."""

    def __init__(
        self, manifest: Manifest, weights: Weights, judge: Any, pools: Mapping[str, Any], first: int
    ) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.manifest = manifest
        self.encoders = Encoders(weights, judge)
        for role, (told, actors) in pools.items():
            # Video actors begin with different encoder actors.
            turned = [*actors[first % len(actors) :], *actors[: first % len(actors)]]
            vars(self.encoders)[role] = Pooled(told, turned)
        self.encoders = timings.timed(self.encoders)
        self.built: dict[str, Metric] = {}

    def measure(
        self, item: Inspected, wanted: Sequence[str]
    ) -> tuple[list[tuple[str, Measurement, str]], list[timings.Spent]]:
        """Protocol, measurement and message of each wanted metric; and what it took here.

        An encoder's seconds are those from the question to the answer, waiting included.
        """
        watch = timings.begin()
        for name in wanted:
            if name not in self.built:
                (self.built[name],) = build(name, self.encoders)
        found = score(self.manifest, item, [self.built[name] for name in wanted])
        said = [(metric.spec.protocol, said, message) for metric, said, message in found]
        return said, watch.drain()


@dataclass(frozen=True)
class Sizes:
    """How many actors, and what each is booked with.

    Attributes:
        videos: that decode and measure.
        encoders: role -> actors.
        cpus: of each actor, a share where there are more actors than CPUs.
        gpus: of each encoder actor.
    """

    videos: int
    encoders: Mapping[str, int]
    cpus: float
    gpus: float = 0.0


def sizes(
    wanted: Sequence[str], cpus: float, *, videos: int | None, pools: Mapping[str, int], gpus: float
) -> Sizes:
    """What fits.

    Args:
        wanted: encoder roles.
        cpus: of the cluster.
        videos: actors that decode; by default what the encoders leave, at least one.
        pools: role -> actors, where it is not one.
        gpus: of each encoder actor.

    Raises:
        AdmissionError: more actors than the CPUs can be shared by, an unknown role, no actor.
    """
    unknown = sorted(set(pools) - set(wanted))
    if unknown:
        raise AdmissionError(
            f"--pool {unknown[0]}: no metric of this suite asks it; asked: {', '.join(wanted)}"
        )
    encoders = {role: pools.get(role, 1) for role in wanted}
    decoding = videos if videos is not None else max(1, int(cpus) - sum(encoders.values()))
    if decoding < 1 or min(encoders.values(), default=1) < 1:
        raise AdmissionError("every pool needs at least one actor")
    share = min(1.0, int(100 * cpus / (decoding + sum(encoders.values()))) / 100)
    if share < SMALLEST:
        raise AdmissionError(
            f"{decoding + sum(encoders.values())} actors do not fit on {cpus:g} CPUs; lower "
            "--videos or --pool"
        )
    return Sizes(decoding, encoders, share, gpus)


class RayRunner:
    """A `s2v.evals.run.Runner` on the Ray that is connected to, or on a local one.

    Args:
        suite: that the run measures.
        weights: what the user has, on storage that the cluster shares.
        judge: whom judged protocols ask; the video actors ask it themselves.
        cpus: of a local Ray.
        videos: actors that decode and measure.
        pools: role -> actors of an encoder, one where it is not named.
        gpus: of each encoder actor.
    """

    def __init__(
        self,
        suite: str,
        weights: Weights | None = None,
        judge: Any = None,
        *,
        cpus: int | None = None,
        videos: int | None = None,
        pools: Mapping[str, int] | None = None,
        gpus: float = 0.0,
    ) -> None:
        self.weights = weights or Weights()
        self.judge = judge
        self.cpus, self.videos, self.gpus = cpus, videos, gpus
        self.pools = dict(pools or {})
        names = protocols(suite)
        self.roles = list(dict.fromkeys(r for n in names for r in roles(n) if r != "judge"))

    def __call__(self, manifest: Manifest, work: Sequence[Work]) -> Iterator[tuple[Work, Scored]]:
        """Measure every item of the work.

        Raises:
            AdmissionError: the pools do not fit.
            EvalError: weights that fail every video.
        """
        if not work:
            return
        import ray

        start_ray(self.cpus)
        asked = {r for _, metrics in work for m in metrics for r in roles(_plain(m))}
        booked = sizes(
            [role for role in self.roles if role in asked],
            sum(node.cpus for node in cluster()),
            videos=self.videos,
            pools={k: n for k, n in self.pools.items() if k in asked or k not in self.roles},
            gpus=self.gpus,
        )
        actor: Any = {"num_cpus": booked.cpus, "max_restarts": RETRIES, "max_task_retries": RETRIES}
        encoder: Any = ray.remote(num_gpus=booked.gpus, **actor)(EncoderActor)
        made: dict[str, list[Any]] = {
            role: [encoder.remote(role, self.weights) for _ in range(n)]
            for role, n in booked.encoders.items()
        }
        started: list[Any] = [a for actors in made.values() for a in actors]
        try:
            told = {role: _get(actors[0].told.remote()) for role, actors in made.items()}
            pools = {role: (told[role], actors) for role, actors in made.items()}
            video: Any = ray.remote(**actor)(VideoActor)
            idle = deque(
                video.remote(manifest, self.weights, self.judge, pools, n)
                for n in range(min(booked.videos, len(work)))
            )
            started += idle
            yield from _dealt(work, idle)
        finally:
            for one in started:
                ray.kill(one)


def _dealt(work: Sequence[Work], idle: deque[Any]) -> Iterator[tuple[Work, Scored]]:
    """One video at a time to each actor that is free."""
    import ray

    waiting: deque[Work] = deque(work)
    busy: dict[Any, tuple[Any, Work]] = {}
    while waiting or busy:
        while waiting and idle:
            actor, one = idle.popleft(), waiting.popleft()
            names = [_plain(metric) for metric in one[1]]
            busy[actor.measure.remote(one[0], names)] = (actor, one)
        done, _ = ray.wait(list(busy), num_returns=1)
        actor, one = busy.pop(done[0])
        idle.append(actor)
        metrics = {metric.spec.protocol: metric for metric in one[1]}
        found, spent = _get(done[0])
        timings.current().absorb(spent)
        yield one, [(metrics[name], said, message) for name, said, message in found]


def _plain(metric: Metric) -> str:
    """Its protocol without the mark of a user's weights, which an actor finds again."""
    return metric.spec.protocol.split("~")[0]


def _get(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
