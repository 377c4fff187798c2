"""``s2v-data calibrate``: draw pairs to label, and bounds from the labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2v.datapipe.calibrate.evaluate import Calibrated, Calibration

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  s2v-data calibrate page runs/demo --out label/ --bank creature --per 200
  s2v-data calibrate runs/demo --labels labels.csv --precision 0.9 --copy-rate 0.01
  s2v-data calibrate runs/demo --labels labels.csv --write my.toml
  s2v-data calibrate runs/demo --labels ann.csv --labels bob.csv     where they differ, and bounds
"""


def add_arguments(commands: Subparsers) -> None:
    """Add the command; the parsed arguments carry ``run``."""
    text = "label pairs of a run blind to their score, and measure both similarity bounds"
    command = commands.add_parser(
        "calibrate",
        help=text,
        description=f"{text}. With 'page' before the run folder: write the page to label on.",
        usage="s2v-data calibrate [page] RUN [options]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "words", nargs="+", metavar="[page] RUN", help="the run folder, after 'page' or alone"
    )
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    page = command.add_argument_group("page: which pairs to label")
    page.add_argument("--out", type=Path, help="folder of the page (default: RUN/calibrate)")
    page.add_argument(
        "--bank", action="append", metavar="NAME",
        help="person, creature, thing, face, or a class with bounds of its own, such as "
        "thing.clothes; may be repeated (default: all)",
    )  # fmt: skip
    page.add_argument(
        "--per", type=int, default=200, help="pairs of each class of a bank (default: 200)"
    )
    page.add_argument("--seed", type=int, default=0, help="another seed, other pairs")
    page.add_argument("--sheets", action="store_true", help="write contact sheets too, as JPEG")
    labels = command.add_argument_group("bounds from labels")
    labels.add_argument(
        "--labels", type=Path, action="append", metavar="CSV",
        help="target,reference,label; may be repeated, one for each person. With 'page': pairs "
        "labelled in it are left out",
    )  # fmt: skip
    labels.add_argument("--precision", type=_share, default=0.9, help="wanted (default: 0.9)")
    labels.add_argument("--copy-rate", type=_share, default=0.01, help="at most (default: 0.01)")
    labels.add_argument("--confidence", type=_share, default=0.95, help="of intervals")
    labels.add_argument("--report", type=Path, help="page (default: RUN/calibrate/report.html)")
    labels.add_argument("--write", type=Path, metavar="TOML", help="put the bounds in this file")
    labels.add_argument(
        "--replace", action="store_true", help="with --write: change values that stand there"
    )
    labels.add_argument(
        "--unsupported", action="store_true",
        help="with --write: also bounds whose interval does not support the wanted precision",
    )  # fmt: skip
    command.set_defaults(run=main)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: a share lies between 0 and 1")
    return value


def main(args: argparse.Namespace) -> int:
    """Draw pairs, or calibrate.

    Raises:
        CalibrateError: with one clear line.
    """
    from s2v.datapipe.calibrate.errors import CalibrateError

    words = list(args.words)
    page = len(words) > 1 and words[0] == "page"
    if len(words) != 1 + page:
        raise CalibrateError(f"{' '.join(words)}: expected [page] RUN, one run folder")
    folder = Path(words[-1])
    if page:
        return _page(folder, args)
    if not args.labels:
        raise CalibrateError(
            f"{folder}: give --labels; to make them: s2v-data calibrate page {folder}"
        )
    return _bounds(folder, args)


def _page(folder: Path, args: argparse.Namespace) -> int:
    from s2v.datapipe.calibrate.draw import draw
    from s2v.datapipe.calibrate.errors import CalibrateError
    from s2v.datapipe.calibrate.labels import read_labels
    from s2v.datapipe.calibrate.page import write_page
    from s2v.datapipe.calibrate.pictures import views
    from s2v.datapipe.calibrate.pool import read_run
    from s2v.datapipe.calibrate.sheets import write_sheets

    if args.per < 1:
        raise CalibrateError(f"--per {args.per}: at least one pair")
    run = read_run(folder)
    names = args.bank or sorted(run.pools)
    if absent := [name for name in names if name not in run.pools]:
        raise CalibrateError(
            f"{folder}: no pairs of {', '.join(absent)}; it has {', '.join(sorted(run.pools))}"
        )
    done = read_labels(*args.labels).of if args.labels else {}
    out = args.out or folder / "calibrate"
    result: dict[str, Any] = {}
    for name in names:
        drawn = draw(run.pools[name], args.per, args.seed)
        pairs = [one for one in drawn if one.key not in done]
        if not pairs:
            result[name] = {"pairs": 0, "labelled already": len(drawn)}
            continue
        pictures = views(run, {s for one in pairs for s in (one.target, one.reference)})
        # A bank's pairs have a page of their own: one question at a time.
        place = out / name if len(names) > 1 else out
        page = write_page(place, f"Pairs of bank {name}", pairs, pictures)
        result[name] = {"page": str(page), "pairs": len(pairs)}
        if done:
            result[name]["labelled already"] = len(drawn) - len(pairs)
        if args.sheets:
            result[name]["sheets"] = len(write_sheets(place / "sheets", pairs, pictures))
    _print(result, args.json)
    return 0


def _bounds(folder: Path, args: argparse.Namespace) -> int:
    from s2v.datapipe.calibrate.evaluate import calibrate
    from s2v.datapipe.calibrate.propose import Wanted
    from s2v.datapipe.calibrate.report import write_report

    wanted = Wanted(args.precision, args.copy_rate, args.confidence)
    made = calibrate(folder, args.labels, wanted)
    out = args.report or folder / "calibrate" / "report.html"
    result = made.as_dict()
    result["report"] = str(write_report(made, out))
    if args.write:
        result["written"] = _write(made, args)
    _print(result, args.json)
    return 0


def _write(made: Calibration, args: argparse.Namespace) -> dict[str, Any]:
    from s2v.datapipe.calibrate.toml_edit import write_bounds

    written: dict[str, Any] = {}
    for name, one in made.bounds.items():
        found = one.proposal.region
        if found is None:
            written[name] = "nothing proposed"
        elif not (one.proposal.precision_supported or args.unsupported):
            written[name] = "not written: the labels do not support it; --unsupported writes it"
        else:
            values = {"lower": found.lower, "upper": found.upper}
            changed = write_bounds(
                args.write, one.pool.bound.section, values, evidence(made, one),
                replace=args.replace,
            )  # fmt: skip
            written[name] = {k: {"was": old, "is": new} for k, (old, new) in changed.items()}
    return written


def evidence(made: Calibration, one: Calibrated) -> list[str]:
    """What the comments above written bounds say."""
    from s2v.datapipe.calibrate.report import said_share

    found, judged = one.proposal.region, one.judged
    if found is None:
        return []
    counts = f"{int(judged.same.sum())} same, {int(judged.different.sum())} different"
    lines = [
        f"{len(judged.pairs)} labelled pairs ({counts}, {int(judged.copy.sum())} near copies) "
        f"of {one.pool.count}, embedder {one.pool.bound.embedder}",
        f"wanted precision {made.wanted.precision:g}, copy rate {made.wanted.copy_rate:g}; found "
        f"precision {said_share(found.precision)} over {found.precision.count} accepted, copy "
        f"rate {said_share(found.copies)}, recall {said_share(found.recall)} "
        f"({100 * made.wanted.confidence:g} % intervals, on the labels they were chosen on)",
    ]
    return [*lines, *one.proposal.notes]


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False))
        return
    _tree(result, "")


def _tree(value: Any, pad: str) -> None:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, start=1):
        if isinstance(inner, dict) and set(inner) >= {"estimate", "low", "high"}:
            print(f"{pad}{key}: {inner['estimate']:.3f} [{inner['low']:.3f}, {inner['high']:.3f}]")
        elif isinstance(inner, dict | list) and inner:
            print(f"{pad}{key}:")
            _tree(inner, pad + "  ")
        else:
            print(f"{pad}{key}: {inner}")
