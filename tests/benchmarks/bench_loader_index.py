"""Opening an index: ten thousand rows, and a million."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from drawn_durations import drawn, wan

from s2v.datapipe.base.index_rows import GROUP_ROWS
from s2v.datapipe.base.shards import INDEX, INDEX_FILE, MEMBER, ShardIndex
from s2v.model.data.pool import pool_of
from s2v.model.data.steps import StepPlan
from s2v.model.mmdit import Widths

READS = 50


def row(shard: str, written: dict[str, Any], references: int) -> dict[str, Any]:
    """A row of an index with nothing in the columns that nobody here looks at."""
    empty = {
        f.name: 0 if pa.types.is_integer(f.type) else 24.0 if pa.types.is_floating(f.type) else ""
        for f in INDEX
    }
    said = {"pair_type": "in", "split": "train", "heldout": False, "part": "train",
            "identity_ids": [None] * references, "references": references}  # fmt: skip
    return {**empty, **said, "shard": shard, **written}


def write_drawn(folder: Path, n: int) -> None:
    """An index of ``n`` rows with members as real ones have them, without any shard."""
    table, random_ = drawn(n), np.random.default_rng(0)
    count = table["references"].to_numpy()
    ends = np.concatenate([[0], np.cumsum(3 + 2 * count)]).astype(np.int32)
    total = int(ends[-1])
    suffixes = ["mp4", "txt", "json"]
    suffixes += [f"ref{k}.{kind}" for k in range(6) for kind in ("jpg", "mask.png")]
    place = np.arange(total) - np.repeat(ends[:-1], 3 + 2 * count)
    size = random_.integers(1000, 200_000, total)
    hashes = pa.array([random_.bytes(32).hex() for _ in range(4096)])
    members = pa.StructArray.from_arrays(
        [
            pa.array(suffixes).take(pa.array(place)),
            pa.array(np.cumsum(size)),
            pa.array(size),
            hashes.take(pa.array(random_.integers(0, 4096, total))),
        ],
        fields=list(MEMBER),
    )
    identities = pa.array([f"identity-{i}" for i in range(50_000)])
    of_rows = pa.array(np.concatenate([[0], np.cumsum(count)]).astype(np.int32))
    columns = {
        **{name: table[name] for name in table.schema.names},
        "shard": [f"in-{i // 500:06d}.tar" for i in range(n)],
        "part": pa.repeat("train", n),
        "scenario": pa.repeat("single", n),
        "video_id": [f"v{i // 5:07d}" for i in range(n)],
        "long_video_id": [f"l{i // 50:07d}" for i in range(n)],
        "clip_id": [f"v{i // 5:07d}-{i}" for i in range(n)],
        "identity_ids": pa.ListArray.from_arrays(
            of_rows, identities.take(pa.array(random_.integers(0, 50_000, int(count.sum()))))
        ),
        "caption": [f"a rabbit walks through tall grass, {i % 4096}" for i in range(n)],
        "members": pa.ListArray.from_arrays(pa.array(ends), members),
    }
    path = folder / INDEX_FILE
    path.parent.mkdir(parents=True)
    whole = pa.table({f.name: columns[f.name] for f in INDEX}).cast(INDEX)
    pq.write_table(whole, path, compression="zstd", row_group_size=GROUP_ROWS)


def opened(folder: Path) -> dict[str, float]:
    """Process seconds and memory of each step from the file to the first step of a run."""

    def memory() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    found: dict[str, float] = {}
    before, config = memory(), wan("train.slots=8")

    def timed(name: str, work: Any) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        found[f"{name} cpu"] = time.process_time() - cpu
        found[f"{name} wall"] = time.perf_counter() - wall
        return result

    index = timed("open", lambda: ShardIndex.open(folder))
    pool = timed("pool", lambda: pool_of(index.table, config.data))
    plan = StepPlan.of(config, pool, Widths(16, 4096, 1280))
    timed("first step", plan.next)
    numbers = random.Random(0).choices(range(len(index)), k=READS)
    timed("rows", lambda: [index[n] for n in numbers])
    found["rows cpu"] /= READS
    found["memory"] = memory() - before
    return found


def measure(scratch: Path) -> list[tuple[int, dict[str, float]]]:
    """Each size in a process of its own."""
    found = []
    for n in (10_000, 1_000_000):
        folder = scratch / str(n)
        write_drawn(folder, n)
        done = subprocess.run(
            [sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        found.append((n, json.loads(done.stdout.strip().splitlines()[-1])))
    return found


def table(found: list[tuple[int, dict[str, float]]]) -> str:
    """Markdown."""
    lines = [
        "| rows | open the index, CPU-s | sizes and reasons, CPU-s | first step, ms | one row, ms "
        "| memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for n, f in found:
        lines.append(
            f"| {n:,} | {f['open cpu']:.2f} | {f['pool cpu']:.2f} | "
            f"{f['first step cpu'] * 1e3:.0f} | {f['rows cpu'] * 1e3:.2f} | {f['memory']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]))))
