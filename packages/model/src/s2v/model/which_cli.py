"""``s2v-model which``: do samples show the reference they were given?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2v.model.cli_parts import stored, track


def add_arguments(
    command: Callable[[str, str], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """The verb and what it takes."""
    made = command("which", "sample held-out clips with four references each: is theirs nearest?")
    made.add_argument("--run", type=Path, required=True, help="run folder")
    made.add_argument("--shards", type=Path, required=True)
    made.add_argument("--cache", type=Path, help="as given to train")
    made.add_argument("--groups", type=int, default=16, help="clips at most (%(default)s)")
    made.add_argument("--noises", type=int, default=2, help="of each clip (%(default)s)")
    return made


def run(a: argparse.Namespace) -> dict[str, Any]:
    """Measure; the groups one by one stand in ``which.json``."""
    from s2v.model.which import which

    found = which(
        a.run,
        a.shards,
        track(a),
        config=stored(a),
        cache=a.cache,
        groups=a.groups,
        noises=a.noises,
    )
    result = asdict(found)
    if not a.json:
        result["groups"] = len(found.groups)
        for name in ("palette", "classes"):
            verdict = getattr(found, name)
            result[name] = (
                f"{verdict.right} right ({verdict.share:.1%}; chance 25 %), p = {verdict.p:.2g}"
            )
        result["sheet"] = str(a.run / "which.png")
    return result
