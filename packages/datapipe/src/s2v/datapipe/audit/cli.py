"""``s2v-data audit RUN``: how many accepted pairs are copies or of the wrong subject."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

if TYPE_CHECKING:
    from s2v.datapipe.audit.audit import Audit, Estimate

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_TEXT = "judge a sample of the accepted cross pairs by what selection did not use"
_FAULT: Final = {"wrong": "wrong subject", "copy": "near copy"}
_EXAMPLES = """\
examples:
  s2v-data audit runs/demo                            judge; write runs/demo/audit/sheet.html
  s2v-data audit runs/demo --labels runs/demo/audit/labels.csv
                                                      people's estimate beside the judges'
  s2v-data audit runs/demo --max-wrong 0.05 --max-copies 0.02
                                                      exit code 1 unless both are kept
"""


def add_arguments(commands: Subparsers) -> None:
    """Add the command ``audit``."""
    parser = commands.add_parser(
        "audit",
        help=_TEXT,
        description=f"{_TEXT[0].upper()}{_TEXT[1:]}, and estimate the share of near copies and of "
        "wrong subjects by class.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument("--pairs", type=int, default=200, help="pairs to look at (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample")
    parser.add_argument(
        "--of",
        choices=("samples", "accepted"),
        default="samples",
        help="references of written samples (default), or all accepted candidate pairs",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        action="append",
        default=[],
        metavar="CSV",
        help="labels.csv, filled in by a person; may be repeated, one for each",
    )
    parser.add_argument("--out", type=Path, help="folder to write (default RUN/audit)")
    parser.add_argument("--max-wrong", type=float, metavar="SHARE", help="budget, 0..1")
    parser.add_argument("--max-copies", type=float, metavar="SHARE", help="budget, 0..1")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Audit, write, print; 1 when a stated budget is exceeded or could not be checked."""
    from s2v.datapipe.audit.audit import audit_run, write_audit
    from s2v.datapipe.audit.blind import blind_page
    from s2v.datapipe.audit.pairs import AuditError
    from s2v.datapipe.audit.settings import AuditSettings
    from s2v.datapipe.audit.sheet import contact_sheet
    from s2v.datapipe.report.run import RunFolder

    try:
        settings = AuditSettings(
            pairs=args.pairs,
            seed=args.seed,
            population=args.of,
            max_wrong=args.max_wrong,
            max_copies=args.max_copies,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise AuditError(
            f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg']}"
        ) from None
    run = RunFolder(args.folder)
    audit, judges = audit_run(run, settings, args.labels, quiet=args.quiet or args.json)
    name = str(run.about["settings"].get("write", {}).get("title") or args.folder.name)
    out = args.out or args.folder / "audit"
    written = write_audit(
        audit,
        out,
        contact_sheet(name, audit, judges),
        blind_page(name, audit.drawn.pairs, judges),
    )
    if args.json:
        files = {"files": [str(path) for path in written]}
        print(json.dumps(audit.summary() | files, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        _print(audit, out, labels=bool(args.labels))
    return 0 if audit.kept else 1


def _print(audit: Audit, out: Path, *, labels: bool) -> None:
    total = sum(audit.drawn.population.values())
    print(f"{len(audit.drawn.pairs)} of {total} accepted cross pairs")
    if labels:
        used = audit.used
        print(f"{used['in this sample']} of {used['pairs']} labelled pairs are among them")
    for one in audit.estimates:
        print(f"  {_line(one)}")
    for pair, faults in audit.labels.disputed.items():
        for fault, by in faults.items():
            said = ", ".join(f"{person}: {answer}" for person, answer in by.items())
            print(f"  people differ on {pair}, {_FAULT[fault]}: {said}")
    for budget in audit.budgets:
        classes = ", ".join(f"{kind}: {state}" for kind, state in budget.classes.items())
        shown = "" if budget.state != "met" or budget.shown else "; too few pairs to show it"
        print(f"  budget {budget.fault} {budget.limit:g}: {budget.state}{shown} ({classes})")
    print(f"look at {out / 'sheet.html'}")


def _line(one: Estimate) -> str:
    what = f"{one.kind}, {_FAULT[one.fault]}, {one.by}"
    found = one.share
    if found.estimate is None:
        return f"{what}: no judge; label blind.html or labels.csv ({one.unjudged} pairs)"
    text: list[Any] = [
        f"{what}: {found.hits} of {found.judged}, {100 * found.estimate:.1f} % "
        f"({100 * found.low:.1f} to {100 * found.high:.1f})"
    ]
    if found.three_over_n is not None:
        text.append(
            f"3/N {100 * found.three_over_n:.1f} % over the {found.worth:.3g} independent ones"
        )
    text += [f"{one.unsure} in doubt"] * bool(one.unsure)
    text += [f"{one.unjudged} not judged"] * bool(one.unjudged)
    return "; ".join(text)
