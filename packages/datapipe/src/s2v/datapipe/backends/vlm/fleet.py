"""vLLM servers on a Ray cluster: each held by an actor on a node that has the GPUs.

The actors are the run's own, so they end with it, and each server ends with its actor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from s2v.datapipe.backends.vlm.serve import (
    LOOPBACK,
    PORT_ATTEMPTS,
    ServerStartError,
    VllmServer,
    VllmSettings,
)
from s2v.datapipe.roles import WeightsError


class ServerActor:
    """Holds one server on the node that Ray chose; made a Ray actor by :func:`serving`.

    When the actor's process ends, also by ``ray.kill`` or with its node's memory, so does the
    server.
    """

    def __init__(self, settings: VllmSettings) -> None:
        self._settings = settings
        self._server: VllmServer | None = None

    def start(self) -> str:
        """Start the server and return its address; see :meth:`VllmServer.start`."""
        self._server = self._server or VllmServer(self._settings, self._host())
        return self._server.start()

    def check(self) -> None:
        """Refuse what cannot work; see :meth:`VllmServer.check`."""
        VllmServer(self._settings, self._host()).check()

    def _host(self) -> str:
        import ray.util

        if self._settings.address == "node":
            return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's omission
        return LOOPBACK

    def pid(self) -> int:
        """Return the process whose descendants are the server's, or 0."""
        return self._server.pid() if self._server else 0

    def stop(self) -> None:
        """End the server."""
        if self._server:
            self._server.stop()


def check_serving(settings: VllmSettings, count: int = 1) -> None:
    """See that servers can be started, long before they are: where one of them would be.

    Raises:
        ServerStartError, WeightsError: as of :func:`serving`.
    """
    import ray

    _admit(ray.nodes(), settings, count)  # type: ignore[no-untyped-call]  # Ray's own omission
    kind = ray.remote(ServerActor).options(num_cpus=settings.cpus, num_gpus=settings.gpus)
    actor: Any = kind.remote(settings)
    try:
        _answer(ray, [actor.check.remote()], 120)
    finally:
        ray.kill(actor)


@contextmanager
def serving(settings: VllmSettings, count: int = 1) -> Iterator[list[str]]:
    """Run servers on a Ray cluster and give their addresses, in a stable order.

    Args:
        settings: how to start each.
        count: how many; Ray spreads them over the nodes that have the GPUs.

    Yields:
        One base URL per server; a client may use any of them for any request.

    Raises:
        ServerStartError: the cluster cannot hold them, or one did not come up; none is left.
        WeightsError: the model's folder is not there on a node.
    """
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own omission
    _admit(nodes, settings, count)
    kind = ray.remote(ServerActor).options(
        num_cpus=settings.cpus, num_gpus=settings.gpus, scheduling_strategy="SPREAD"
    )
    actors: list[Any] = [kind.remote(settings) for _ in range(count)]
    try:
        # One that is still waiting for its place was admitted against what others hold.
        limit = settings.start_timeout_s * PORT_ATTEMPTS + 60
        yield [str(url) for url in _answer(ray, [one.start.remote() for one in actors], limit)]
        with suppress(ray.exceptions.RayError):
            ray.get([actor.stop.remote() for actor in actors], timeout=60)
    finally:
        for actor in actors:
            ray.kill(actor)


def _answer(ray: Any, asked: Sequence[Any], limit_s: float) -> list[Any]:
    try:
        return list(ray.get(list(asked), timeout=limit_s))
    except ray.exceptions.GetTimeoutError:
        raise ServerStartError(
            f"no place for a vLLM server within {limit_s:.0f} s: other work holds the cluster's "
            "GPUs or CPUs"
        ) from None
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ServerStartError | WeightsError):
            raise cause from None
        raise


def _admit(nodes: Sequence[dict[str, Any]], settings: VllmSettings, count: int) -> None:
    """Refuse at once what no waiting can help.

    Args:
        nodes: as ``ray.nodes()`` lists them.
        settings: what each server needs.
        count: how many servers.
    """
    fits = 0
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    for has in alive:
        rooms = [count]
        if settings.gpus:
            rooms.append(int(has.get("GPU", 0) // settings.gpus))
        if settings.cpus:
            rooms.append(int(has.get("CPU", 0) // settings.cpus))
        fits += min(rooms)
    if fits < count:
        gpus = [int(has.get("GPU", 0)) for has in alive]
        raise ServerStartError(
            f"the cluster holds {fits} of {count} vLLM servers with {settings.gpus} GPUs and "
            f"{settings.cpus:g} CPUs each: its {len(alive)} nodes have {gpus} GPUs"
        )
    if len(alive) > 1 and settings.address == "loopback":
        raise ServerStartError(
            f"the cluster has {len(alive)} nodes, and a server on loopback answers its own only: "
            'set address = "node"'
        )
