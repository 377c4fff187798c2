"""The demo: curate a real film, train a small model on it, sample it, score it, report.

Nothing but the other jobs with the demo's configuration. Stop it anywhere (Ctrl-C, kill -9)
and run it again: it goes on where it was; a second run has nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.settings import load
from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.cli import guarded

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the jobs are scripts that lie beside this one

LONG_STEPS = 6000  # make demo-long: samples worth looking at
SAMPLES = 6


def main(argv: list[str] | None = None) -> int:
    """Run what is not done yet."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "configs" / "demo.toml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--long", action="store_true", help=f"train {LONG_STEPS} steps")
    parser.add_argument("--steps", type=int, help="training steps, else the recipe's")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    return guarded("demo", lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """The five steps."""
    from demo_inputs import make_inputs

    from s2v.datapipe.config import Settings
    from s2v.datapipe.curate import curate

    began = time.monotonic()
    settings = load(Settings, args.config, args.set)
    folder = Path(settings.folder)
    make_inputs(folder.with_name(f"{folder.name}-input"), quiet=args.quiet)
    curated = curate(settings, quiet=args.quiet)
    shards = folder / "shards"
    steps = LONG_STEPS if args.long else args.steps
    model = folder / ("model-long" if args.long else "model")
    done = Done(folder / "done", [_digest(shards / INDEX_FILE), str(steps), _code()])
    trained = done.once("train", lambda: _train(shards, model, steps, args.quiet))
    heldout = done.once("heldout", lambda: _heldout(model, shards, args.quiet))
    done.once("evaluate", lambda: _evaluate(model, shards, folder / "evals", args.quiet))
    report = folder / "report.html"
    done.once(
        "report",
        lambda: _report(folder, report, model, trained, heldout),
        extra=[_digest(folder / "tables" / "pairs.parquet")],
    )
    _tell(curated.summary(), trained, heldout, report, time.monotonic() - began)
    return 0


class Done:
    """Remembers finished steps by everything they depend on."""

    def __init__(self, folder: Path, depends: list[str]) -> None:
        self.folder = folder
        self.depends = depends

    def once(
        self, name: str, make: Callable[[], dict[str, Any]], extra: list[str] | None = None
    ) -> dict[str, Any]:
        """The stored result of ``name``, or that of ``make`` when its inputs changed."""
        key = stable_hash([name, *self.depends, *(extra or [])])
        path = self.folder / f"{name}.json"
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["key"] == key:
                result: dict[str, Any] = stored["result"]
                return result
        result = make()
        atomic.write_json(path, {"key": key, "result": result})
        return result


def _train(shards: Path, model: Path, steps: int | None, quiet: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from s2v.model import config as configuration
    from s2v.model.train import train

    overrides = [f"train.steps={steps}"] if steps else []
    recipe = configuration.load("demo_tiny", overrides)
    return asdict(train(recipe, shards, model, _track(quiet)))


def _heldout(model: Path, shards: Path, quiet: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from s2v.model.heldout import heldout

    return asdict(heldout(model, shards, _track(quiet)))


def _evaluate(model: Path, shards: Path, out: Path, quiet: bool) -> dict[str, Any]:
    from evaluate import evaluate_run

    done = evaluate_run(model, shards, out, limit=SAMPLES, quiet=quiet)
    return {
        "table": done.summary.table(),
        "published": done.summary.published.model_dump(mode="json"),
        "samples": [
            {
                "id": made.id,
                "video": str(made.video),
                "references": [str(path) for path in made.references],
                "real": str(out / "inputs" / f"{made.id}.mp4"),
                "caption": one.row["caption"],
            }
            for made, one in zip(done.samples, done.chosen, strict=True)
        ],
    }


def _report(
    folder: Path, out: Path, model: Path, trained: dict[str, Any], heldout: dict[str, Any]
) -> dict[str, Any]:
    from demo_report import sections

    from s2v.datapipe.report.page import build_report

    evaluated = json.loads((folder / "done" / "evaluate.json").read_text())["result"]
    build_report(folder, out, sections(model, trained, heldout, evaluated))
    return {"report": str(out), "bytes": out.stat().st_size}


def _track(quiet: bool) -> Any:
    from s2v.model import progress

    return progress.quiet if quiet else progress.shown


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _code() -> str:
    """Digest of the sources, so that changed code is not taken for done work."""
    import s2v.datapipe.base.ids
    import s2v.evals
    import s2v.model

    roots = [Path(s2v.datapipe.base.ids.__file__).parents[1], HERE]
    roots += [Path(str(m.__file__)).parent for m in (s2v.model, s2v.evals)]
    files = sorted(path for root in roots for path in root.rglob("*.py"))
    return stable_hash([path.name + _digest(path) for path in files])


def _tell(
    curated: dict[str, Any],
    trained: dict[str, Any],
    heldout: dict[str, Any],
    report: Path,
    seconds: float,
) -> None:
    gain = heldout["swapped_minus_right"]
    print(f"samples    {curated['samples']}, {curated['quarantined']} sources in quarantine")
    print(f"training   loss {trained['first_loss']:.3f} -> {trained['last_loss']:.3f}")
    print(
        f"held out   right reference {heldout['right']:.4f}, swapped {heldout['swapped']:.4f}, "
        f"difference {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    )
    print(f"report     {report} ({report.stat().st_size / 1e6:.1f} MB), in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
