"""``s2v-eval study build|ingest|report``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2v.datapipe.base.settings import SettingsError, parse
from s2v.evals.arguments import natural, positive
from s2v.evals.errors import EvalError
from s2v.evals.study import sheet
from s2v.evals.study.build import build
from s2v.evals.study.exclude import Rules
from s2v.evals.study.ingest import ingest, load_rows
from s2v.evals.study.records import KEY_FILE, RATE_FOLDER
from s2v.evals.study.result import REPORT_HTML, REPORT_JSON, report


def add_arguments(commands: Any) -> None:
    """Add the commands."""
    study = commands.add_parser("study", help="ask people: blinded pages, their answers, a report")
    steps = study.add_subparsers(dest="step", required=True, metavar="STEP")

    make = steps.add_parser("build", help="pages and media for raters, and the key")
    make.add_argument("manifests", type=Path, nargs="+", help="of generated videos, all models")
    make.add_argument("--out", type=Path, required=True, help="a new folder")
    make.add_argument(
        "--mode",
        choices=("scale", "pairwise"),
        default="scale",
        help="marks of 1 to 3, or two videos side by side (default: scale)",
    )
    make.add_argument("--raters", type=positive, default=20, help="pages (default: 20)")
    make.add_argument("--groups", type=positive, help="references and prompts used (default: all)")
    make.add_argument(
        "--per-rater",
        type=positive,
        default=10,
        help="of these in one session, each with all models (default: 10)",
    )
    make.add_argument(
        "--gold", type=natural, default=2, help="damaged copies a session (default: 2)"
    )
    make.add_argument("--repeats", type=natural, default=2, help="shown twice (default: 2)")
    make.add_argument("--models", nargs="+", help="which of the manifests' (default: all)")
    make.add_argument("--seed", type=natural, default=0, help="of all choices (default: 0)")
    make.add_argument("--json", action="store_true", help="JSON on standard output")
    make.add_argument("--no-progress", action="store_true", help="no progress on stderr")
    make.set_defaults(do=_build)

    take = steps.add_parser("ingest", help="check the files raters sent and bring them together")
    take.add_argument("study", type=Path, help="folder of the study")
    take.add_argument("files", type=Path, nargs="+", help="answers-*.json, all of them")
    take.add_argument("--json", action="store_true", help="JSON on standard output")
    take.set_defaults(do=_ingest)

    tell = steps.add_parser("report", help="means, win rates, strengths, agreement, exclusions")
    tell.add_argument("study", type=Path, help="folder of the study")
    tell.add_argument("--seed", type=natural, default=0, help="of the resampling")
    for name, field in Rules.model_fields.items():
        tell.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=field.default,
            help=f"{field.description} (default: {field.default:g})",
        )
    tell.add_argument("--json", action="store_true", help="JSON on standard output")
    tell.set_defaults(do=_report)  # fmt: skip


def _build(args: argparse.Namespace) -> int:
    key = build(
        args.manifests,
        args.out,
        mode=args.mode,
        raters=args.raters,
        groups=args.groups,
        per_rater=args.per_rater,
        gold=args.gold,
        repeats=args.repeats,
        seed=args.seed,
        models=args.models,
        progress=not args.no_progress,
    )
    facts = {
        "study": key.study,
        "models": list(key.models),
        "groups": len(key.groups),
        "sessions": len(key.sessions),
        "items": max(len(items) for items in key.sessions.values()),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print(
            f"study {key.study}: {facts['sessions']} sessions of {facts['items']} items, "
            f"{facts['groups']} references and prompts, models {', '.join(key.models)}\n"
            f"give raters {args.out / RATE_FOLDER} (each opens their own r??.html) and keep "
            f"{args.out / KEY_FILE}\nthen: s2v-eval study ingest {args.out} answers-*.json"
        )
    return 0


def _ingest(args: argparse.Namespace) -> int:
    before = _raters_before(args.study)
    rows = ingest(args.study, args.files)
    raters = sorted({row["rater"] for row in rows})
    if gone := sorted(before - set(raters)):
        print(
            f"s2v-eval: note: {', '.join(gone)} were in the study's table before and are in none "
            "of these files; give all files together to keep them",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps({"raters": raters, "answers": len(rows)}, indent=2))
    else:
        print(f"{len(rows)} answers of {len(raters)} raters: {', '.join(raters)}\n"
              f"then: s2v-eval study report {args.study}")  # fmt: skip
    return 0


def _raters_before(study: Path) -> set[str]:
    """Whose answers an earlier ingest brought together, which this one replaces."""
    try:
        return {row["rater"] for row in load_rows(study)}
    except EvalError:  # none yet, or damaged: it is written anew
        return set()


def _report(args: argparse.Namespace) -> int:
    try:
        rules = parse(Rules, {name: getattr(args, name) for name in Rules.model_fields}, "rules")
    except SettingsError as error:
        raise EvalError(str(error)) from error
    found = report(args.study, rules=rules, seed=args.seed)
    if args.json:
        print(json.dumps(asdict(found), indent=2, sort_keys=True))
    else:
        print(sheet.text(found))
        print(f"\nwritten to {args.study}: {REPORT_HTML}, {REPORT_JSON}")
    return 0
