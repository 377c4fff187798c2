"""Score videos on Ray, or sample a training and score its samples beside the real clips.

``ray job submit --working-dir jobs -- python evaluate.py --manifest FILE --out DIR`` is
``s2v-eval run`` with a pool of actors per encoder: the same files, byte for byte.
``... python evaluate.py --run RUN --shards DIR --out DIR`` first samples held-out references.
Files and folders are absolute, on storage that the cluster shares.

The ceiling is the held-out clips themselves, scored by the same protocols against the same
references. Faces are recognised here by a net that curation did not use.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from demo import plainly
from pools import RayRunner

from s2v.datapipe.base import atomic
from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.evals.arguments import natural
from s2v.evals.cli import chosen_encoders
from s2v.evals.errors import EvalError
from s2v.evals.run import evaluate
from s2v.evals.show import summary_text
from s2v.evals.summary import Summary
from s2v.model.progress import quiet as no_progress
from s2v.model.progress import shown
from s2v.model.run import Run
from s2v.model.sample import sample
from s2v.model.sample_files import Request, SampleResult

MAX_REFERENCES = 4
QUESTIONS = 6
"""Held-out samples that a training is asked, where nobody says how many."""
MANIFEST_ONLY = (
    *("seed", "cache", "keep_going", "weights", "judge", "judge_model", "cpus", "videos", "pool"),
    *("gpus", "no_report"),
)
"""Options that a sampled training does not heed: taken in silence, they would promise it."""


@dataclass(frozen=True)
class Evaluated:
    """What was sampled and how it scored."""

    summary: Summary
    samples: list[SampleResult]
    chosen: list[Sample]


def choose(shards: Path, limit: int) -> list[Sample]:
    """Held-out samples, cross pairs first, in id order; see :func:`distinct`."""
    held = [s for s in ShardIndex.open(shards) if s.row["heldout"] and s.row["references"]]
    held.sort(key=lambda s: (s.row["pair_type"] != "cross", s.id))
    return distinct(held)[:limit]


def distinct(samples: Iterable[Sample]) -> list[Sample]:
    """One sample per clip, and one per question: clips of one shot may share caption and reference.

    A model would answer both with the same video, and the second score would say nothing.
    """
    clips: set[str] = set()
    questions: set[tuple[str, ...]] = set()
    chosen = []
    for one in samples:
        references = (m["sha256"] for m in one.row["members"] if m["suffix"].startswith("ref"))
        question = (one.row["caption"], *references)
        if one.row["clip_id"] in clips or question in questions:
            continue
        clips.add(one.row["clip_id"])
        questions.add(question)
        chosen.append(one)
    return chosen


def evaluate_run(
    run: Path,
    shards: Path,
    out: Path,
    *,
    limit: int = QUESTIONS,
    seeds: Sequence[int] = (0,),
    suite: str = "light",
    form: Literal["masked", "crop"] | None = None,
    quiet: bool = False,
) -> Evaluated:
    """Sample the run for held-out references and evaluate samples and ceiling.

    Args:
        run: of a training.
        shards: that it was trained on.
        out: receives inputs, samples, manifest and scores.
        limit: questions.
        seeds: of the noise; each question is sampled with each.
        suite: of measures.
        form: references on white, or as they were cropped; None: as the run was trained.
        quiet: show no progress.

    Raises:
        SystemExit: there is no held-out sample.
    """
    chosen = choose(shards, limit)
    if not chosen:
        raise SystemExit(
            f"evaluate: {shards} has no held-out sample with a reference; "
            "raise select.split.heldout_share and run `s2v-data run` again"
        )
    inputs = [_unpack(one, out / "inputs") for one in chosen]
    form = form or trained_form(run)
    asked = [(one, i, seed) for one, i in zip(chosen, inputs, strict=True) for seed in seeds]
    requests = [
        Request(_name(one, seed, seeds), one.row["caption"], tuple(i[form]), seed)
        for one, i, seed in asked
    ]
    made = sample(run, requests, out / "samples", no_progress if quiet else shown)
    rows = [
        row
        for (one, i, seed), m in zip(asked, made, strict=True)
        for row in _rows(one, i, m, seed)
        if row["source"] == "generated" or seed == seeds[0]
    ]
    manifest = out / "manifest.jsonl"
    text = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    atomic.write_bytes(manifest, text.encode())
    summary = evaluate(manifest, out / "scores", suite, progress=not quiet, on_problem="record")
    return Evaluated(summary, made, chosen)


def trained_form(run: Path) -> Literal["masked", "crop"]:
    """On white where the run has ever seen that, else the crop."""
    return "masked" if {"white", "masked"} & set(Run(run).config().data.forms) else "crop"


def _name(one: Sample, seed: int, seeds: Sequence[int]) -> str:
    return one.id if len(seeds) == 1 else f"{one.id}-s{seed}"


def _unpack(one: Sample, folder: Path) -> dict[str, Any]:
    """Write a sample's clip, references and masks as files, as a user would have them."""
    folder.mkdir(parents=True, exist_ok=True)
    video = folder / f"{one.id}.mp4"
    atomic.write_bytes(video, one.read("mp4"))
    crops, masks, masked, plain = [], [], [], []
    for n in range(min(one.row["references"], MAX_REFERENCES)):
        crop, mask = folder / f"{one.id}.ref{n}.jpg", folder / f"{one.id}.ref{n}.mask.png"
        atomic.write_bytes(crop, one.read(f"ref{n}.jpg"))
        atomic.write_bytes(mask, one.read(f"ref{n}.mask.png"))
        plain.append(load_image(crop))
        pixels = load_image(crop).copy()
        pixels[~decode_png_mask(mask.read_bytes())] = 255
        crops.append(crop)
        masks.append(mask)
        masked.append(pixels)
    return {"video": video, "crops": crops, "masks": masks, "masked": masked, "crop": plain}


def _rows(
    one: Sample, files: dict[str, Any], made: SampleResult, seed: int
) -> list[dict[str, Any]]:
    meta = one.meta()
    refs = [
        {
            "path": str(crop.resolve()),
            "mask": str(mask.resolve()),
            "phrase": ref.phrase,
            "class": ref.class_,
            "is_face": ref.scores.face_similarity is not None or ref.class_ == "person",
        }
        for crop, mask, ref in zip(files["crops"], files["masks"], meta.refs, strict=False)
    ]
    common = {
        "prompt": meta.caption,
        "refs": refs,
        "scenario": meta.scenario,
        "split": "heldout",
        "reference_id": meta.refs[0].identity_id or meta.refs[0].subject_id,
    }
    real = {"sample_id": f"{one.id}-real", "video": str(files["video"].resolve()), "source": "real"}
    generated = {
        "sample_id": f"{made.id}-generated",
        "video": str(made.video.resolve()),
        "source": "generated",
        "model": "mmdit",
        "seed": seed,
    }
    return [{**common, **real}, {**common, **generated}]


def main(argv: list[str] | None = None) -> int:
    """Parse and evaluate."""
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--manifest", type=Path, help="videos that are there; see docs/evals.md")
    what.add_argument("--run", type=Path, help="training run, to be sampled; needs --shards")
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suite", default="light", help="suites or protocols (default: light)")
    parser.add_argument("--limit", type=int, help="first N samples (held-out samples: 6)")
    parser.add_argument("--seed", type=natural, default=0, help="of the bootstrap")
    parser.add_argument("--cache", type=Path, help="finished measurements (default: OUT/cache)")
    parser.add_argument("--keep-going", action="store_true", help="count unusable ones as failed")
    parser.add_argument("--weights", type=Path, help="file that names production weights")
    parser.add_argument("--judge", help="OpenAI-compatible address that judged protocols ask")
    parser.add_argument("--judge-model", help="its model")
    parser.add_argument("--cpus", type=int, help="of a local Ray")
    parser.add_argument("--videos", type=int, help="actors that decode and measure")
    parser.add_argument(
        "--pool", action="append", default=[], metavar="ENCODER=N", help="actors of one encoder"
    )
    parser.add_argument("--gpus", type=float, default=0.0, help="of each encoder actor")
    parser.add_argument("--no-report", action="store_true", help="numbers only")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    if args.run is not None and args.shards is None:
        parser.error("--run needs --shards")
    if args.run is not None:
        for name in MANIFEST_ONLY:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} goes with --manifest, not with --run")
    return plainly("evaluate", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    summary = _scored(args) if args.manifest else _sampled(args)
    print(summary_text(summary))
    return 0


def _sampled(args: argparse.Namespace) -> Summary:
    limit = QUESTIONS if args.limit is None else args.limit
    if limit < 1:
        raise EvalError(f"--limit {limit}: at least one sample must be left")
    done = evaluate_run(
        args.run, args.shards, args.out, limit=limit, suite=args.suite, quiet=args.quiet
    )
    return done.summary


def _scored(args: argparse.Namespace) -> Summary:
    """``s2v-eval run`` with Ray behind it."""
    for name in ("manifest", "out", "cache", "weights"):
        path: Path | None = getattr(args, name)
        if path is not None and not path.is_absolute():
            raise EvalError(f"--{name} {path}: give an absolute path; Ray runs elsewhere")
    encoders = chosen_encoders(args)
    pools = {}
    for said in args.pool:
        role, _, number = said.partition("=")
        if not number.isdecimal():
            raise EvalError(f"--pool {said!r}: expected ENCODER=N")
        pools[role] = int(number)
    runner = RayRunner(
        args.suite,
        encoders.weights,
        encoders.judge if args.judge else None,
        cpus=args.cpus,
        videos=args.videos,
        pools=pools,
        gpus=args.gpus,
    )
    return evaluate(
        args.manifest,
        args.out,
        args.suite,
        progress=not args.quiet,
        limit=args.limit,
        seed=args.seed,
        on_problem="record" if args.keep_going else "refuse",
        cache=args.cache,
        encoders=encoders,
        runner=runner,
        report=not args.no_report,
    )


if __name__ == "__main__":
    sys.exit(main())
