"""`s2v-data verify` and `s2v-data takedown`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.write.errors import WriteError

if TYPE_CHECKING:
    from s2v.datapipe.config import Settings

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_arguments(commands: Subparsers, show: Callable[[Any, bool], int]) -> None:
    """Add both commands.

    Args:
        commands: of the program.
        show: prints a result, as JSON or for people, and gives the exit code.
    """
    text = "check every byte of a shard folder against its index"
    verify = commands.add_parser("verify", help=text, description=text)
    verify.add_argument("folder", type=Path, help="a run folder, or a shard folder")
    verify.add_argument("--deep", action="store_true", help="also decode every clip")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=lambda args: show(_verify(args), args.json))
    text = "take sources, clips, subjects or samples out of a run's shards, for good"
    takedown = commands.add_parser("takedown", help=text, description=text)
    takedown.add_argument("folder", type=Path, help="the run folder")
    takedown.add_argument(
        "--list", required=True, action="append", type=Path, metavar="FILE", dest="lists",
        help='JSONL of {"key_type", "key", "reason", "by", "when"}; may be repeated',
    )  # fmt: skip
    takedown.add_argument("--json", action="store_true")
    takedown.add_argument("--quiet", action="store_true", help="no progress")
    takedown.set_defaults(run=lambda args: show(_takedown(args), args.json))


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.write.verify import verify_shards

    itself = (args.folder / INDEX_FILE).exists()
    return verify_shards(args.folder if itself else args.folder / "shards", deep=args.deep)


def _takedown(args: argparse.Namespace) -> dict[str, Any]:
    """Record the list in the run, select and write anew, and say which shards that touched."""
    from s2v.datapipe.curate import curate
    from s2v.datapipe.write.latents import forget_latents
    from s2v.datapipe.write.takedown import forget_clips, made_from, take_down, unmatched
    from s2v.datapipe.write.tombstones import read_tombstones

    settings = _settings(args.folder)
    new = take_down(args.folder, args.lists)
    missed = unmatched(args.folder, new)
    done = curate(settings, measure=False, quiet=args.quiet)
    if done.written is None:
        raise AssertionError("a write was asked for and not made")
    kept = done.selection.samples["clip_id"].to_pylist()
    return {
        "folder": str(done.written.folder),
        "lines": len(new),
        "lines that no row has": missed,
        "shards written anew": list(done.written.changed),
        "shards removed": list(done.written.removed),
        "shards untouched": len(done.written.shards) - len(done.written.changed),
        "samples": done.written.samples,
        "sources erased": sorted(read_tombstones(args.folder).sources),
        "copies left out too": list(done.copies),
        "clips removed": forget_clips(args.folder, kept),
        "latents removed, to be encoded again": forget_latents(done.written.folder),
        "made before, may show it": made_from(args.folder),
    }


def _settings(run: Path) -> Settings:
    """The configuration that a run was made with."""
    from s2v.datapipe.config import Settings

    path = run / "run.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["settings"]
        return Settings.model_validate({**recorded, "folder": str(run)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WriteError(
            f"{path}: is not of a finished run ({' '.join(str(error).split())}); name the run "
            "folder, and finish it first: `s2v-data run`"
        ) from None
