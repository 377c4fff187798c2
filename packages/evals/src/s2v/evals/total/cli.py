"""``s2v-eval total``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from s2v.evals import show
from s2v.evals.errors import EvalError
from s2v.evals.opens2v import RANGES, Domain, measured
from s2v.evals.summary import load_summary
from s2v.evals.total.parts import (
    FAILURES,
    VERSIONS,
    Part,
    Totals,
    add_up,
    from_arguments,
    from_file,
    from_scripts,
)

SCHEMA: Final = "s2v-eval-total/1"
_ABOUT: Final = """\
OpenS2V-Eval's weighted total, v1.0 and v1.1. Parts come from a finished run, from the results of
OpenS2V's own scripts, from a JSON file and from the command line; what comes later in this list
counts. A part given as one figure is normalised: 0 to 1, as in its result files, or with a percent
sign, as on its leaderboard.

as published      a video without a value is left out, and a NexusScore of exactly 0
failures as zeros a video without a value counts as the lowest value
"""
_EXAMPLES: Final = """\
examples:
  s2v-eval total evals/mine
  s2v-eval total evals/mine --scripts OpenS2V-Nexus/eval/results/mine --version v1.1
  s2v-eval total evals/mine --part GmeScore=0.6766 --part NexusScore=37.43% --parts rest.json
  s2v-eval total --domain human --parts all.json --json

parts: """
_SHORT: Final = "OpenS2V's total, from a run, its scripts' results, or given parts"


def add_arguments(commands: Any) -> None:
    """Add the command."""
    total = commands.add_parser(
        "total",
        help=_SHORT,
        description=_ABOUT,
        epilog=_EXAMPLES + ", ".join(RANGES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    total.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    total.add_argument("--model", help="which model of the run, where it holds several")
    total.add_argument(
        "--scripts", type=Path, metavar="DIR", help="results of OpenS2V's own scripts"
    )
    total.add_argument(
        "--parts", type=Path, metavar="FILE",
        help='JSON: {"GmeScore": 0.68, "NexusScore": [0.013, null]}; a list, or an object by id, '
        "holds raw values, null where a video has none",
    )  # fmt: skip
    total.add_argument(
        "--part", action="append", default=[], metavar="NAME=VALUE", help="one normalised figure"
    )
    total.add_argument(
        "--domain", choices=("open", "single", "human"), default="open",
        help="human has no NexusScore; single is weighed like open (default: open)",
    )  # fmt: skip
    total.add_argument("--version", choices=VERSIONS, help="of the weights (default: both)")
    total.add_argument("--json", action="store_true", help="JSON on standard output")
    total.set_defaults(do=_total)


def _total(args: argparse.Namespace) -> int:
    if args.model is not None and args.run is None:
        raise EvalError("--model chooses among a run's models; name the run's folder")
    model, partial, parts = _of_run(args.run, args.model) if args.run else (None, False, {})
    if args.scripts is not None:
        parts |= from_scripts(args.scripts)
    if args.parts is not None:
        parts |= from_file(args.parts)
    parts |= from_arguments(args.part)
    if not parts and args.run is None:
        raise EvalError(
            "nothing to add up; name a run's folder, --scripts, --parts or --part "
            "(`s2v-eval total --help` has examples)"
        )
    domain: Domain = "human" if args.domain == "human" else "open"
    found = add_up(parts, (args.version,) if args.version else VERSIONS, domain)
    shown = {name: parts[name] for name in RANGES if name in parts}
    notes = _notes(shown, found, partial=partial)
    if args.json:
        content = _content(args.domain, model, shown, found, notes, partial=partial)
        print(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        print(_text(args.domain, model, shown, found, notes))
    if not found.totals:
        lacking = sorted({name for names in found.missing.values() for name in names})
        raise EvalError(
            f"no total: {', '.join(lacking)} missing; give each as --part NAME=VALUE, or its "
            "values per video with --parts or --scripts"
        )
    return 0


def _of_run(run: Path, wanted: str | None) -> tuple[str, bool, dict[str, Part]]:
    """The model that is totalled, whether the run left samples out, and the parts it has.

    Raises:
        EvalError: no finished run; several models and none chosen; an unknown one.
    """
    summary = load_summary(run)
    models = sorted({r.model for r in summary.results if r.source == "generated"})
    if wanted is not None and wanted not in models:
        raise EvalError(f"{run}: no generated videos of {wanted!r}, only of {models}")
    if wanted is None and len(models) != 1:
        raise EvalError(f"{run}: holds videos of {models}; choose one with --model")
    model = models[0] if wanted is None else wanted
    parts = {
        name: Part.of_values(name, one.protocol, one.values)
        for name, one in measured(run, model).items()
    }
    return model, summary.partial, parts


def _notes(parts: Mapping[str, Part], found: Totals, *, partial: bool) -> list[str]:
    notes = ["the run left samples out: for testing only"] if partial else []
    notes += [
        f"{name}: not known to be the published weights ({part.origin}); a total with it stands "
        "beside no leaderboard"
        for name, part in parts.items()
        if "~" in part.origin
    ]
    notes += [f"{name} is not needed here" for name in found.unused]
    figures = [name for name, part in parts.items() if part.videos is None]
    if figures:
        notes.append(
            f"{', '.join(figures)}: a single figure does not say how many videos failed, so both "
            "totals take it as it is"
        )
    return notes


def _text(
    domain: str, model: str | None, parts: Mapping[str, Part], found: Totals, notes: list[str]
) -> str:
    whose = f" of {model}" if model else ""
    rows: list[tuple[str, ...]] = [
        ("part", "as published", "failures as zeros", "videos", "without a value", "from")
    ]
    for name, part in parts.items():
        counts = ["-" if n is None else str(n) for n in (part.videos, part.without)]
        scores = (f"{part.scores[how]:.4f}" for how in FAILURES)
        rows.append((name, *scores, *counts, part.origin))
    lines = [f"OpenS2V's total{whose}, {domain} domain"]
    if parts:
        lines += ["", *show.columns(rows)]
    lines.append("")
    for version, lacking in found.missing.items():
        if lacking:
            lines.append(f"{version}: no total, missing: {', '.join(lacking)}")
        else:
            by = found.totals[version]
            lines.append(
                f"{version}: {by['published']:.4f} as published, {by['zeros']:.4f} with failures "
                "as zeros"
            )
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _content(
    domain: str, model: str | None, parts: Mapping[str, Part], found: Totals, notes: list[str],
    *, partial: bool,
) -> dict[str, object]:  # fmt: skip
    return {
        "schema": SCHEMA,
        "model": model,
        "domain": domain,
        "partial": partial,
        "parts": {
            name: {
                **part.scores,
                "videos": part.videos,
                "without": part.without,
                "from": part.origin,
            }
            for name, part in parts.items()
        },
        "totals": {
            version: dict(found.totals[version]) if version in found.totals else None
            for version in found.missing
        },
        "missing": {version: list(names) for version, names in found.missing.items()},
        "notes": notes,
    }
