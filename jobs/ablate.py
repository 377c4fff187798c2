"""Ablations: the same shards, several recipes, one table of copying against identity and text.

    python jobs/ablate.py --shards DIR --out DIR [--base demo_tiny]
        [--variants base,no_clip,no_vae,in_only,cross_only] [--set train.steps=600]
        [--limit 8] [--seeds 0,1] [--json]

A variant is ``base``, a recipe that is laid over it (``no_clip``), or a name with overrides of its
own (``long:train.steps=2000;optim.lr=1e-3``). Each is trained, sampled on the same held-out
references with the same noise, and scored by the same protocols; the held-out clips themselves
stand beside them, as what can be reached. Differences to the first variant are paired by
question, their intervals are over references. Stop it anywhere and run it again: it goes on.

The question is the papers': a network that learns from in-pairs alone gains in likeness by
pasting its reference, and follows the text less (Phantom-Data, section 5).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demo import Done, plainly

from s2v.datapipe.base import atomic
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.shards import INDEX_FILE

VARIANTS = "base,no_clip,no_vae,in_only,cross_only"


@dataclass(frozen=True)
class Variant:
    """One line of the table.

    Attributes:
        name: of the line and of its folder.
        recipe: as ``--recipe`` takes it.
        overrides: as ``--set`` takes them.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...]


def variants(said: str, base: str, overrides: Sequence[str]) -> list[Variant]:
    """What ``--variants`` asks for.

    Raises:
        SystemExit: a name twice, or one that is no plain name.
    """
    found = []
    for text in said.split(","):
        name, _, own = text.partition(":")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise SystemExit(f"ablate: --variants {text!r}: a name of letters, digits, - and _")
        recipe = base if name == "base" or own else f"{base}+{name}"
        more = [part for part in own.split(";") if part]
        found.append(Variant(name, recipe, (*overrides, *more)))
    names = [variant.name for variant in found]
    if len(set(names)) < len(names):
        raise SystemExit(f"ablate: --variants {said}: a name stands there twice")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", default="demo_tiny", help="recipe (default: demo_tiny)")
    parser.add_argument("--variants", default=VARIANTS, help=f"(default: {VARIANTS})")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--limit", type=int, default=8, help="held-out questions (default: 8)")
    parser.add_argument("--seeds", default="0", help="of the noise, with commas (default: 0)")
    parser.add_argument("--form", choices=("masked", "crop"), default="crop", help="of references")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true")
    return plainly("ablate", lambda: run(parser.parse_args(argv)))


def run(a: argparse.Namespace) -> int:
    """Train, sample, score, table."""
    from ablate_report import Row, markdown, scatter

    from s2v.model import config as configuration

    seeds = tuple(int(seed) for seed in a.seeds.split(","))
    asked = variants(a.variants, a.base, a.overrides)
    configs = {v.name: configuration.load(v.recipe, v.overrides) for v in asked}  # before training
    index = hashlib.sha256((a.shards / INDEX_FILE).read_bytes()).hexdigest()
    found: list[Row] = []
    ceiling: Row | None = None
    for variant in asked:
        config = configs[variant.name]
        key = stable_hash([config.model_dump_json(), index], 8)
        folder = a.out / f"{variant.name}-{key}"
        done = Done(folder / "done", [index, key])
        # All runs decode and encode the same windows: one cache serves those of equal encoders.
        done.once("train", lambda c=config, f=folder: _train(c, a, f))  # type: ignore[misc]  # bound now
        held = done.once("heldout", lambda f=folder: _heldout(a, f))  # type: ignore[misc]  # as above
        scored = done.once(
            "scores",
            lambda f=folder: _scores(a, f, seeds),  # type: ignore[misc]  # as above
            extra=[str(a.limit), a.seeds, a.form],
        )
        references = _references(folder)
        found.append(Row.of(variant.name, scored["generated"], references, held))
        ceiling = ceiling or Row.of("real clips", scored["real"], references, None)
    assert ceiling is not None  # noqa: S101 - there is a variant
    rows = [*found, ceiling]
    result = {"base": a.base, "variants": [asdict(v) for v in asked],
              "rows": [row.to_json(found[0]) for row in rows]}  # fmt: skip
    text = markdown(rows, found[0])
    atomic.write_json(a.out / "ablation.json", result)
    atomic.write_bytes(a.out / "ablation.md", text.encode())
    atomic.write_bytes(a.out / "ablation.svg", scatter(rows).encode())
    print(json.dumps(result, sort_keys=True) if a.json else text)
    return 0


def _train(config: Any, a: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from s2v.model import progress
    from s2v.model.train import train

    track = progress.quiet if a.quiet else progress.shown
    return asdict(train(config, a.shards, folder, track, cache=a.out / "cache"))


def _heldout(a: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from s2v.model import progress
    from s2v.model.heldout import heldout

    track = progress.quiet if a.quiet else progress.shown
    return asdict(heldout(folder, a.shards, track, cache=a.out / "cache"))


def _scores(a: argparse.Namespace, folder: Path, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Per source: protocol -> question -> score; a question is a held-out sample and a seed."""
    import pyarrow.parquet as pq
    from evaluate import evaluate_run
    from scores import SUITE

    out = folder / "evals"
    evaluate_run(
        folder, a.shards, out, limit=a.limit, seeds=seeds, suite=SUITE, form=a.form, quiet=a.quiet
    )
    columns = ["sample_id", "source", "protocol", "status", "score"]
    found: dict[str, dict[str, dict[str, float]]] = {"generated": {}, "real": {}}
    for row in pq.read_table(_per_sample(folder), columns=columns).to_pylist():
        if row["status"] == "scored":
            question = _question(row["sample_id"])
            found[row["source"]].setdefault(row["protocol"], {})[question] = row["score"]
    return found


def _references(folder: Path) -> dict[str, str]:
    """Question -> the reference that it asks about."""
    import pyarrow.parquet as pq

    rows = pq.read_table(_per_sample(folder), columns=["sample_id", "reference_id"]).to_pylist()
    return {_question(row["sample_id"]): row["reference_id"] for row in rows}


def _per_sample(folder: Path) -> Path:
    return folder / "evals" / "scores" / "per_sample.parquet"


def _question(sample_id: str) -> str:
    return sample_id.removesuffix("-real").removesuffix("-generated")


if __name__ == "__main__":
    sys.exit(main())
