"""``s2v-model chart``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Steps averaged in the smooth line.
SMOOTH = 25


def add_arguments(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the verb."""
    chart = command("chart", "draw a run's losses as an SVG: each step, and by noise level")
    chart.add_argument("--run", type=Path, required=True, help="run folder")
    chart.add_argument("--out", type=Path, help="file (default: RUN/loss.svg)")
    chart.add_argument("--smooth", type=int, default=SMOOTH, help="steps averaged (%(default)s)")


def _chart(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.base.atomic import write_bytes
    from s2v.model import metrics
    from s2v.model.chart import Line, lines, smoothed
    from s2v.model.errors import ModelError

    if a.smooth < 1:
        raise ModelError(f"--smooth {a.smooth}: at least 1")
    path = a.run / "metrics.jsonl"
    found = [line for line in metrics.read(path) if line.get("loss") is not None]
    if not found:
        raise ModelError(f"{path}: no finished step to draw")
    steps = [line["step"] for line in found]
    drawn = [Line(f"mean of {a.smooth}", steps, smoothed([x["loss"] for x in found], a.smooth))]
    for level in sorted({level for line in found for level in line["loss_by_level"]}):
        at = [(x["step"], x["loss_by_level"][level]) for x in found if level in x["loss_by_level"]]
        values = smoothed([v for _, v in at], a.smooth)
        drawn.append(Line(f"noise {level}", [s for s, _ in at], values))
    out = a.out or a.run / "loss.svg"
    svg = lines("Training loss", drawn, "step", "loss")
    write_bytes(out, svg.encode())
    return {"steps": len(found), "file": str(out)}


COMMANDS = {"chart": _chart}
