"""A plan on a terminal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from s2v.datapipe.planning.estimate import Estimate, StageEstimate
from s2v.datapipe.serving import Absent

_COLUMNS = ("stage", "model", "to do", "calls", "CPU", "GPU", "tables")


def print_plan(made: Estimate, folder: str, models: Mapping[str, object]) -> None:
    """Show a plan as tables for people.

    Args:
        made: the plan.
        folder: the run folder.
        models: of the run, by role: what is not on this machine is said.
    """
    console = Console(highlight=False, soft_wrap=False)
    _say(console, "run", folder)
    _say(console, "sources", _sources(made))
    _say(console, "clips", f"about {made.clips:,}")
    console.print()
    console.print(_table(made, console.width))
    console.print()
    _say(console, "storage", _storage(made))
    for number, line in enumerate(made.placement.describe(), start=1):
        many = len(made.placement.phases) > 1
        _say(console, f"phase {number}" if many else "actors", line)
    if made.servers is not None:
        gpus = "unknown time" if made.servers.gpu_hours is None else _time(made.servers.gpu_hours)
        _say(console, "servers", f"{made.servers.count} ({made.servers.need} each), {gpus} of GPU")
    _say(console, "time", _wall(made))
    _say(console, "rates", f"of {made.rates}")
    _warn(console, _warnings(made, Path(folder), models))


def _say(console: Console, what: str, words: str) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=8, style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(what, Text(words))
    console.print(grid)


def _sources(made: Estimate) -> str:
    sizes = made.sizes
    videos = f"{sizes.videos:,} videos of {_time(sizes.hours)}"
    if sizes.known < sizes.videos:
        videos += f" (after the lengths of {sizes.known})"
    return f"{videos}, {sizes.images:,} photographs" if sizes.images else videos


def _table(made: Estimate, width: int) -> Table:
    rows = [list(_cells(row)) for row in made.stages]
    known = [row for row in made.stages if row.cpu_hours is not None]
    whole = len(known) == len(made.stages)
    rows.append(
        [
            *("all", "", ""),
            f"{sum(row.calls or 0 for row in made.stages):,}",
            _sum([row.cpu_hours for row in known], _time, whole),
            _sum([row.gpu_hours for row in known], _time, whole),
            _sum([row.bytes for row in known], _bytes, whole),
        ]
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    taken = 0
    for n, name in enumerate(_COLUMNS):
        if name != "model":
            taken += max(len(name), *(len(row[n]) for row in rows)) + 2
    for name in _COLUMNS:
        if name == "model":  # what is left: ids of models are long
            room = max(10, min(44, width - taken - 2))
            table.add_column(name, no_wrap=True, overflow="ellipsis", width=room)
        elif name == "stage":
            table.add_column(name, no_wrap=True)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _sum(values: list[float | None], shown: Callable[[float], str], whole: bool) -> str:
    total = sum(value or 0.0 for value in values)
    if whole:
        return shown(total)
    return f"{shown(total)} + ?" if total else "?"


def _cells(row: StageEstimate) -> Iterable[str]:
    return (
        row.stage,
        row.model or "",
        f"{row.to_do:,} of {row.ids:,}" if row.done else f"{row.to_do:,}",
        "" if row.calls is None else f"{row.calls:,}",
        "?" if row.cpu_hours is None else _time(row.cpu_hours),
        "?" if row.gpu_hours is None else _time(row.gpu_hours),
        "?" if row.bytes is None else _bytes(row.bytes),
    )


def _storage(made: Estimate) -> str:
    parts = [f"{name.replace('_', ' ')} {_bytes(size)}" for name, size in made.bytes.items()]
    return f"{_bytes(sum(made.bytes.values()))}: {', '.join(parts)}"


def _wall(made: Estimate) -> str:
    if not any(row.to_do for row in made.stages):
        return "nothing is left to measure"
    return "unknown, for want of rates" if made.hours is None else f"{_time(made.hours)} to measure"


def _warnings(made: Estimate, folder: Path, models: Mapping[str, object]) -> Iterable[str]:
    sizes = made.sizes
    if sizes.unreadable:
        yield (
            f"{sizes.unreadable} of {sizes.known} videos looked at cannot be read; they would go "
            "to quarantine"
        )
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    free, wanted = shutil.disk_usage(there).free, sum(made.bytes.values())
    if wanted > free:
        yield (
            f"the disk of {there} has {_bytes(free)} free, the run writes about {_bytes(wanted)}; "
            "free some, or give another folder"
        )
    for role, model in sorted(models.items()):
        if isinstance(model, Absent):
            yield f"roles.{role}: {model.why}"
    for reason in sorted({row.why for row in made.stages if row.why}):
        names = ", ".join(row.stage for row in made.stages if row.why == reason)
        yield f"?: {reason} ({names}); run some clips with it, then plan --rates FOLDER"


def _warn(console: Console, warnings: Iterable[str]) -> None:
    for n, words in enumerate(warnings):
        if not n:
            console.print()
        console.print(Text.assemble(("! ", "bold yellow"), words), soft_wrap=True)


def _time(hours: float) -> str:
    """Such as ``12 s``, ``3.5 min``, ``14 h``, ``1,200 h``."""
    seconds = hours * 3600
    if seconds < 0.05:
        return "-" if not seconds else "0.1 s"
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    if seconds < 3570:
        return f"{seconds / 60:.2g} min"
    return f"{hours:.3g} h" if hours < 1000 else f"{hours:,.0f} h"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 1000 else f"{size:,.0f} TB"
