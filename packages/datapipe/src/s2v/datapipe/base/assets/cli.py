"""`s2v-data assets fetch|verify|list|doc`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from s2v.datapipe.base.assets.cache import cache_root, listing, verify
from s2v.datapipe.base.assets.document import document
from s2v.datapipe.base.assets.errors import AssetError
from s2v.datapipe.base.assets.fetch import fetch
from s2v.datapipe.base.assets.manifest import GROUPS
from s2v.datapipe.base.assets.progress import megabytes, reporter

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  s2v-data assets fetch                  everything the demo needs (group demo)
  s2v-data assets fetch --group lite     the small files the unit tests use
  s2v-data assets fetch yunet sface      single assets
  s2v-data assets list --json            names, roles, licences, sizes, what is here
  s2v-data assets verify                 compute every sha256 again

groups:
"""


def add_arguments(subparsers: Subparsers) -> None:
    """Adds the command `assets`; the parsed arguments carry `run`, which is `main`."""
    epilog = _EXAMPLES + "".join(f"  {name:9} {what}\n" for name, what in GROUPS.items())
    formatter = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "assets",
        help="fetch and check the pinned weights and sample media",
        description="The pinned weights and sample media of the embedded profile. They lie in "
        "$S2V_ASSETS, by default ~/.cache/s2v/assets.",
        epilog=epilog,
        formatter_class=formatter,
    )
    parser.set_defaults(run=main)
    actions = parser.add_subparsers(dest="assets_action", metavar="ACTION", required=True)
    for name, default, text in (
        ("fetch", "demo", "download what is missing; nothing is downloaded twice"),
        ("verify", "all", "compute every sha256 again; exit code 1 if something is wrong"),
        ("list", "all", "names, roles, licences, sizes, and what is here"),
    ):
        action = actions.add_parser(name, help=text, description=text, epilog=epilog)
        action.formatter_class = formatter
        action.add_argument("names", nargs="*", metavar="NAME", help="assets or groups")
        action.add_argument(
            "--group",
            action="append",
            default=[],
            metavar="GROUP",
            help=f"a group of assets, may be repeated (default: {default})",
        )
        action.add_argument("--json", action="store_true", help="machine-readable output")
        action.set_defaults(default_group=default)
    doc = actions.add_parser("doc", help="write the page that lists every asset and licence")
    doc.add_argument("--output", type=Path, help="file to write (default: standard output)")


def main(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit code. Errors are one line on standard error."""
    try:
        return _dispatch(args)
    except AssetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was fetched is kept, run it again to go on", file=sys.stderr)
        return 130


def _dispatch(args: argparse.Namespace) -> int:
    if args.assets_action == "doc":
        if args.output:
            args.output.write_text(document(), encoding="utf-8")
        else:
            print(document(), end="")
        return 0
    names = [*args.names, *args.group] or [args.default_group]
    if args.assets_action == "fetch":
        return _fetch(names, as_json=args.json)
    if args.assets_action == "verify":
        return _verify(names, as_json=args.json)
    return _list(names, as_json=args.json)


def _fetch(names: list[str], *, as_json: bool) -> int:
    report = fetch(names, reporter())
    if as_json:
        data = {"fetched": report.fetched, "present": report.present, "skipped": report.skipped}
        print(json.dumps({"root": str(cache_root()), **data}, indent=2))
    else:
        text = f"{len(report.fetched)} assets fetched, {len(report.present)} already there"
        print(f"{text}, in {cache_root()}")
    return 0


def _verify(names: list[str], *, as_json: bool) -> int:
    problems = verify(names)
    if as_json:
        print(json.dumps({"ok": not problems, "problems": [str(p) for p in problems]}, indent=2))
    elif problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
    else:
        rows = listing(names)
        here = sum(row.present for row in rows)
        absent = f", {len(rows) - here} optional ones are absent" if here < len(rows) else ""
        print(f"{here} assets are as pinned{absent}, in {cache_root()}")
    return 1 if problems else 0


def _list(names: list[str], *, as_json: bool) -> int:
    rows = listing(names)
    if as_json:
        print(json.dumps([{**row.__dict__, "path": str(row.path)} for row in rows], indent=2))
        return 0
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        here = "here   " if row.present else "missing"
        print(f"{row.name:{width}}  {here}  {megabytes(row.size):>9}  {row.role}  [{row.licence}]")
    print(f"\n{sum(row.present for row in rows)} of {len(rows)} assets are in {cache_root()}")
    return 0
