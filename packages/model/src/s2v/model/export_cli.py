"""``s2v-model export``: the arguments and the call."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[str, str], argparse.ArgumentParser]


def add_arguments(command: Command) -> None:
    """Add the verb; ``command(name, help)`` makes its parser."""
    export = command("export", "write a Wan network for other programs, checked with their classes")
    export.add_argument("path", type=Path, help="run, checkpoint, weights in any layout, or a LoRA")
    export.add_argument(
        "--to", required=True, choices=("original", "comfyui", "diffusers", "lora"), help="layout"
    )
    export.add_argument("--out", type=Path, required=True, help="folder that is not there yet")
    export.add_argument("--ema", action="store_true", help="the moving average of a run's weights")
    export.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="default: as stored")
    export.add_argument("--base", type=Path, help="lora: the network that it is added to")
    export.add_argument(
        "--rank", type=int, default=64, help="lora from whole weights (%(default)s)"
    )
    export.add_argument("--heads", type=int, help="where the width is no multiple of 128")
    export.add_argument(
        "--shard-bytes", type=int, default=0, help="largest file of weights (default: 5 GB)"
    )
    export.add_argument(
        "--pass-over", action="append", default=[], metavar="PATTERN",
        help="tensors that the network has not, to be left out; repeat for more",
    )  # fmt: skip
    export.add_argument("--licence", default="Apache-2.0", help="SPDX name (%(default)s)")


def run(a: argparse.Namespace) -> dict[str, Any]:
    """Do it."""
    from s2v.model.export.run import as_dict, export

    result = export(
        a.path, a.to, a.out, ema=a.ema, dtype=a.dtype, base=a.base, rank=a.rank, heads=a.heads,
        shard_bytes=a.shard_bytes, licence=a.licence, pass_over=a.pass_over,
    )  # fmt: skip
    return as_dict(result)
