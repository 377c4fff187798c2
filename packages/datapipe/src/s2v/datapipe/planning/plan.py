"""``s2v-data plan``: what a configuration will take, on this machine or on a cluster to be."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from s2v.datapipe import pipeline
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import GIB, Node
from s2v.datapipe.planning.estimate import Estimate, admit, estimate
from s2v.datapipe.planning.rates import of_run, shipped
from s2v.datapipe.planning.sizes import look_at, measure_sizes
from s2v.datapipe.roles import Roles
from s2v.datapipe.serving import reserved
from s2v.datapipe.staging import list_run

_CLUSTER = re.compile(
    r"(?:(?P<count>\d+)x)?(?P<cpus>\d+(?:\.\d+)?)cpu"
    r"(?:,(?P<gpus>\d+(?:\.\d+)?)gpu)?(?:,(?P<gb>\d+(?:\.\d+)?)gb)?"
)


def plan_run(
    settings: Settings,
    roles: Roles,
    *,
    rates: str | None = None,
    cluster: str | None = None,
    quiet: bool = True,
) -> Estimate:
    """Estimate a run; measures nothing but the length of some sources.

    What is hashed while listing is remembered in the run folder for the run.

    Args:
        settings: the configuration.
        roles: its models, not loaded.
        rates: a finished run folder to read rates off, else the shipped ones.
        cluster: such as ``8x16cpu,4gpu,256gb``; else the connected Ray, or this machine.
        quiet: no progress of listing.

    Raises:
        SettingsError, SourceError, AdmissionError: one clear line each.
    """
    folder = Path(settings.folder)
    runs = pipeline.plan(settings, roles)
    nodes = nodes_of(cluster, settings)
    servers = reserved(settings)
    placing: dict[str, Any] = {"wanted": settings.engine.actors, "mode": settings.engine.mode}
    # Refused at once: listing and hashing the sources may take a while.
    admit(runs, nodes, reserved=servers, **placing)
    known = of_run(Path(rates)) if rates else shipped()
    sources = list_run(folder, settings.sources, settings.downloads, quiet=quiet)
    done = look_at(folder, runs, sources)
    return estimate(
        runs,
        pipeline.stage_models(roles),
        measure_sizes(sources, done.probes, quiet=quiet),
        known,
        nodes,
        done=done,
        unit_clips=settings.engine.unit_clips,
        reserved=servers,
        **placing,
    )


def nodes_of(cluster: str | None, settings: Settings) -> list[Node]:
    """The machines to plan for.

    Raises:
        SettingsError: ``cluster`` is not understood.
    """
    if cluster:
        found = []
        for part in cluster.replace(" ", "").split("+"):
            match = _CLUSTER.fullmatch(part.lower())
            if not match:
                raise SettingsError(
                    f"--cluster {cluster!r}: expected machines such as 8x16cpu,4gpu,256gb, "
                    "joined by + where they differ"
                )
            node = Node(
                float(match["cpus"]), float(match["gpus"] or 0), float(match["gb"] or "inf")
            )
            found += [node] * int(match["count"] or 1)
        return found
    if os.environ.get("RAY_ADDRESS"):
        from s2v.datapipe.engine.execute import cluster as connected
        from s2v.datapipe.engine.execute import start_ray

        start_ray(None)
        return connected()
    cpus = settings.engine.cpus or os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return [Node(float(cpus), float(local_gpus()), memory)]


def local_gpus() -> int:
    """GPUs of this machine that are visible here; without torch, which takes seconds to import."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in {"", "-1"}])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
