"""``s2v-model plan``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_arguments(
    command: Callable[[str, str], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add the verb; returns it, as it takes ``--set``."""
    plan = command("plan", "say what fits on which devices and how fast it will be; starts nothing")
    plan.add_argument("--recipe", "--config", default="demo_tiny", help="name or .toml file")
    plan.add_argument("--gpus", type=int, help="number of devices (default: the recipe's)")
    plan.add_argument("--memory", type=float, metavar="GIB", help="of each")
    plan.add_argument("--device", choices=["cpu", "a100", "h100", "h200", "b200", "gb200"])
    plan.add_argument(
        "--search", action="store_true", help="take the fastest layout instead of the recipe's"
    )
    plan.add_argument(
        "--efficiency", type=float, help="share of the dense peak to predict with (default: 0.33)"
    )
    return plan


def _plan(a: argparse.Namespace) -> dict[str, Any] | str:
    from s2v.model import config as configuration
    from s2v.model.errors import ModelError
    from s2v.model.planner.hardware import hardware
    from s2v.model.planner.plan import plan
    from s2v.model.planner.text import text

    for name in ("gpus", "memory", "efficiency"):
        value = getattr(a, name)
        if value is not None and value <= 0:
            raise ModelError(f"--{name} {value}: must be above 0")
    if a.efficiency is not None and a.efficiency > 1:
        raise ModelError(f"--efficiency {a.efficiency}: is a share of the peak, at most 1")
    config = configuration.load(a.recipe, a.overrides)
    on = hardware(config, gpus=a.gpus, memory=a.memory, device=a.device, efficiency=a.efficiency)
    made = plan(config, on, search=a.search)
    return made.to_json() if a.json else text(made)


COMMANDS = {"plan": _plan}
