"""``s2v-model train|plan|encode|heldout|which|chart|sample|verify|inspect|export|...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2v.datapipe.base.settings import SettingsError
from s2v.model import (
    chart_cli,
    encode_cli,
    export_cli,
    plan_cli,
    sample_cli,
    verify_resume_cli,
    which_cli,
)
from s2v.model.cli_parts import stored, track
from s2v.model.errors import Interrupted, ModelError, RankError
from s2v.model.explaining import of_disk, speaks

if TYPE_CHECKING:  # it brings torch, which `--help` can do without
    from s2v.model.monitor import Evaluator

_EXAMPLES = """examples:
  s2v-model train --shards runs/demo/shards --out runs/demo/model
  s2v-model train --shards shards --out run --recipe my.toml --set train.steps=2000
  s2v-model train --recipe demo_tiny --print-config
  torchrun --nproc-per-node 8 -m s2v.model.cli train --shards shards --out run --recipe my.toml
  s2v-model plan --recipe phantom_wan_1_3b_480p --gpus 8 --memory 80 --device h100
  s2v-model verify-resume --config my.toml --shards shards --steps 6
  s2v-model heldout --run run --shards shards
  s2v-model which --run run --shards shards --groups 8
  s2v-model sample --run run --prompt "a rabbit runs" --reference rabbit.png --out samples
  s2v-model sample --weights Phantom-Wan-1.3B.pth --wan Wan2.1-T2V-1.3B --prompt "it runs" --out o
  s2v-model verify samples/sample.mp4
  s2v-model chart --run run
  s2v-model encode --shards shards --recipe my.toml
  s2v-model inspect run/checkpoints/step-00000400
  s2v-model inspect Phantom-Wan-1.3B.pth
  s2v-model export Phantom-Wan-1.3B.pth --to diffusers --dtype bf16 --out phantom-diffusers
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="s2v-model",
        description="Train and sample a subject-to-video MMDiT (Phantom).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, help_: str) -> argparse.ArgumentParser:
        made = sub.add_parser(
            name,
            help=help_,
            description=help_,
            epilog=_examples(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        made.add_argument("--quiet", action="store_true", help="show no progress")
        return made

    train = command("train", "train from a shard folder; the same command goes on after a stop")
    train.add_argument("--shards", type=Path, help="folder with index/samples.parquet")
    train.add_argument("--out", type=Path, help="run folder")
    train.add_argument("--recipe", default="demo_tiny", help="name or .toml file (%(default)s)")
    train.add_argument("--cache", type=Path, help="pixels and features (default: OUT/cache)")
    train.add_argument("--print-config", action="store_true", help="print the configuration, stop")

    heldout = command("heldout", "loss on held-out clips with the right and a swapped reference")
    heldout.add_argument("--run", type=Path, required=True, help="run folder")
    heldout.add_argument("--shards", type=Path, required=True)
    heldout.add_argument("--cache", type=Path, help="as given to train")

    sample = sample_cli.add_arguments(command)
    plan = plan_cli.add_arguments(command)
    resume = verify_resume_cli.add_arguments(command)
    encode = encode_cli.add_arguments(command)

    which = which_cli.add_arguments(command)

    for one in (train, heldout, sample, plan, resume, encode, which):
        one.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="override the configuration; repeat for more",
        )

    inspect = command("inspect", "say what a run, a checkpoint or anybody's file of weights is")
    inspect.add_argument("path", type=Path)
    inspect.add_argument("--no-digest", action="store_true", help="do not read files whole")
    export_cli.add_arguments(command)
    chart_cli.add_arguments(command)
    return top


def _examples(command: str) -> str:
    """Those of one command."""
    said = (f" s2v-model {command} ", f" s2v.model.cli {command} ")
    own = [line for line in _EXAMPLES.splitlines() if any(words in line for words in said)]
    return "\n".join(["examples:", *own]) if own else _EXAMPLES


def main(argv: Sequence[str] | None = None, *, evaluate: Evaluator | None = None) -> int:
    """Run the command line; returns the exit status.

    Args:
        argv: by default the process's.
        evaluate: scores the samples of a training; ``jobs/train.py`` brings one.

    One line on standard error and status 2 for wrong input, 130 or 143 when stopped by a
    signal after saving; 1 for a result that says ``ok: false``.
    """
    arguments = parser().parse_args(argv, argparse.Namespace(evaluate=evaluate))
    try:
        result = _COMMANDS[arguments.command](arguments)
    except Interrupted as stop:
        if speaks():
            print(f"s2v-model: {stop}; the same command goes on", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("s2v-model: stopped; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        said = _explained(error)
        if said is None:
            raise
        if speaks() or isinstance(error, RankError):
            print(f"s2v-model: {said}", file=sys.stderr)
        return 2
    if isinstance(result, str):
        print(result, end="")
    elif arguments.json:
        print(json.dumps(result, sort_keys=True, default=str))
    else:
        print(_table(result))
    return 0 if isinstance(result, str) or result.get("ok", True) else 1


def _explained(error: Exception) -> str | None:
    """One line of what the user can mend; None for what is ours and keeps its traceback."""
    from s2v.datapipe.base.assets import AssetError
    from s2v.datapipe.base.shards import ShardError

    known = ModelError | SettingsError | ShardError | AssetError | ImportError
    if isinstance(error, OSError) and not isinstance(error, known):
        return of_disk(error)
    return _one_line(error) if isinstance(error, known) else None


def _train(a: argparse.Namespace) -> dict[str, Any] | str:
    from s2v.model import config as configuration

    config = configuration.load(a.recipe, a.overrides)
    if a.print_config:
        return config.to_toml()
    if a.shards is None or a.out is None:
        raise ModelError("train needs --shards and --out (or --print-config)")
    from s2v.model.train import train

    result = asdict(train(config, a.shards, a.out, track(a), cache=a.cache, evaluate=a.evaluate))
    return result if speaks() else ""


def _heldout(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model.heldout import heldout

    config = stored(a)
    return asdict(heldout(a.run, a.shards, track(a), config=config, cache=a.cache))


def _inspect(a: argparse.Namespace) -> dict[str, Any]:
    from s2v.model.inspection import describe

    return describe(a.path, digest=not a.no_digest)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _table(result: dict[str, Any]) -> str:
    flat: list[tuple[str, str]] = []
    for key, value in result.items():
        if isinstance(value, dict):
            flat += [(f"{key}.{k}", _shown(v)) for k, v in value.items()]
        else:
            flat.append((key, _shown(value)))
    width = max((len(key) for key, _ in flat), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in flat)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


_COMMANDS = {
    "train": _train,
    "heldout": _heldout,
    "inspect": _inspect,
    "export": export_cli.run,
    "verify-resume": verify_resume_cli.run,
    "which": which_cli.run,
    **sample_cli.COMMANDS,
    **plan_cli.COMMANDS,
    **chart_cli.COMMANDS,
    **encode_cli.COMMANDS,
}

if __name__ == "__main__":
    sys.exit(main())
