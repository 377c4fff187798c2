"""``s2v-eval report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from s2v.evals.arguments import natural
from s2v.evals.report.page import MAX_BYTES, PANELS, build_report


def add_arguments(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report", help="one page over one or several runs: scores, comparison, samples side by side"
    )
    report.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    report.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    report.add_argument("--title", help="of the page (default: the folders' names)")
    report.add_argument(
        "--panels", type=natural, default=PANELS, help=f"prompts side by side (default: {PANELS})"
    )
    report.add_argument(
        "--max-bytes", type=natural, default=MAX_BYTES, help="of pictures (default: 20 MB)"
    )
    report.set_defaults(do=_report)


def _report(args: argparse.Namespace) -> int:
    page = build_report(
        args.runs, args.out, title=args.title, panels_shown=args.panels, max_bytes=args.max_bytes
    )
    print(page)
    return 0
