"""How well the embedded subject embedder tells the film's characters apart.

    python tests/benchmarks/bench_embedder.py runs/demo

``film_subjects.csv`` beside this file names the character of each subject, by eye. Printed per
weight of the colour histogram: area under the ROC curve, the largest similarity of two
different characters, and the share of same-character pairs above it. The labels are the
demo's own film: these figures fit its bounds, they are no benchmark of the embedder.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from s2v.datapipe.base.embedded.colour import lab_histogram
from s2v.datapipe.base.embedded.mobilenet import MobileNetV2
from s2v.datapipe.base.media import masks
from s2v.datapipe.measure.embed import cut_out
from s2v.datapipe.measure.frames import FrameReader

WEIGHTS = (0.0, 0.3, 0.5, 0.6, 0.8, 1.0, 1.5)


def crops(run: Path, labels: dict[str, str]) -> tuple[list[np.ndarray], list[str]]:
    """Subjects cut out on grey, and their characters."""
    tables = {
        name: pq.read_table(run / "tables" / f"{name}.parquet", partitioning=None).to_pylist()
        for name in ("subjects", "frames", "masks")
    }
    frames = {row["frame_id"]: row for row in tables["frames"]}
    outlines = {row["detection_id"]: row for row in tables["masks"]}
    reader = FrameReader(run)
    images, names = [], []
    for row in sorted(tables["subjects"], key=lambda r: str(r["subject_id"])):
        if row["subject_id"] in labels and row["detection_id"] in outlines:
            outline = outlines[row["detection_id"]]
            size = [outline["rle_height"], outline["rle_width"]]
            mask = masks.decode({"size": size, "counts": outline["rle"]})
            image = reader.image(frames[row["frame_id"]])
            images.append(cut_out(image, mask, tuple(row["box"]))[0])
            names.append(labels[row["subject_id"]])
    return images, names


def figures(vectors: np.ndarray, names: list[str]) -> tuple[float, float, float]:
    """AUC, largest similarity of two characters, share of same pairs above it."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(len(names)), 2))
    scores = np.array([unit[i] @ unit[j] for i, j in pairs])
    same = np.array([names[i] == names[j] for i, j in pairs])
    alike, unlike = scores[same], scores[~same]
    auc = float((alike[:, None] > unlike[None]).mean())
    return auc, float(unlike.max()), float((alike > unlike.max()).mean())


def main() -> int:
    """Parse, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    with Path(__file__).with_name("film_subjects.csv").open() as handle:
        labels = {row["subject_id"]: row["character"] for row in csv.DictReader(handle)}
    images, names = crops(args.run, labels)
    shape = MobileNetV2.from_assets().embed(images)
    colour = np.stack([lab_histogram(image) for image in images])
    print(f"{len(names)} subjects of {len(set(names))} characters")
    print("weight  AUC    different, max  same above it")
    for weight in WEIGHTS:
        auc, worst, share = figures(np.hstack([shape, weight * colour]), names)
        print(f"{weight:6.1f}  {auc:.3f}  {worst:14.3f}  {share:13.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
