"""Sample held-out references, and score the samples beside the real clips.

``ray job submit --working-dir jobs -- python evaluate.py --run RUN --shards DIR --out DIR`` with
absolute folders on storage that the cluster shares.

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

from s2v.datapipe.base import atomic
from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.evals.run import evaluate
from s2v.evals.show import summary_text
from s2v.evals.summary import Summary
from s2v.model.progress import quiet as no_progress
from s2v.model.progress import shown
from s2v.model.sample import sample
from s2v.model.sample_files import Request, SampleResult

MAX_REFERENCES = 4


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
    limit: int = 6,
    seeds: Sequence[int] = (0,),
    suite: str = "light",
    form: Literal["masked", "crop"] = "masked",
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
        form: references cut to their subject on white, or as they were cropped.
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
    parser.add_argument("--run", type=Path, required=True, help="training run")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=6, help="held-out samples (default: 6)")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    return plainly("evaluate", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    done = evaluate_run(args.run, args.shards, args.out, limit=args.limit, quiet=args.quiet)
    print(summary_text(done.summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
