"""``s2v-eval suite build|opens2v``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from s2v.evals.arguments import natural, positive
from s2v.evals.encoders.embedded import LightEncoders
from s2v.evals.errors import EvalError
from s2v.evals.manifest import write_manifest
from s2v.evals.suites.builder import MANIFEST, SHAPES, Shape, build_suite
from s2v.evals.suites.leakage import MAX_SIMILARITY, FaceGuard
from s2v.evals.suites.opens2v import load_opens2v


def add_arguments(commands: Any) -> None:
    """Add the commands."""
    suite = commands.add_parser("suite", help="test sets: drawn from a pool, or OpenS2V-Eval's")
    kinds = suite.add_subparsers(dest="what", required=True, metavar="WHAT")

    draw = kinds.add_parser("build", help="draw references, prompts and seeds as the paper does")
    draw.add_argument("pool", type=Path, help="JSON lines of references with prompts")
    draw.add_argument("--out", type=Path, required=True, help="folder for the manifest")
    draw.add_argument(
        "--kind",
        choices=tuple(SHAPES),
        required=True,
        help="single: 50 references x 3 prompts x 3 seeds; multi: 50 groups; id: 50 portraits",
    )
    draw.add_argument(
        "--training", type=Path, nargs="+", default=[], help="shard folders to be guarded against"
    )
    draw.add_argument(
        "--max-similarity",
        type=float,
        default=MAX_SIMILARITY,
        help=f"of a training face to a test face (default: {MAX_SIMILARITY})",
    )
    draw.add_argument("--references", type=positive, help="instead of the paper's count")
    draw.add_argument("--prompts", type=positive, help="of each reference, likewise")
    draw.add_argument("--seeds", type=positive, help="of each prompt, likewise")
    draw.add_argument("--model", default="model", help="name in the manifest (default: model)")
    draw.add_argument("--seed", type=natural, default=0, help="of the draw")
    draw.add_argument("--json", action="store_true", help="JSON on standard output")
    draw.add_argument("--no-progress", action="store_true", help="no progress on stderr")
    draw.set_defaults(do=_build)

    take = kinds.add_parser("opens2v", help="OpenS2V-Eval's JSON as a manifest")
    take.add_argument("json_file", type=Path, help="as Open-Domain_Eval.json")
    take.add_argument("--images", type=Path, required=True, help="where its img_paths start")
    take.add_argument("--videos", type=Path, required=True, help="folder with <id>.mp4")
    take.add_argument("--model", required=True, help="whose videos")
    take.add_argument("--out", type=Path, required=True, help="the manifest to write")
    take.set_defaults(do=_opens2v)


def _build(args: argparse.Namespace) -> int:
    usual = SHAPES[args.kind]
    shape = Shape(
        usual.references if args.references is None else args.references,
        usual.prompts if args.prompts is None else args.prompts,
        usual.seeds if args.seeds is None else args.seeds,
    )
    if not -1 < args.max_similarity <= 1:
        raise EvalError(f"--max-similarity {args.max_similarity}: a cosine lies in (-1, 1]")
    encoders = LightEncoders()
    guard = None
    if args.training or args.kind == "id":
        guard = FaceGuard(encoders.face_detector, encoders.sface, args.max_similarity)
    suite = build_suite(
        args.pool,
        args.out,
        args.kind,
        shape=shape,
        training=args.training,
        guard=guard,
        model=args.model,
        seed=args.seed,
        progress=not args.no_progress,
    )
    facts = {
        "videos": len(suite.samples),
        "references": shape.references,
        "categories": suite.categories,
        "dropped": dict(sorted(Counter(suite.dropped.values()).items())),
        "guarded": bool(args.training),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        parts = ", ".join(f"{n} {name}" for name, n in suite.categories.items())
        print(f"{args.out / MANIFEST}: {len(suite.samples)} videos of {shape.references}: {parts}")
        for why, n in sorted(Counter(suite.dropped.values()).items()):
            print(f"not taken: {n} ({why})")
        if not args.training:
            print("not guarded: name the training shards with --training")
    return 0


def _opens2v(args: argparse.Namespace) -> int:
    samples = load_opens2v(
        args.json_file, args.out, images=args.images, videos=args.videos, model=args.model
    )
    write_manifest(args.out, samples)
    counts = Counter(str(s.scenario) for s in samples)
    parts = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    print(f"{args.out}: {len(samples)} samples: {parts}\nthen: s2v-eval validate {args.out}")
    return 0
