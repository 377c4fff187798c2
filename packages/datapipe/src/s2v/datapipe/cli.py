"""``s2v-data``: the command line of the curation pipeline."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from s2v.datapipe.audit import cli as audit_cli
from s2v.datapipe.base.assets import cli as assets_cli
from s2v.datapipe.base.settings import load
from s2v.datapipe.calibrate import cli as calibrate_cli
from s2v.datapipe.explaining import explanation
from s2v.datapipe.interop import cli as interop_cli
from s2v.datapipe.write import cli as write_cli

EXAMPLES = """\
examples:
  s2v-data assets fetch                       fetch the small models and the demo's media
  s2v-data run --config my.toml               measure, select, write; again to go on after a stop
  s2v-data run --config my.toml --set folder=/data/run1 --set shots.max_seconds=8
  s2v-data doctor --config my.toml            can this machine run it? every model asked once
  s2v-data plan --config my.toml              model calls, hours and bytes before a run
  s2v-data plan --config my.toml --cluster 8x16cpu,4gpu,256gb --rates runs/trial
  s2v-data select --config my.toml            re-select with changed thresholds; runs no model
  s2v-data select --config my.toml --no-write the same, to try a threshold: shards stay as they are
  s2v-data stats runs/demo                    the figures of a run
  s2v-data report runs/demo                   write report.html, to be opened in a browser
  s2v-data verify runs/demo --deep            check every byte of the shards; decode every clip
  s2v-data takedown runs/demo --list no.jsonl take out what is listed; says which shards that was
  s2v-data audit runs/demo                    judge accepted pairs by other models
  s2v-data calibrate page runs/demo           label pairs by eye; calibrate makes bounds of them
  s2v-data import opens2v --help              Phantom-Data, OpenS2V-5M, NeMo, video2dataset
  s2v-data export phantom-data runs/demo --out released
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; every known failure is one line on standard error and a non-zero exit."""
    args = parser().parse_args(argv)
    return guarded("s2v-data", lambda: int(args.run(args)))


def guarded(name: str, command: Callable[[], int]) -> int:
    """Run ``command``; print what a user can mend as one line, without a traceback."""
    try:
        return command()
    except KeyboardInterrupt:
        return _fail(name, "stopped; run the same command again to go on where it was", 130)
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        return _fail(name, message)


def _fail(name: str, message: str, code: int = 1) -> int:
    print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="s2v-data",
        description="Build in-paired and cross-paired image-text-video triplets.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, run, text in (
        ("run", _run, "measure, select and write; goes on where it was stopped"),
        ("plan", _plan, "say what a run will take, and refuse what the cluster cannot schedule"),
        ("select", _select, "select again from what is measured, and write; runs no model"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_argument("--config", required=True, type=Path, help="TOML file")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument("--quiet", action="store_true", help="no progress")
        if name == "run":
            command.add_argument(
                "--retry-quarantine", action="store_true", help="try quarantined rows again"
            )
            command.add_argument("--dry-run", action="store_true", help="the same as plan")
        if name == "select":
            command.add_argument(
                "--no-write", action="store_true", help="stop at tables/: cut and write nothing"
            )
        if name in {"plan", "run"}:
            command.add_argument(
                "--rates", metavar="RUN", help="rates of this finished run, else the demo's"
            )
            command.add_argument(
                "--cluster", metavar="SHAPE", help="plan for machines such as 8x16cpu,4gpu,256gb"
            )
        command.set_defaults(run=run)
    for name, run, text in (
        ("stats", _stats, "print the figures of a run"),
        ("report", _report, "write report.html of a run"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", type=Path, help="the run folder")
        command.add_argument("--json", action="store_true")
        command.set_defaults(run=run)
    doctor = commands.add_parser("doctor", help="check that this machine can run", epilog=EXAMPLES)
    doctor.description = "check cores, disk, decoders, Ray, and ask every model once"
    doctor.formatter_class = argparse.RawDescriptionHelpFormatter
    doctor.add_argument("--config", type=Path, help="TOML file; else the defaults")
    doctor.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--no-ray", action="store_true", help="leave Ray out")
    doctor.set_defaults(run=_doctor)
    assets_cli.add_arguments(commands)
    write_cli.add_arguments(commands, _show)
    audit_cli.add_arguments(commands)
    calibrate_cli.add_arguments(commands)
    interop_cli.add_arguments(commands, _show)
    return top


def _settings(args: argparse.Namespace) -> Any:
    from s2v.datapipe.config import Settings

    return load(Settings, args.config, args.set)


def _run(args: argparse.Namespace) -> int:
    from s2v.datapipe.curate import curate

    if args.dry_run:
        return _plan(args)
    done = curate(_settings(args), retry_quarantine=args.retry_quarantine, quiet=args.quiet)
    return _show(done.summary(), args.json)


def _select(args: argparse.Namespace) -> int:
    from s2v.datapipe.curate import curate

    done = curate(_settings(args), measure=False, write=not args.no_write, quiet=args.quiet)
    return _show(done.summary(), args.json)


def _plan(args: argparse.Namespace) -> int:
    from s2v.datapipe.planning.plan import plan_run
    from s2v.datapipe.planning.show import print_plan
    from s2v.datapipe.serving import roles_or_why_not

    settings = _settings(args)
    quiet = args.quiet or args.json
    roles = roles_or_why_not(settings)
    made = plan_run(settings, roles, rates=args.rates, cluster=args.cluster, quiet=quiet)
    if args.json:
        return _show(made.as_dict(), True)
    print_plan(made, settings.folder, vars(roles))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from s2v.datapipe.planning.doctor import examine, print_finding

    findings = []
    for found in examine(_settings(args), ray=not args.no_ray):
        findings.append(found)
        if not args.json:
            print_finding(found)
    failed = sum(found.state == "failed" for found in findings)
    if args.json:
        _show([vars(found) for found in findings], True)
    else:
        print(f"{failed} of {len(findings)} checks failed" if failed else "ready to run")
    return int(failed > 0)


def _stats(args: argparse.Namespace) -> int:
    from s2v.datapipe.report.stats import print_stats, run_stats

    figures = run_stats(args.folder)
    if args.json:
        return _show(figures, True)
    print_stats(figures)
    return 0


def _report(args: argparse.Namespace) -> int:
    from s2v.datapipe.report.page import build_report

    out = build_report(args.folder, args.folder / "report.html", quiet=False)
    return _show({"report": str(out), "bytes": out.stat().st_size}, args.json)


def _show(value: Any, as_json: bool) -> int:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if as_json:
        print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        _print_tree(value)
    return 0


def _print_tree(value: Any, indent: int = 0) -> None:
    pad = "  " * indent
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list) and inner:
                print(f"{pad}{key}:")
                _print_tree(inner, indent + 1)
            else:
                print(f"{pad}{key}: {inner}")
    elif isinstance(value, list):
        for inner in value:
            print(f"{pad}- {inner}")
    else:
        print(f"{pad}{value}")
