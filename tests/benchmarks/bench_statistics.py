"""What the statistics of a paper-size evaluation cost, and whether its tests keep their promises.

    python tests/benchmarks/bench_statistics.py [--write] [--studies 2000]

**Cost**: 450 videos (50 references x 3 prompts x 3 seeds, five categories) of every protocol of the
suite ``light``, with scores and vectors that are drawn and not measured, go through what `s2v-eval
run` does after measuring (chance levels, intervals, slices by scenario) and through `s2v-eval
compare`, with 10,000 resamples each; then the report of a study of 20 raters, 50 groups and 4
methods. CPU seconds count, for the machine may be busy.

**Promises**: studies are drawn in which nothing differs, or just as much as the *detectable*
difference says; the paired test should find something in 5 % of the first and 80 % of the second.

``--write`` puts both tables into docs/evals-statistics.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from generated import machine, replace_generated

from s2v.evals import aggregate, statistics, write
from s2v.evals.aggregate import Row
from s2v.evals.compare import compare
from s2v.evals.coverage import DESIGNS, PER_REFERENCE, REPORTED, Design, coverage
from s2v.evals.intervals import standard_error
from s2v.evals.manifest import Reference, Sample
from s2v.evals.metrics import build
from s2v.evals.metrics.base import Measurement, Metric, MetricSpec, scored
from s2v.evals.study.ingest import SCHEMA, TABLE
from s2v.evals.study.records import QUESTIONS, Group, Item, Key
from s2v.evals.study.result import report
from s2v.evals.summary import SUMMARY_FILE, Bootstrap, MetricInfo, Summary, published_block

DOCS = Path(__file__).parents[2] / "docs/evals-statistics.md"
REFERENCES, PROMPTS, SEEDS, CATEGORIES = 50, 3, 3, 5
RATERS, GROUPS, METHODS, PER_RATER = 20, 50, 4, 10
FACES = 128
FEATURES = 1280
WORDS = 384


def suite_rows(model: str, metrics: Sequence[Metric], seed: int) -> list[Row]:
    """One row per video and metric, by sample as `s2v-eval run` has them."""
    rng = np.random.default_rng([seed, len(model)])
    rows = []
    for reference in range(REFERENCES):
        for prompt in range(PROMPTS):
            for noise in range(SEEDS):
                sample = Sample(
                    sample_id=f"{model}-r{reference:02d}-p{prompt}-s{noise}",
                    video="v.mp4",
                    prompt=f"prompt {prompt} of {reference}",
                    refs=(Reference(path="r.png", phrase="x", subject_class="thing"),),
                    seed=noise,
                    scenario=f"category {reference % CATEGORIES}",
                    model=model,
                    source="generated",
                    reference_id=f"r{reference:02d}",
                )
                rows += [Row(sample, m.spec, drawn(m.spec, rng)) for m in metrics]
    return rows


def drawn(spec: MetricSpec, rng: np.random.Generator) -> Measurement:
    """A score, and vectors of the sizes that the light encoders give."""
    score = float(rng.random() < 0.8) if spec.kind == "rate" else float(rng.beta(5, 5))
    vectors: dict[str, Any] = {}
    if spec.protocol.startswith("facesim"):
        vectors = {"reference": _unit(rng, 1, FACES), "faces": _unit(rng, 8, FACES)}
    elif spec.family == "subject":
        vectors = {"references": _unit(rng, 1, FEATURES), "mean_frame": _unit(rng, 1, FEATURES)[0]}
    elif spec.family == "text":
        vectors = {"mean_frame": _unit(rng, 1, WORDS)[0], "text": _unit(rng, 1, WORDS)[0]}
    return scored(score, {}, vectors)


def _unit(rng: np.random.Generator, n: int, width: int) -> np.ndarray:
    found = rng.normal(size=(n, width))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def save_run(folder: Path, model: str, metrics: Sequence[Metric], rows: Sequence[Row]) -> Summary:
    """What `s2v-eval compare` reads of a run; returns the summary."""
    specs = [m.spec for m in metrics]
    summary = Summary(
        partial=False,
        suite="light",
        n_samples=len(rows) // len(specs),
        n_manifest=len(rows) // len(specs),
        manifest_sha256="0" * 64,
        config_sha256="0" * 64,
        bootstrap=Bootstrap(
            seed=0, replicates=statistics.REPLICATES, confidence=statistics.CONFIDENCE
        ),
        metrics=tuple(MetricInfo.of(spec) for spec in specs),
        results=aggregate.results(specs, rows, seed=0, replicates=statistics.REPLICATES),
        published=published_block([spec.family for spec in specs]),
    )
    write.per_sample(folder / model / "per_sample.parquet", rows)
    write.json_file(folder / model / SUMMARY_FILE, summary.to_json())
    return summary


def study_folder(folder: Path) -> Path:
    """A study of the paper's size with every answer given at random."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)
    models = tuple(f"m{n}" for n in range(METHODS))
    groups = [f"g{n:03d}" for n in range(GROUPS)]
    sessions: dict[str, tuple[Item, ...]] = {}
    rows = []
    for rater in (f"r{n:02d}" for n in range(RATERS)):
        items: list[Item] = []
        for group in rng.permutation(groups)[:PER_RATER]:
            for model in models:
                name = f"i{len(items):03d}"
                items.append(
                    Item(id=name, group=str(group), models=(model,), media=(), kind="item")
                )
                rows += [
                    {
                        "rater": rater, "item": name, "kind": "item", "of": None, "expect": None,
                        "group": str(group), "models": [model], "question": question.id,
                        "choice": str(rng.integers(1, 4)), "ms": 5000, "place": len(items),
                    }
                    for question in QUESTIONS["scale"]
                ]  # fmt: skip
        sessions[rater] = tuple(items)
    key = Key(
        study="bench",
        mode="scale",
        seed=0,
        models=models,
        questions=QUESTIONS["scale"],
        groups={
            g: Group(id=g, reference_id=g, prompt=g, references=(), samples={}) for g in groups
        },
        sessions=sessions,
    )
    folder.mkdir(parents=True)
    (folder / "key.json").write_text(key.model_dump_json(by_alias=True))
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / TABLE)
    return folder


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the work gave."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def cost_lines(folder: Path) -> list[str]:
    """The table of costs."""
    metrics = build("light")
    runs = {model: suite_rows(model, metrics, n) for n, model in enumerate(("base", "mine"))}
    mine = runs["mine"]
    levels = timed(
        lambda: [
            aggregate.baselines(m, [r for r in mine if r.spec.protocol == m.spec.protocol])
            for m in metrics
        ]
    )[0]
    specs = [m.spec for m in metrics]
    whole = timed(lambda: aggregate.results(specs, mine, seed=0, replicates=statistics.REPLICATES))[
        0
    ]
    for model, rows in runs.items():
        save_run(folder, model, metrics, rows)
    paired, found = timed(lambda: compare(folder / "base", folder / "mine"))
    assert len(found.differences) == len(metrics)
    rated = timed(lambda: report(study_folder(folder / "study")))[0]
    videos = REFERENCES * PROMPTS * SEEDS
    size = f"{videos} videos of {REFERENCES} references, {len(metrics)} protocols"
    answers = f"{RATERS} raters, {GROUPS} groups, {METHODS} methods, three questions"
    return [
        f"{machine()}; one thread; {statistics.REPLICATES:,} resamples each; scores drawn, not "
        "measured.",
        "",
        "| what | of | CPU s |",
        "|---|---|---|",
        f"| chance levels | {size} | {levels:.2f} |",
        f"| intervals | the same, whole and in {CATEGORIES} scenarios | {whole:.2f} |",
        f"| `compare`: intervals, sign flips, Holm | two such runs | {paired:.2f} |",
        f"| `study report` | {answers} | {rated:.2f} |",
    ]


def rejected(
    design: Design, groups: int, studies: int, gain: Callable[[float], float], seed: int
) -> float:
    """Share of studies whose paired test gives p of at most 0.05.

    Args:
        design: of the paired differences, whose mean is made 0.
        groups: references.
        studies: drawn.
        gain: true difference to be added, given the spread of the references' means.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    spread = _spread(design, rng)
    added = gain(spread)
    found = 0
    for study in range(studies):
        values, labels = design.draw(rng, groups)
        sums = np.bincount(labels, weights=values - design.truth + added).astype(np.float64)
        found += statistics.sign_flip_p(sums, seed=study, replicates=499)[0] <= statistics.ALPHA
    return found / studies


def _spread(design: Design, rng: np.random.Generator) -> float:
    """What the mean's standard error is, times the root of the references, of very many."""
    values, labels = design.draw(rng, 4000)
    sums = np.bincount(labels, weights=values).astype(np.float64)
    counts = np.bincount(labels).astype(np.float64)
    return float(standard_error(sums, counts)) * 4000**0.5


def family_error(groups: int, metrics: int, studies: int, seed: int) -> tuple[float, float]:
    """Share of studies of many alike metrics with any false find: without Holm, and with it."""
    rng = np.random.default_rng(seed)
    plain = corrected = 0
    for study in range(studies):
        common = rng.normal(size=groups)
        raw = {
            f"m{m}": statistics.sign_flip_p(
                common + rng.normal(size=groups), seed=study, replicates=999
            )[0]
            for m in range(metrics)
        }
        plain += min(raw.values()) <= 0.05
        corrected += min(statistics.holm(raw).values()) <= 0.05
    return plain / studies, corrected / studies


def promise_lines(studies: int, seed: int) -> list[str]:
    """The table of promises."""
    lines = [
        f"{studies:,} studies a cell; {PER_REFERENCE} videos per reference.",
        "",
        "| differences | references | false finds (5 wanted) | found at the detectable difference "
        "(80 wanted) | intervals that hold the truth (95 wanted) |",
        "|---|---|---|---|---|",
    ]
    for design in DESIGNS:
        for groups in (11, 50):
            level = rejected(design, groups, studies, lambda _: 0.0, seed)
            power = rejected(
                design,
                groups,
                studies,
                lambda sd, n=groups: statistics.detectable(sd, n),
                seed + 1,
            )
            held = coverage(
                design, groups, studies=studies, replicates=499, seed=seed, names=(REPORTED,)
            )[REPORTED]
            lines.append(
                f"| {design.name} | {groups} | {100 * level:.1f} | {100 * power:.1f} | "
                f"{100 * held:.1f} |"
            )
    for groups in (11, 50):
        plain, corrected = family_error(groups, 9, studies // 2, seed)
        lines.append(
            f"| any of nine alike metrics, without Holm | {groups} | {100 * plain:.1f} | | |"
        )
        lines.append(
            f"| any of nine alike metrics, with Holm | {groups} | {100 * corrected:.1f} | | |"
        )
    return lines


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into the docs")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20250219)
    parser.add_argument("--json", action="store_true", help="the lines as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        costs = cost_lines(Path(temporary))
    promises = promise_lines(args.studies, args.seed)
    if args.json:
        print(json.dumps({"cost": costs, "promises": promises}, indent=1))
    else:
        print("\n".join([*costs, "", *promises]))
    if args.write:
        replace_generated(DOCS, "cost", "\n".join(costs))
        replace_generated(DOCS, "promises", "\n".join(promises))
    return 0


if __name__ == "__main__":
    sys.exit(main())
