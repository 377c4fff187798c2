"""Does the copy indicator tell videos that hold their reference from videos that do not?

    python tests/benchmarks/bench_copying.py runs/demo/shards [--check] [--write]

Real media only, through the metrics that a user runs. Genuine: every cross-pair of the shards, a
real clip beside a reference of the same subject from another clip. Copied, in two ways: every
in-pair, whose reference is cut from one frame of the very clip, so that most of the clip shows it
otherwise; and every cross-pair's reference on a slow zoom over the clip's first frame, encoded as a
sampler would, which is what a network that pastes makes. AUC with a 95 % interval that resamples
sources. ``--check`` exits with 1 below 0.95; ``--write`` puts the table into docs/evals.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from generated import replace_generated

from s2v.datapipe.base.media.images import decode_png_mask, load_image
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.evals import media
from s2v.evals.metrics import build
from s2v.evals.metrics.base import Case, RefImage

PROTOCOLS = ("copy.light.leak", "copy.light.paste")
DOCS = Path(__file__).parents[2] / "docs/evals.md"
FRAMES, REPLICATES = 12, 2000


@dataclass(frozen=True)
class Seen:
    """One video with its scores."""

    kind: str
    source: str
    scores: tuple[float, ...]


def references(sample: Sample, folder: Path) -> tuple[RefImage, ...]:
    """Crops and masks as the shards hold them."""
    found = []
    for n in range(sample.row["references"]):
        crop = folder / "ref.jpg"
        crop.write_bytes(sample.read(f"ref{n}.jpg"))
        mask = decode_png_mask(sample.read(f"ref{n}.mask.png"))
        found.append(RefImage(np.asarray(load_image(crop), np.uint8), np.asarray(mask, np.bool_)))
    return tuple(found)


def case(path: Path, metrics: list[Any], refs: tuple[RefImage, ...]) -> Case:
    """The video with the frames that the metrics look at."""
    times = media.frame_times(path)
    wanted = sorted({i for metric in metrics for i in metric.plan(times)})
    return Case(media.read_frames(path, times, wanted), times, refs)


def paste(ref: RefImage, ground: np.ndarray, path: Path) -> Path:
    """A short film of the reference's subject, growing by a fifth, on the ground."""
    height, width = ground.shape[0] // 2 * 2, ground.shape[1] // 2 * 2
    assert ref.mask is not None
    rows, columns = (np.flatnonzero(ref.mask.any(axis=a)) for a in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image, mask = ref.image[box], ref.mask[box].astype(np.uint8)
    fit = 0.6 * min(height / image.shape[0], width / image.shape[1])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"crf": "23", "threads": "1"}
        for n in range(FRAMES):
            scale = fit * (1 + 0.2 * n / (FRAMES - 1))
            size = max(2, round(image.shape[1] * scale)), max(2, round(image.shape[0] * scale))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            where = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0
            frame = ground[:height, :width].copy()
            top, left = (height - size[1]) // 2, (width - size[0]) // 3
            frame[top : top + size[1], left : left + size[0]][where] = small[where]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def measure(shards: Path) -> list[Seen]:
    """Every pair of the shards, and every cross-pair's reference pasted."""
    metrics = build(",".join(PROTOCOLS))
    seen = []
    for sample in ShardIndex.open(shards):
        kind = sample.row["pair_type"]
        if kind not in ("in", "cross") or not sample.row["references"]:
            continue
        source = sample.meta().source.long_video_id or sample.meta().source.video_id
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            video = folder / "video.mp4"
            video.write_bytes(sample.read("mp4"))
            refs = references(sample, folder)
            shown = case(video, metrics, refs)
            videos = {kind: shown}
            if kind == "cross":
                pasted = paste(refs[0], shown.frames[0], folder / "pasted.mp4")
                videos["pasted"] = case(pasted, metrics, refs)
            for name, one in videos.items():
                by_name = {metric.spec.protocol: metric.measure(one).score for metric in metrics}
                found = [by_name[protocol] for protocol in PROTOCOLS]
                scores = tuple(float(s) for s in found if s is not None)
                if len(scores) == len(metrics):
                    seen.append(Seen(name, f"{source}:{sample.row['clip_id']}", scores))
        print(f"\r{len(seen)} videos", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seen


def auc(copied: np.ndarray, genuine: np.ndarray) -> float:
    """Share of pairs in which the copy scores above the genuine video; ties half."""
    above = (copied[:, None] > genuine[None]).mean()
    return float(above + (copied[:, None] == genuine[None]).mean() / 2)


def interval(copied: list[Seen], genuine: list[Seen], column: int) -> tuple[float, float]:
    """Percentiles of the AUC over resampled clips; a clip's videos stay together."""
    rng = np.random.default_rng(0)
    clips = sorted({s.source for s in (*copied, *genuine)})
    by_clip = [
        [np.array([s.scores[column] for s in group if s.source == clip]) for clip in clips]
        for group in (copied, genuine)
    ]
    found = []
    for _ in range(REPLICATES):
        drawn = rng.integers(0, len(clips), len(clips))
        up, down = (np.concatenate([group[i] for i in drawn]) for group in by_clip)
        if up.size and down.size:
            found.append(auc(up, down))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def table(seen: list[Seen]) -> tuple[list[str], float]:
    """Lines of the table, and the AUC that must hold."""
    genuine = [s for s in seen if s.kind == "cross"]
    lines = [
        "| protocol | copied | videos | genuine | AUC (95 %) | lowest copy | highest genuine |",
        "|---|---|---|---|---|---|---|",
    ]
    held = 0.0
    for column, protocol in enumerate(PROTOCOLS):
        real = np.array([s.scores[column] for s in genuine])
        for name, kinds in (
            ("in-pairs", ("in",)),
            ("pasted", ("pasted",)),
            ("both", ("in", "pasted")),
        ):
            copied = [s for s in seen if s.kind in kinds]
            up = np.array([s.scores[column] for s in copied])
            value = auc(up, real)
            low, high = interval(copied, genuine, column)
            if column == 0 and name == "both":
                held = value
            lines.append(
                f"| `{protocol}` | {name} | {up.size} | {real.size} | {value:.3f} "
                f"[{low:.3f}, {high:.3f}] | {up.min():.2f} | {real.max():.2f} |"
            )
    return lines, held


def main() -> int:
    """Measure, print, and write or check where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, nargs="?", default=Path("runs/demo/shards"))
    parser.add_argument("--check", action="store_true", help="exit with 1 below 0.95")
    parser.add_argument("--write", action="store_true", help="write the table into docs/evals.md")
    args = parser.parse_args()
    if not args.shards.is_dir():
        print(f"{args.shards}: no such folder; `make demo` writes it", file=sys.stderr)
        return 2
    lines, held = table(measure(args.shards))
    print("\n".join(lines))
    if args.write:
        replace_generated(DOCS, "copying", "\n".join(lines))
    return 1 if args.check and held < 0.95 else 0


if __name__ == "__main__":
    sys.exit(main())
