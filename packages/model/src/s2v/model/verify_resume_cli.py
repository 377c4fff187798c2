"""``s2v-model verify-resume``: the arguments and the call."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

Command = Callable[[str, str], argparse.ArgumentParser]


def add_arguments(command: Command) -> argparse.ArgumentParser:
    """Add the verb; ``command(name, help)`` makes its parser, which also takes ``--set``."""
    one = command("verify-resume", "prove that a killed training goes on to the last bit")
    one.add_argument(
        "--config", "--recipe", default="demo_tiny", help="name or .toml file (%(default)s)"
    )
    one.add_argument("--shards", type=Path, required=True, help="folder of the training")
    one.add_argument("--steps", type=int, default=6, help="of each training (%(default)s)")
    how = one.add_mutually_exclusive_group()
    how.add_argument(
        "--kill", dest="how", action="store_const", const="kill", default="kill",
        help="stop it with SIGKILL, a step after its checkpoint (default)",
    )  # fmt: skip
    how.add_argument(
        "--term", dest="how", action="store_const", const="term", help="stop it with SIGTERM"
    )
    one.add_argument("--processes", type=int, default=1, help="one per GPU (%(default)s)")
    one.add_argument("--resume-processes", type=int, help="of the resumed training (the same)")
    one.add_argument("--cache", type=Path, help="as given to train; a temporary one by default")
    one.add_argument("--scratch", type=Path, help="where the temporary folder is made")
    return one


def run(a: argparse.Namespace) -> dict[str, Any]:
    """Do it."""
    from s2v.model import config as configuration
    from s2v.model.verify_resume import verify_resume

    config = configuration.load(a.config, a.overrides)
    return asdict(
        verify_resume(
            config, a.shards, steps=a.steps, how=a.how, processes=a.processes,
            resume_processes=a.resume_processes, cache=a.cache, scratch=a.scratch,
        )
    )  # fmt: skip
