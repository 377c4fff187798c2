"""``s2v-data plan``: what a configuration will take, on this machine or on a cluster to be."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2v.datapipe import pipeline
from s2v.datapipe.base.settings import SettingsError
from s2v.datapipe.config import Settings
from s2v.datapipe.engine.pools import Node, place, without
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.planning.estimate import Estimate, StageEstimate, estimate, measure_sizes
from s2v.datapipe.planning.rates import Rates, of_run, shipped
from s2v.datapipe.roles import Roles
from s2v.datapipe.serving import reserved
from s2v.datapipe.staging import list_run

_CLUSTER = re.compile(
    r"(?:(?P<count>\d+)x)?(?P<cpus>[\d.]+)cpu(?:,(?P<gpus>[\d.]+)gpu)?(?:,(?P<gb>[\d.]+)gb)?"
)


def plan_run(
    settings: Settings, roles: Roles, *, rates: str | None = None, cluster: str | None = None
) -> Estimate:
    """Estimate a run; measures nothing but the length of some sources.

    What is hashed while listing is remembered in the run folder for the run.

    Args:
        settings: the configuration.
        roles: its models, not loaded.
        rates: a finished run folder to read rates off, else the shipped ones.
        cluster: such as ``8x16cpu,4gpu,256gb``; else the connected Ray, or this machine.

    Raises:
        SettingsError, SourceError, AdmissionError: one clear line each.
    """
    folder = Path(settings.folder)
    runs = pipeline.plan(settings, roles)
    nodes = nodes_of(cluster, settings)
    placing: dict[str, Any] = {"wanted": settings.engine.actors, "mode": settings.engine.mode}
    # Refused at once: listing and hashing the sources may take a while.
    place([(n, r.need) for n, r in runs.items()], nodes, 1, **{**placing, "mode": "auto"})
    known: Rates = of_run(Path(rates)) if rates else shipped()
    sources = list_run(folder, settings.sources, settings.downloads)
    return estimate(
        folder,
        runs,
        pipeline.stage_models(roles),
        measure_sizes(sources, _probed(folder, runs["probe"].fingerprint)),
        known,
        without(nodes, reserved(settings)),
        unit_clips=settings.engine.unit_clips,
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
    return [Node(float(settings.engine.cpus or os.cpu_count() or 1), float(local_gpus()))]


def local_gpus() -> int:
    """CUDA devices of this machine."""
    import torch

    return torch.cuda.device_count()


def _probed(folder: Path, fingerprint: str) -> dict[str, Row]:
    store = StageStore(folder, "probe", fingerprint)
    return {
        row["video_id"]: row
        for commit in store.all_commits()
        for row in store.rows(commit.unit).get("probe", [])
    }


def print_plan(made: Estimate, folder: str) -> None:
    """Show a plan as tables for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = made.sizes
    sampled = "" if sizes.known >= sizes.videos else f" (lengths of {sizes.known} looked up)"
    console.print(
        f"{sizes.videos} videos, {sizes.hours:.1f} h{sampled}, {sizes.images} images "
        f"-> about {made.clips} clips in {folder}",
        highlight=False,
    )
    if sizes.unreadable:
        console.print(
            f"{sizes.unreadable} of the {sizes.known} videos looked up cannot be read and would "
            "go to quarantine",
            highlight=False,
        )
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "to do", "model calls", "CPU h", "GPU h", "tables"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for row in made.stages:
        table.add_row(*_cells(row))
    console.print(table)
    for name, size in made.bytes.items():
        console.print(f"{name}: {_bytes(size)}", highlight=False)
    _print_room(console, made, Path(folder))
    for number, line in enumerate(made.placement.describe(), start=1):
        console.print(f"phase {number}: {line}", highlight=False)
    wall = "unknown: some rates are missing" if made.hours is None else f"{made.hours:.2f} h"
    console.print(f"wall clock: {wall}; rates of {made.rates}", highlight=False)
    for reason in sorted({row.why for row in made.stages if row.why}):
        names = ", ".join(row.stage for row in made.stages if row.why == reason)
        console.print(f"{names}: {reason}", highlight=False)


def _print_room(console: Any, made: Estimate, folder: Path) -> None:
    """Warn where the run folder's disk is too small for what is to come."""
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    free, wanted = shutil.disk_usage(there).free, sum(made.bytes.values())
    if wanted > free:
        console.print(
            f"the disk of {there} has {_bytes(free)} free, the run writes about {_bytes(wanted)}; "
            "give it another folder or free some",
            style="bold red", highlight=False,
        )  # fmt: skip


def _cells(row: StageEstimate) -> Sequence[str]:
    left = max(0, row.ids - row.done)
    return (
        row.stage,
        f"{left} of {row.ids}" if row.done else str(left),
        "" if row.calls is None else str(row.calls),
        "?" if row.cpu_hours is None else f"{row.cpu_hours:.3g}",
        "?" if row.gpu_hours is None else f"{row.gpu_hours:.3g}" if row.gpu_hours else "",
        "?" if row.bytes is None else _bytes(row.bytes),
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
