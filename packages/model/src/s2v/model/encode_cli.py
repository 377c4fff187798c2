"""``s2v-model encode``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from s2v.model.cli_parts import track
from s2v.model.errors import ModelError
from s2v.model.progress import quiet

EXAMPLES: Final = """examples:
  s2v-model encode --shards shards --recipe my.toml --estimate
  s2v-model encode --shards shards --recipe my.toml
  torchrun --nproc-per-node 8 -m s2v.model.cli encode --shards shards --recipe my.toml
  s2v-model encode --shards shards --recipe my.toml --verify
"""


def add_arguments(
    command: Callable[[str, str], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add the verb; returns it, for ``--set``."""
    encode = command(
        "encode",
        "encode a shard folder's samples beside it; the same command goes on after a stop",
    )
    encode.epilog = EXAMPLES
    arguments(encode)
    return encode


def arguments(encode: argparse.ArgumentParser) -> None:
    """What ``jobs/encode.py`` takes as well."""
    encode.add_argument("--shards", type=Path, required=True, help="shard folder")
    encode.add_argument(
        "--recipe", help="name or .toml file, as the training's (default: the run's, demo_tiny)"
    )
    encode.add_argument(
        "--run",
        "--of-run",  # torchrun takes every --run for its own
        dest="run",
        type=Path,
        help="run folder: its configuration; holds a fitted autoencoder",
    )
    encode.add_argument("--out", type=Path, help="where to (default: SHARDS/latents)")
    encode.add_argument(
        "--part", choices=["train", "heldout"], action="append", help="only these samples"
    )
    encode.add_argument("--readers", type=int, default=1, help="decoding threads (%(default)s)")
    encode.add_argument("--retry-quarantine", action="store_true", help="try bad samples again")
    encode.add_argument(
        "--prune", action="store_true", help="drop entries that this recipe does not ask for"
    )
    only = encode.add_mutually_exclusive_group()
    only.add_argument("--estimate", action="store_true", help="say how much it takes, and stop")
    only.add_argument("--verify", action="store_true", help="check every byte, encode nothing")


def prepared(a: argparse.Namespace) -> Any:
    """The :class:`s2v.model.latents.encode.Encoding` of a call, its autoencoder fitted."""
    from s2v.model import config as configuration
    from s2v.model.latents.encode import Encoding
    from s2v.model.latents.plan import PARTS
    from s2v.model.run import Run, fit_autoencoder

    if a.run is not None and a.recipe is None and (a.run / "config.json").is_file():
        config = configuration.override(Run(a.run).config(), a.overrides)
    else:
        config = configuration.load(a.recipe or "demo_tiny", a.overrides)
    run = Run(a.run if a.run is not None else a.shards / "latents")
    if config.autoencoder.kind == "linear" and not run.autoencoder.is_file():
        if a.run is None:
            raise ModelError(
                "encode: autoencoder.kind is 'linear', which is fitted to a run's clips; give "
                "--run, the folder that the training will have"
            )
        fit_autoencoder(config, a.shards, run, quiet if a.quiet else track(a))
    return Encoding(
        config,
        a.shards,
        run.encoders(config),
        a.out,
        parts=a.part or PARTS,
        retry=a.retry_quarantine,
        prune=a.prune,
        readers=a.readers,
    )


def place() -> tuple[int, int]:
    """Rank and world size as torchrun tells them; takes this process's GPU."""
    import torch

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return rank, world


def _encode(a: argparse.Namespace) -> dict[str, Any] | str:
    from s2v.model.latents.encode import encode
    from s2v.model.latents.estimate import free_at
    from s2v.model.latents.verify import verify

    rank, world = place()
    encoding = prepared(a)
    if a.estimate:
        return {
            "folder": str(encoding.folder),
            "samples": encoding.plan.samples,
            "excluded": encoding.plan.excluded,
            "needed_bytes": encoding.needed(),
            "free_bytes": free_at(encoding.folder),
        }
    if a.verify:
        return asdict(verify(encoding, track(a)))
    result = asdict(encode(encoding, track(a) if rank == 0 else quiet, rank=rank, world=world))
    if a.json:
        return result
    return told(result)


def told(result: dict[str, Any]) -> str:
    """The result in lines, the sum of samples first."""
    out = [
        f"{result['samples']} samples = {result['encoded']} encoded + {result['quarantined']} "
        f"quarantined + {sum(result['excluded'].values())} excluded + {result['open']} open"
    ]
    out += [f"  excluded: {count} {reason}" for reason, count in result["excluded"].items()]
    out.append(
        f"entries: {result['made']} made, {result['kept']} kept, {result['removed']} removed; "
        f"{result['bytes'] / 1e6:.1f} MB in {result['folder']}"
    )
    if result["made"]:
        spent = ", ".join(f"{name} {s:.1f} s" for name, s in result["seconds"].items())
        out.append(f"{result['per_second']:.2f} entries/s, bound by {result['bound']} ({spent})")
    return "\n".join(out) + "\n"


COMMANDS = {"encode": _encode}
