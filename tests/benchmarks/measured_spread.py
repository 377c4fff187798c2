"""Measure how real embeddings spread, within identities and between them.

    python tests/benchmarks/measured_spread.py runs/demo    # write resampled_spread.npz again
    python tests/benchmarks/measured_spread.py              # show what it holds

From few identities a covariance is known in few directions, so a share of it is spread over all
directions (shrinkage). The shares, and one factor each, are those whose drawn cosines of both
kinds come nearest to the measured ones; quantiles of both are printed side by side.

Real rows: the subjects of a finished demo run that ``film_subjects.csv`` names by eye, with the
photographs' (each another identity); and the faces of the bundled people, who are known by their
source. Nothing is labelled by the run's own selection, whose bounds would cut the spread off.
Both are few: counts are printed.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bench_embedder
import bench_faces
import numpy as np
import pyarrow.parquet as pq
from resampled import FILE, KINDS, QUANTILES, Spread, load

from s2v.datapipe.backends.embedded.small import AppearanceEmbedder, YuNetSFace

RANK = 48  # directions kept of a covariance
PEOPLE = ("astronaut", "biden", "man-", "obama", "street")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Real:
    """Real vectors with whom they show.

    Attributes:
        rows: ``[n, d]``.
        names: identity of each.
        clips: where each was seen; two of one clip are no pair.
    """

    rows: np.ndarray
    names: np.ndarray
    clips: np.ndarray

    def cosines(self) -> dict[str, np.ndarray]:
        """Of all pairs of one identity (``same``) and of two, from different clips."""
        i, j = np.triu_indices(len(self.rows), 1)
        apart = self.clips[i] != self.clips[j]
        scores = np.einsum("nd,nd->n", self.rows[i], self.rows[j])
        one = self.names[i] == self.names[j]
        return {"same": scores[one & apart], "different": scores[~one]}


def real(run: Path, kind: str) -> Real:
    """Subjects or faces of a finished demo run."""
    subjects, faces = (
        pq.read_table(run / "tables" / f"{name}.parquet", partitioning=None).to_pylist()
        for name in ("subjects", "faces")
    )
    if kind == "face":
        seen = [
            (row["embedding"], who, f"{row['clip_id']}")
            for row in faces
            if row["embedding"] is not None and (who := person(row["clip_id"], row["face"]))
        ]
    else:
        with Path(__file__).with_name("film_subjects.csv").open() as handle:
            labels = {row["subject_id"]: row["character"] for row in csv.DictReader(handle)}
        seen = [
            (row["embedding"], labels.get(row["subject_id"], row["subject_id"]), row["clip_id"])
            for row in sorted(subjects, key=lambda row: str(row["subject_id"]))
            if row["embedding"] is not None
            and (row["subject_id"] in labels or row["kind"] == "image")
        ]
    rows, names, clips = zip(*seen, strict=True)
    return Real(np.array(rows, np.float64), np.array(names), np.array(clips))


def copy_cosines(run: Path, kind: str) -> np.ndarray:
    """Sorted cosines of real subjects' crops, or portraits' faces, with their near copies."""
    found = []
    if kind == "face":
        faces = YuNetSFace()
        for image in (bench_faces.photograph(name) for name in bench_faces.PORTRAITS):
            one = faces.faces(image)[0].embedding
            for copy in near_copies(image):
                found += [float(one @ face.embedding) for face in faces.faces(copy)[:1]]
    else:
        embedder = AppearanceEmbedder()
        with Path(__file__).with_name("film_subjects.csv").open() as handle:
            labels = {row["subject_id"]: row["character"] for row in csv.DictReader(handle)}
        for image in bench_embedder.crops(run, labels)[0]:
            vectors = embedder.embed([image, *near_copies(image)])
            found += (vectors[1:] @ vectors[0]).tolist()
    return np.sort(np.array(found))


def near_copies(image: np.ndarray) -> Iterator[np.ndarray]:
    """What a near-copy rule must refuse."""
    yield from (copy for _, copy in bench_faces.copies(image))
    yield np.ascontiguousarray(image[:, ::-1])


def person(clip_id: str, face: int) -> str | None:
    """Who a face of the bundled photographs and clips is, by its source."""
    if clip_id.startswith("group-photo"):
        return f"group-{face}"
    return next((name for name in PEOPLE if clip_id.startswith(name)), None)


def covariance(deviations: np.ndarray, degrees: int, share: float) -> tuple[np.ndarray, float]:
    """Of centred rows ``[n, d]``; ``share`` of its variance is spread over all directions."""
    _, values, vectors = np.linalg.svd(deviations, full_matrices=False)
    variances = values**2 / degrees
    kept = vectors[:RANK] * np.sqrt((1 - share) * variances[:RANK])[:, None]
    rest = share * variances.sum() + (1 - share) * variances[RANK:].sum()
    return kept.astype(np.float32), float(np.sqrt(rest / deviations.shape[1]))


def measure(seen: Real) -> Spread:
    """Spread of real vectors: the shares and factors whose drawn cosines fit the real best."""
    order, of = np.unique(seen.names, return_inverse=True)
    centres = np.stack([seen.rows[of == n].mean(axis=0) for n in range(len(order))])
    mean = centres.mean(axis=0).astype(np.float32)
    several = np.bincount(of)[of] > 1
    inner = (seen.rows - centres[of])[several], several.sum() - len(set(of[several]))
    outer = centres - mean, len(order) - 1
    real_cosines = seen.cosines()
    quantiles = {name: np.quantile(values, QUANTILES) for name, values in real_cosines.items()}
    best: tuple[float, str, Spread] | None = None
    for outer_share, inner_share in itertools.product(SHARES, SHARES):
        b = w = 1.0
        for step in range(8):
            parts = covariance(*outer, outer_share), covariance(*inner, inner_share)
            spread = Spread(mean, _scaled(parts[0], b), _scaled(parts[1], w), quantiles)
            drawn = drawn_cosines(spread, count=600)
            if step == 7:
                break
            same, different = (
                np.median(drawn[name]) - np.median(real_cosines[name]) for name in drawn
            )
            # Members' noise lowers both medians, identities' the second only.
            w *= float(np.exp(np.clip(2 * same, -0.3, 0.3)))
            b *= float(np.exp(np.clip(2 * (different - same), -0.3, 0.3)))
        error = sum(
            float(np.abs(np.quantile(drawn[name], QUANTILES) - quantiles[name]).mean())
            for name in drawn
        )
        text = (
            f"share spread over all directions: between {outer_share}, within {inner_share}; "
            f"factors {b:.3f}, {w:.3f}; mean error of a quantile {error / 2:.3f}"
        )
        if best is None or error < best[0]:
            best = (error, text, spread)
    if best is None:
        raise ValueError("no shares to try")
    print(f"  {best[1]}")
    return best[2]


def _scaled(covariance: tuple[np.ndarray, float], factor: float) -> tuple[np.ndarray, float]:
    return (covariance[0] * factor).astype(np.float32), covariance[1] * factor


def drawn_cosines(spread: Spread, seed: int = 1, count: int = 4000) -> dict[str, np.ndarray]:
    """Cosines of drawn pairs of one identity (``same``) and of two (``different``)."""
    rows = spread.draw(count, 2, seed)
    return {
        "same": np.einsum("nd,nd->n", rows[::2], rows[1::2]),
        "different": np.einsum("nd,nd->n", rows[::2], np.roll(rows[1::2], 1, axis=0)),
    }


def show(kind: str, spread: Spread) -> None:
    """Print measured quantiles beside drawn ones."""
    print(f"{kind}: {spread.width} dimensions; cosines at quantiles")
    print("                    " + "".join(f"{q:8.2f}" for q in QUANTILES))
    for name in ("same", "different"):
        drawn = np.quantile(drawn_cosines(spread, seed=2)[name], QUANTILES)
        for what, values in (("measured", spread.measured[name]), ("drawn", drawn)):
            print(f"{name:>10} {what:>8} " + "".join(f"{value:8.3f}" for value in values))
    values = np.quantile(spread.copies, QUANTILES)
    print("    copy measured " + "".join(f"{value:8.3f}" for value in values))


def main() -> int:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="measure this run; else show the file")
    args = parser.parse_args()
    parts: dict[str, np.ndarray] = {}
    for kind in KINDS:
        if args.run is not None:
            seen = real(args.run, kind)
            pairs = seen.cosines()
            print(
                f"{kind}: {len(seen.rows)} real vectors of {len(set(seen.names))} identities; "
                f"{len(pairs['same'])} pairs of one, {len(pairs['different'])} of two"
            )
            spread = measure(seen)
            parts[f"{kind}/mean"] = spread.mean.astype(np.float16)
            for name, (factors, floor) in (("between", spread.between), ("within", spread.within)):
                used = factors[np.abs(factors).max(axis=1) > 1e-6]
                parts[f"{kind}/{name}"] = used.astype(np.float16)
                parts[f"{kind}/{name}_floor"] = np.array(floor, np.float32)
            parts[f"{kind}/copies"] = copy_cosines(args.run, kind).astype(np.float32)
            for name, values in spread.measured.items():
                parts[f"{kind}/{name}"] = values.astype(np.float32)
    if parts:
        np.savez_compressed(FILE, **parts)
        print(f"{FILE.name}: {FILE.stat().st_size} bytes")
    for kind in KINDS:
        show(kind, load(kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
