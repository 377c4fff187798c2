"""``s2v-eval``: results on standard output, progress and errors on standard error.

Exit status: 0 done, 1 wrong input or failed run, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from s2v.datapipe.base.assets import AssetError
from s2v.datapipe.base.markup import clean
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.progress import track
from s2v.datapipe.base.shards import ShardError
from s2v.evals import reference, show
from s2v.evals.arguments import natural
from s2v.evals.compare import compare
from s2v.evals.encoders.judge import Endpoint, KeptAnswers
from s2v.evals.encoders.local import Weights
from s2v.evals.encoders.production import Encoders
from s2v.evals.errors import EvalError
from s2v.evals.inspection import as_rows, extra_videos, inspect
from s2v.evals.leaderboard import leaderboard
from s2v.evals.manifest import load_manifest
from s2v.evals.metrics import SUITES, protocols, specs
from s2v.evals.report import cli as report_cli
from s2v.evals.run import evaluate
from s2v.evals.study import cli as study_cli
from s2v.evals.suites import cli as suites_cli
from s2v.evals.total import cli as total_cli

_EXAMPLES = """examples:
  s2v-eval validate manifest.jsonl
  s2v-eval run manifest.jsonl --out evals/mine
  s2v-eval run manifest.jsonl --out evals/faces --suite faces --limit 5
  s2v-eval compare evals/base evals/mine
  s2v-eval report evals/base evals/mine --out compared.html
  s2v-eval leaderboard evals/mine --source phantom
  s2v-eval total evals/mine --part GmeScore=0.6766 --part NexusScore=37.43%
  s2v-eval study build evals/a.jsonl evals/b.jsonl --out study --raters 20
  s2v-eval suite build pool.jsonl --kind single --training shards --out suite
  s2v-eval ls
"""


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LONGEST = 2000
"""Letters of an error: it may quote what a stranger wrote."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="s2v-eval",
        description="Score subject-to-video samples by named protocols, with intervals.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"s2v-eval {version('s2v-evals')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="score every sample of a manifest")
    run.add_argument("manifest", type=Path, help="JSON lines, one sample each; see docs/evals.md")
    run.add_argument("--out", type=Path, required=True, help="folder for the results")
    run.add_argument(
        "--suite",
        default="light",
        help=f"one of {', '.join(SUITES)}, or protocols separated by commas (default: light)",
    )
    run.add_argument(
        "--weights", type=Path, help="file that names production weights; see docs/evals.md"
    )
    run.add_argument("--judge", help="OpenAI-compatible address that judged protocols ask")
    run.add_argument("--judge-model", help="its model; the key is read from S2V_JUDGE_KEY")
    run.add_argument("--limit", type=int, help="first N samples only; marks the result partial")
    run.add_argument("--seed", type=natural, default=0, help="of the bootstrap (default: 0)")
    run.add_argument("--cache", type=Path, help="finished measurements (default: OUT/cache)")
    run.add_argument(
        "--keep-going",
        action="store_true",
        help="count unusable samples as failed instead of refusing the manifest",
    )
    run.add_argument("--no-report", action="store_true", help="neither previews nor report.html")
    _common(run)
    run.set_defaults(do=_run)

    validate = commands.add_parser("validate", help="check a manifest and its media; no models")
    validate.add_argument("manifest", type=Path)
    _common(validate)
    validate.set_defaults(do=_validate)

    diff = commands.add_parser("compare", help="test run B against run A, paired")
    diff.add_argument("a", type=Path, help="folder of a finished run")
    diff.add_argument("b", type=Path, help="folder of another")
    diff.add_argument("--model-a", help="which model of A, where it holds several")
    diff.add_argument("--model-b", help="which model of B, likewise")
    diff.add_argument("--seed", type=natural, default=0, help="of the resampling (default: 0)")
    diff.add_argument("--json", action="store_true", help="JSON on standard output")
    diff.set_defaults(do=_compare)

    board = commands.add_parser(
        "leaderboard", help="published tables, and runs beside them, protocol by protocol"
    )
    board.add_argument("runs", type=Path, nargs="*", help="folders of finished runs")
    board.add_argument("--source", help="published sources that contain this, as 'opens2v'")
    board.add_argument("--split", help="test sets that contain this, as 'human'")
    board.add_argument("--json", action="store_true", help="JSON on standard output")
    board.set_defaults(do=_leaderboard)

    total_cli.add_arguments(commands)
    report_cli.add_arguments(commands)
    study_cli.add_arguments(commands)
    suites_cli.add_arguments(commands)

    ls = commands.add_parser("ls", help="list protocols: unit, origin, caveat, licence")
    ls.add_argument("suite", nargs="?", help="a suite or protocols (default: all)")
    ls.add_argument("--json", action="store_true", help="JSON on standard output")
    ls.set_defaults(do=_ls)
    return top


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="JSON on standard output")
    command.add_argument("--no-progress", action="store_true", help="no progress on stderr")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: without the program's name; by default the process's.

    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal without Unicode gets a sign in place of an arrow, and not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    do: Callable[[argparse.Namespace], int] = args.do
    try:
        status = do(args)
        sys.stdout.flush()
        return status
    except (EvalError, AssetError, MediaError, ShardError, ImportError) as error:
        return _complain(str(error))
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        full = "; free some space, the same command goes on where it was"
        return _complain(f"{where}{error.strerror or error}{full if error.errno in _FULL else ''}")
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on where it was")
        return 130


def _complain(message: str) -> int:
    said = clean(" ".join(message.split()))
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]} ... ({len(said)} letters)"
    print(f"s2v-eval: error: {said}", file=sys.stderr)
    return 1


def _print_json(content: object) -> None:
    print(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))


def _run(args: argparse.Namespace) -> int:
    manifest = load_manifest(args.manifest)
    if extra := extra_videos(manifest):
        more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        print(clean(f"s2v-eval: note: no line names {extra[0]}{more}"), file=sys.stderr)
    summary = evaluate(
        manifest,
        args.out,
        args.suite,
        progress=not args.no_progress,
        limit=args.limit,
        seed=args.seed,
        on_problem="record" if args.keep_going else "refuse",
        cache=args.cache,
        encoders=chosen_encoders(args),
        report=not args.no_report,
    )
    if args.json:
        _print_json(summary.to_json())
    else:
        print(show.summary_text(summary))
        print(
            f"\nwritten to {args.out}: report.html, summary.json, per_sample.parquet, "
            "failures.csv, run.json"
        )
    return 0


def chosen_encoders(args: argparse.Namespace) -> Encoders:
    """What ``--weights``, ``--judge`` and ``--judge-model`` name; answers lie in the cache.

    Raises:
        EvalError: a broken weights file, or half a judge.
    """
    weights = Weights.read(args.weights) if args.weights else None
    if (args.judge is None) != (args.judge_model is None):
        raise EvalError("--judge and --judge-model belong together")
    if args.judge is None:
        return Encoders(weights)
    answers = (args.cache or args.out / "cache") / "answers"
    return Encoders(weights, KeptAnswers(Endpoint(args.judge, args.judge_model), answers))


def _validate(args: argparse.Namespace) -> int:
    manifest = load_manifest(args.manifest)
    total = len(manifest.samples)
    with track("check", total, quiet=args.no_progress) as step:
        usable, problems = inspect(manifest, manifest.samples, step=step)
    extra = extra_videos(manifest)
    if args.json:
        _print_json(
            {
                "samples": total,
                "usable": len(usable),
                "problems": as_rows(problems),
                "extra": extra,
            }
        )
    else:
        for problem in problems:
            print(clean(problem))
        for path in extra:
            print(clean(f"extra: {path}: no line of the manifest names it"))
        print(f"{args.manifest}: {len(usable)} of {total} samples can be scored")
    return 1 if problems or extra else 0


def _compare(args: argparse.Namespace) -> int:
    found = compare(args.a, args.b, model_a=args.model_a, model_b=args.model_b, seed=args.seed)
    if args.json:
        content = asdict(found)
        for entry, d in zip(content["differences"], found.differences, strict=True):
            entry["metric"] = d.metric.model_dump(mode="json")
        _print_json(content)
    else:
        print(show.comparison_text(found))
    return 0


def _leaderboard(args: argparse.Namespace) -> int:
    boards = leaderboard(args.runs, source=args.source, split=args.split)
    if args.json:
        _print_json({"notice": reference.NOTICE, "boards": [asdict(b) for b in boards]})
    else:
        print(show.boards_text(boards))
    return 0


def _ls(args: argparse.Namespace) -> int:
    names = protocols(args.suite or ",".join(SUITES))
    wanted = [spec for spec in specs() if spec.protocol in names]
    if args.json:
        _print_json([asdict(spec) for spec in wanted])
    else:
        print(show.metrics_text(wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
