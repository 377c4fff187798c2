"""``s2v-model sample`` and ``s2v-model verify``."""

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
    """Add both verbs; returns the one that takes ``--set``."""
    sample = command("sample", "make a video from a prompt and up to four reference images")
    sample.add_argument("--run", type=Path, required=True, help="run folder")
    sample.add_argument("--prompt", required=True)
    sample.add_argument(
        "--reference", type=Path, action="append", default=[], help="image file; repeat for more"
    )
    sample.add_argument(
        "--phrase",
        action="append",
        default=[],
        help="words of the prompt that mean the reference; one per reference, in order",
    )
    sample.add_argument("--preset", choices=["paper", "release"], help="solver and guidance")
    sample.add_argument("--out", type=Path, required=True, help="folder for the files")
    sample.add_argument("--id", default="sample", help="names the files (%(default)s)")
    sample.add_argument("--seed", type=int, default=0)
    verify = command("verify", "read what a generated video says of itself, and check its frames")
    verify.add_argument("file", type=Path)
    return sample


def _sample(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model.sample import Request, sample

    if a.preset:  # before --set, so that single values win
        a.overrides = [f"sample.preset={a.preset}", *a.overrides]
    request = Request(a.id, a.prompt, tuple(a.reference), a.seed, tuple(a.phrase))
    return asdict(sample(a.run, [request], a.out, track(a), config=stored(a))[0])


def _verify(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model.provenance import verify

    return {"file": str(a.file), "frames": "as recorded", **verify(a.file).record}


COMMANDS = {"sample": _sample, "verify": _verify}
