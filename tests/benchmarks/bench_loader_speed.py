"""Samples per second beside plain webdataset, on the same shards, with the same work on each."""

from __future__ import annotations

import io
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_loader_index import row
from PIL import Image

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.write.tar import write_index, write_tar
from s2v.model.data.buckets import Bucket, Sizing
from s2v.model.data.fetch import Fetch
from s2v.model.data.loader import Loader
from s2v.model.data.plan import Draw
from s2v.model.data.pool import Pool
from s2v.model.data.steps import StepPlan

BATCH, PER_SHARD = 8, 50
Sample = dict[str, Any]


def write_samples(folder: Path, count: int) -> None:
    """Clips of about 300 kB (bytes at random), references that decode, a JSON."""
    drawn, shape = random.Random(0), np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        small = Image.fromarray(shape.integers(0, 256, (24, 24, 3), np.uint8))
        out = io.BytesIO()
        small.resize((384, 384), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
        pictures.append(out.getvalue())
    rows = []
    for first in range(0, count, PER_SHARD):
        name = f"in-{first // PER_SHARD:06d}.tar"
        part = []
        for n in range(first, min(first + PER_SHARD, count)):
            members = {
                "mp4": drawn.randbytes(int(drawn.lognormvariate(12.6, 0.6))),
                "txt": b"a rabbit in a meadow",
                "json": json.dumps({"n": n, "caption": "a rabbit in a meadow"}).encode(),
            }
            for r in range(1 + n % 3):
                members[f"ref{r}.jpg"] = pictures[(n + r) % 16]
            part.append((f"{n:020x}", members))
        rows += [row(name, written, 0) for written in write_tar(folder / name, part)]
    write_index(folder, rows)


def work(members: dict[str, bytes]) -> Sample:
    """What both loaders do with a sample's members: parse, decode every reference."""
    return {
        "meta": json.loads(members["json"]),
        "clip": members["mp4"],
        "references": [
            np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            for name, data in sorted(members.items())
            if name.endswith(".jpg")
        ],
    }


class Read:
    """Our reading of a sample."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self.index, self.verify = ShardIndex.open(folder), verify

    def __call__(self, draw: Draw, bucket: Bucket) -> Sample:
        sample = self.index[draw.row]
        return work({s: sample.read(s, verify=self.verify) for s in sample.suffixes})


def together(bucket: Bucket, draws: Sequence[Draw], items: Sequence[Sample]) -> list[Sample]:
    """A batch is a list."""
    return list(items)


def ours(folder: Path, count: int, workers: int, *, verify: bool) -> Iterator[list[Sample]]:
    """One epoch through the loader, in drawn order."""
    read = Read(folder, verify=verify)
    pool = Pool.of_ids({"in": read.index.table["sample_id"].to_pylist()})
    (bucket,) = pool.buckets
    sizing = Sizing({bucket: 1.0}, {bucket: 1}, {bucket: 1}, {bucket: BATCH})
    plan = StepPlan(pool, [{"in": 1.0}], [0], sizing, slots=1, seed=0)
    loader: Loader[Sample, list[Sample]] = Loader(
        plan, Fetch(pool, read, 0), together, workers=workers, until=count // BATCH
    )
    for _, parts in loader:
        yield from (part.batch for part in parts)


def theirs(folder: Path, count: int, workers: int) -> Iterator[list[Sample]]:
    """One epoch of webdataset's own pipeline: shards in order, no shuffling at all."""
    import webdataset as wds

    tars = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = wds.WebDataset(tars, shardshuffle=False).map(_members).batched(BATCH, collation_fn=list)
    yield from wds.WebLoader(data, batch_size=None, num_workers=workers, collate_fn=_as_is)


def _as_is(batch: list[Sample]) -> list[Sample]:
    return batch


def _members(sample: dict[str, Any]) -> Sample:
    return work({name: data for name, data in sample.items() if not name.startswith("__")})


@dataclass(frozen=True)
class Speed:
    """One way of loading.

    Attributes:
        name: in the table.
        per_s: samples per second, of each round.
        ratio: of each round, to webdataset's with as many workers.
    """

    name: str
    per_s: list[float]
    ratio: list[float]


def measure(count: int, rounds: int, folder: Path) -> list[Speed]:
    """All by turns; the time begins with the first batch, so that starting processes counts not."""
    write_samples(folder, count)
    ways: dict[str, tuple[int, Callable[[], Iterator[list[Sample]]]]] = {}
    for workers in (0, 2):
        with_ = f", {workers} workers" if workers else ""
        ways |= {
            f"webdataset{with_}": (workers, lambda w=workers: theirs(folder, count, w)),
            f"s2v loader{with_}": (workers, lambda w=workers: ours(folder, count, w, verify=False)),
            f"s2v loader, sha256 verified{with_}": (
                workers,
                lambda w=workers: ours(folder, count, w, verify=True),
            ),
        }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in ways if number % 2 == 0 else reversed(ways):
            per_s = _timed(ways[name][1]())
            if number:  # the first round warms the page cache
                found[name].append(per_s)
    speeds = []
    for name, (workers, _) in ways.items():
        base = found["webdataset" + (f", {workers} workers" if workers else "")]
        ratio = [a / b for a, b in zip(found[name], base, strict=True)]
        speeds.append(Speed(name, found[name], ratio))
    return speeds


def _timed(batches: Iterator[list[Sample]]) -> float:
    next(batches)
    began, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch)
    return seen / (time.perf_counter() - began)


def table(speeds: Sequence[Speed]) -> str:
    """Markdown: medians, least and most, and the ratio round by round."""
    lines = [
        "|  | samples/s (least–most) | of webdataset, median (least–most) |",
        "|---|---|---|",
    ]
    for s in speeds:
        lines.append(
            f"| {s.name} | {statistics.median(s.per_s):.0f} ({min(s.per_s):.0f}–{max(s.per_s):.0f})"
            f" | {statistics.median(s.ratio):.2f} ({min(s.ratio):.2f}–{max(s.ratio):.2f}) |"
        )
    return "\n".join(lines)
