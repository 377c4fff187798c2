"""Synthetic identities with the spread of real embeddings, for benchmarks of any size.

    python tests/benchmarks/resampled.py runs/demo      # measure again, write the file beside this

Gaussian noise has no neighbours: in 1408 dimensions all of it is equally far. Here an identity
is drawn from the covariance *between* the identities of a real run and its members from the
covariance *within* them. From few identities a covariance is known in few directions, so a share
of it is spread over all directions (shrinkage). The shares, and one factor each, are those whose
drawn cosines of both kinds come nearest to the measured ones; both are printed side by side.

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

import numpy as np
import pyarrow.parquet as pq

FILE = Path(__file__).with_name("resampled_spread.npz")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
RANK = 48  # directions kept of a covariance
BLOCK = 8192  # identities drawn at once; part of what a seed means
KINDS = ("subject", "face")
PEOPLE = ("astronaut", "biden", "man-", "obama", "street")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Spread:
    """Mean and covariances of one embedder's vectors.

    A covariance is ``factors.T @ factors + floor**2 * identity``.

    Attributes:
        mean: ``[d]``.
        between: factors ``[r, d]`` of identities' centres, and their floor.
        within: the same of an identity's members around its centre.
        measured: quantiles of the cosines of real pairs: same identity, different identity.
    """

    mean: np.ndarray
    between: tuple[np.ndarray, float]
    within: tuple[np.ndarray, float]
    measured: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        """Dimensions."""
        return len(self.mean)

    def draw(self, identities: int, members: int, seed: int) -> np.ndarray:
        """``[identities * members, d]`` float32 unit rows; an identity's members lie together."""
        return np.concatenate(list(self.stream(identities, members, seed)))

    def stream(self, identities: int, members: int, seed: int) -> Iterator[np.ndarray]:
        """The same in blocks, for banks that do not fit the memory."""
        for number, at in enumerate(range(0, identities, BLOCK)):
            made = np.random.default_rng([seed, number])
            count = min(BLOCK, identities - at)
            centres = self.mean + _noise(made, count, *self.between)
            rows = np.repeat(centres, members, axis=0)
            rows += _noise(made, len(rows), *self.within)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            yield rows


def _noise(made: np.random.Generator, n: int, factors: np.ndarray, floor: float) -> np.ndarray:
    wide = made.standard_normal((n, len(factors)), dtype=np.float32) @ factors
    return wide + np.float32(floor) * made.standard_normal(wide.shape, dtype=np.float32)


def load(kind: str) -> Spread:
    """The committed measurement of ``subject`` (1408 wide) or ``face`` (128 wide)."""
    with np.load(FILE, allow_pickle=False) as found:
        parts = {
            name.split("/")[1]: found[name].astype(np.float32)
            for name in found.files
            if name.startswith(f"{kind}/")
        }
    return Spread(
        parts["mean"],
        (parts["between"], float(parts["between_floor"])),
        (parts["within"], float(parts["within_floor"])),
        {"same": parts["same"], "different": parts["different"]},
    )


# --- measuring ----------------------------------------------------------------------------------


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
