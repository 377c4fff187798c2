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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.settings import load
from s2v.datapipe.base.shards import INDEX_FILE
from s2v.datapipe.cli import guarded

if TYPE_CHECKING:
    from s2v.model.config import Config

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
    return plainly("demo", lambda: run(args))


def plainly(name: str, command: Callable[[], int]) -> int:
    """Run ``command``; what a user can mend is one line, also from training and evaluation.

    Returns:
        The exit status: 128 and the signal's number where training was stopped by one.
    """
    from s2v.evals.errors import EvalError
    from s2v.model.errors import Interrupted, ModelError

    def said() -> int:
        try:
            return command()
        except Interrupted as stop:
            print(f"{name}: {stop}; run the same command again to go on", file=sys.stderr)
            return 128 + stop.signal
        except (EvalError, ModelError) as error:
            print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
            return 1

    return guarded(name, said)


def run(args: argparse.Namespace) -> int:
    """The five steps."""
    from demo_inputs import make_inputs

    from s2v.datapipe.config import Settings
    from s2v.datapipe.curate import curate
    from s2v.datapipe.sources import SourceSpec
    from s2v.model import config as configuration

    began = time.monotonic()
    settings = load(Settings, args.config, args.set)
    folder = Path(settings.folder)
    manifest = make_inputs(folder.with_name(f"{folder.name}-input"), quiet=args.quiet)
    sources = [SourceSpec(manifest=str(manifest))]  # wherever the run folder was put
    settings = settings.model_copy(update={"sources": sources})
    curated = curate(settings, quiet=args.quiet)
    shards = folder / "shards"
    steps = LONG_STEPS if args.long else args.steps
    recipe = configuration.load("demo_tiny", [f"train.steps={steps}"] if steps else [])
    index = _digest(shards / INDEX_FILE)
    model = model_folder(folder, recipe, index)
    done = Done(folder / "done", [index, model.name, _code()])
    trained = done.once("train", lambda: _train(recipe, shards, model, args.quiet), model_files)
    heldout = done.once("heldout", lambda: _heldout(model, shards, args.quiet))
    evaluated = done.once(
        "evaluate", lambda: _evaluate(model, shards, folder / "evals", args.quiet), sample_files
    )
    report = folder / "report.html"
    done.once(
        "report",
        lambda: _report(folder, report, model, trained, heldout, evaluated),
        lambda result: [Path(result["report"])],
        extra=[_digest(folder / "tables" / "pairs.parquet")],
    )
    _tell(curated.summary(), trained, heldout, report, time.monotonic() - began)
    return 0


def model_folder(folder: Path, recipe: Config, index: str) -> Path:
    """Where the training of ``recipe`` on these shards is kept.

    A training goes on only with the recipe and the samples it was started with; another one
    gets a folder of its own, and the old one stays.

    Args:
        folder: the run folder.
        recipe: resolved configuration.
        index: digest of the shards' index.
    """
    return folder / f"model-{stable_hash([recipe.model_dump_json(), index], 8)}"


def model_files(trained: dict[str, Any]) -> list[Path]:
    """What later steps read of a finished training."""
    run, last = Path(trained["run"]), Path(trained["checkpoint"])
    one = "rank-00000.safetensors"  # the demo trains in one process
    return [
        *(run / name for name in ("config.json", "autoencoder.safetensors", "metrics.jsonl")),
        *(last / name for name in (f"model/{one}", f"ema/{one}", "state.json")),
    ]


def sample_files(evaluated: dict[str, Any]) -> list[Path]:
    """The samples and the references beside them, which the report shows."""
    samples = evaluated["samples"]
    return [Path(p) for one in samples for p in (one["video"], one["real"], *one["references"])]


class Done:
    """Remembers finished steps by all they depend on; one whose files are gone is not finished."""

    def __init__(self, folder: Path, depends: list[str]) -> None:
        self.folder = folder
        self.depends = depends

    def once(
        self,
        name: str,
        make: Callable[[], dict[str, Any]],
        outputs: Callable[[dict[str, Any]], Iterable[Path]] = lambda _: (),
        extra: list[str] | None = None,
    ) -> dict[str, Any]:
        """The stored result of ``name``, or that of ``make`` when inputs changed or files are gone.

        Args:
            name: of the step.
            make: does it.
            outputs: the files that a result stands for; one that is missing has it made again.
            extra: what this step depends on beyond the others.
        """
        key = stable_hash([name, *self.depends, *(extra or [])])
        path = self.folder / f"{name}.json"
        if path.exists():
            stored = json.loads(path.read_text())
            result: dict[str, Any] = stored["result"]
            if stored["key"] == key and all(file.is_file() for file in outputs(result)):
                return result
        result = make()
        atomic.write_json(path, {"key": key, "result": result})
        return result


def _train(recipe: Config, shards: Path, model: Path, quiet: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from s2v.model.train import train

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
    folder: Path,
    out: Path,
    model: Path,
    trained: dict[str, Any],
    heldout: dict[str, Any],
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    from demo_report import sections

    from s2v.datapipe.report.page import build_report

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
    print(f"samples    {curated['samples']}, {curated['quarantined']} sources in quarantine")
    print(f"training   loss {trained['first_loss']:.3f} -> {trained['last_loss']:.3f}")
    print(f"held out   right reference {heldout['right']:.4f} ({heldout['spread']} noise levels)")
    for name in ("swapped", "none"):
        gain = heldout[f"{name}_minus_right"]
        print(
            f"           {name} {heldout[name]:.4f}, {gain['mean']:+.4f} "
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
        )
    print(f"model      {trained['run']}")
    print(f"report     {report} ({report.stat().st_size / 1e6:.1f} MB), in {seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
