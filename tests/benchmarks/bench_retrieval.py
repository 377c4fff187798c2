"""Exact search, inverted lists and HNSW on one bank: build, query, memory, recall.

    python tests/benchmarks/bench_retrieval.py --sizes 10000 100000 --kinds subject face

Banks are synthetic identities with the spread of real embeddings (resampled.py), five members
each, in files of half floats, as a large run keeps them. Each search is built in a process of its
own, which says its CPU seconds and its peak of anonymous memory (the bank's mapped file is not in
it), one batch of queries included. Then all answer the same 1,000 queries, rows of the bank, in
rounds, one search after the other in each round. Times are CPU seconds of one thread
(``OMP_NUM_THREADS=1``), the median of the rounds: other work on the machine lengthens wall time,
not these, though it takes their caches. Recall is the share of the true 10 neighbours found, the
query itself left out; "members" is the same over true neighbours of the query's identity.

``faiss-ivf`` is FAISS's IndexIVFFlat with as many lists and probes as ours, for comparison; it is
left out where its full floats take more than 2 GB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import resampled

from s2v.datapipe.pair.ann import Search, open_search
from s2v.datapipe.pair.bank import open_bank, write_bank
from s2v.datapipe.pair.settings import RetrievalSettings
from s2v.datapipe.searching import ShardedSearch

MEMBERS = 5
QUERIES = 1000
SINGLE = 20  # queries asked one by one,
SINGLE_BELOW = 300_000  # of banks of at most so many: exact search takes seconds for each
NEIGHBOURS = 10
SHARD_ROWS = 65_536
MEGABYTE = 1 << 20
SEARCHES = ("exact", "ivf", "ivf-shards", "hnsw", "faiss-ivf")


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon; this benchmark needs Linux")


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list whose only number is, at the end, the growth at its highest."""
    before, done, found = anonymous(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.05):
            found[0] = max(found[0], anonymous() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        found[0] = max(found[0], anonymous() - before)
        done.set()
        watcher.join()


class FaissIvf:
    """What one would write with FAISS alone; it keeps full floats and scans query by query."""

    def __init__(self, bank: np.ndarray, nlist: int, nprobe: int) -> None:
        self._flat = faiss.IndexFlatIP(bank.shape[1])
        self._index = faiss.IndexIVFFlat(
            self._flat, bank.shape[1], nlist, faiss.METRIC_INNER_PRODUCT
        )
        rows = np.asarray(bank, np.float32)
        self._index.train(rows[:: max(1, len(rows) // (64 * nlist))])
        self._index.add(rows)
        self._index.nprobe = nprobe

    def top(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        cosines, found = self._index.search(queries, k)
        return found, cosines


def opened(name: str, folder: Path, nprobe: int | None) -> Search:
    """Build one search, or load what was built."""
    if name == "ivf-shards":
        return ShardedSearch(open_bank(folder / "shards"), RetrievalSettings(index="ivf"))
    rows = np.load(folder / "one.npy", mmap_mode="r")
    if name == "faiss-ivf":
        return FaissIvf(rows, round(len(rows) ** 0.5), nprobe or 1)
    settings = RetrievalSettings.model_validate({"index": name, "nprobe": nprobe})
    return open_search(rows, settings, None if name == "exact" else folder / "built")


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of all threads of this process, and the result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def build(name: str, folder: Path, nprobe: int | None) -> dict[str, Any]:
    """In a process of its own: build, answer one batch, say what it took."""
    queries = np.load(folder / "queries.npy")
    with peak_memory() as memory:
        seconds, search = cpu(lambda: opened(name, folder, nprobe))
        if name == "ivf-shards":  # it builds with the first answer
            seconds, _ = cpu(lambda: search.top(queries[:1], 1))
        search.top(queries, NEIGHBOURS + 1)
    inner = getattr(search, "_search", None)
    return {
        "search": name,
        "build_cpu_s": round(seconds, 2),
        "peak_mb": memory[0] // MEGABYTE,
        "nprobe": getattr(inner, "nprobe", nprobe if name == "faiss-ivf" else None),
    }


def built(name: str, folder: Path, nprobe: int | None) -> dict[str, Any]:
    """:func:`build` in a child."""
    command = [sys.executable, __file__, "--build", name, str(folder), str(nprobe or 0)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run(kind: str, size: int, names: list[str], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Measure all searches on one bank."""
    at = prepare(kind, size, folder)
    queries = np.load(folder / "queries.npy")
    results: list[dict[str, Any]] = []
    searches: dict[str, Search] = {}
    nprobe: int | None = None
    for name in names:
        result = {"kind": kind, "n": size, **built(name, folder, nprobe)}
        nprobe = result["nprobe"] or nprobe
        searches[name] = opened(name, folder, nprobe)
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)
    many: dict[str, list[float]] = {name: [] for name in names}
    single: dict[str, list[float]] = {name: [] for name in names}
    found = {}
    for _ in range(rounds):
        for name, search in searches.items():
            seconds, answer = cpu(partial(search.top, queries, NEIGHBOURS + 1))
            many[name].append(seconds / QUERIES)
            found[name] = answer[0]
            if name != "ivf-shards" and size <= SINGLE_BELOW:  # shards are opened for each call
                seconds, _ = cpu(partial(one_by_one, search, queries[:SINGLE]))
                single[name].append(seconds / SINGLE)
    for result in results:
        name = result["search"]
        result["query_cpu_ms"] = round(1000 * statistics.median(many[name]), 3)
        if single[name]:
            result["single_cpu_ms"] = round(1000 * statistics.median(single[name]), 3)
        result["recall"], result["members"] = recall(at, found["exact"], found[name])
    return results


def prepare(kind: str, size: int, folder: Path) -> np.ndarray:
    """Write the bank, whole and in shards, and the queries; positions of the queries."""
    spread, done = resampled.load(kind), 0
    shape = (size, spread.width)
    rows = np.lib.format.open_memmap(folder / "one.npy", "w+", np.float16, shape)
    for block in spread.stream(size // MEMBERS, MEMBERS, seed=7):
        rows[done : done + len(block)] = block
        done += len(block)
    rows.flush()
    parts = (rows[at : at + SHARD_ROWS] for at in range(0, size, SHARD_ROWS))
    write_bank(folder / "shards", parts, shard_rows=SHARD_ROWS, storage="float16")
    at = np.linspace(0, size - 1, QUERIES).astype(np.int64)
    queries = np.asarray(rows[at], np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    np.save(folder / "queries.npy", queries)
    return at


def one_by_one(search: Search, queries: np.ndarray) -> None:
    """As a service would be asked."""
    for query in queries:
        search.top(query[None], NEIGHBOURS + 1)


def recall(at: np.ndarray, true: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Shares of the true neighbours, and of true members among them, that were found."""
    hits, members = [], []
    for query, want, got in zip(at, true, found, strict=True):
        neighbours = [p for p in want.tolist() if p != query][:NEIGHBOURS]
        there = set(got.tolist())
        hits += [p in there for p in neighbours]
        members += [p in there for p in neighbours if p // MEMBERS == query // MEMBERS]
    return round(float(np.mean(hits)), 4), round(float(np.mean(members)), 4) if members else 1.0


def show(results: list[dict[str, Any]]) -> None:
    """A table for docs/scale.md."""
    columns = ("bank", "vectors", "search", "build, CPU s", "peak, MB")
    columns += ("query, CPU ms", "alone, CPU ms", "recall", "members")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for r in results:
        probes = f" ({r['nprobe']} probes)" if r["nprobe"] else ""
        print(
            f"| {r['kind']} | {r['n']:,} | {r['search']}{probes} | {r['build_cpu_s']:.1f} "
            f"| {r['peak_mb']:,} | {r['query_cpu_ms']:.2f} | {r.get('single_cpu_ms', '')} "
            f"| {r['recall']:.3f} | {r['members']:.3f} |"
        )


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--kinds", nargs="+", choices=resampled.KINDS, default=["subject", "face"])
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append results, one a line")
    parser.add_argument("--build", nargs=3, help=argparse.SUPPRESS)  # the child's task
    parser.add_argument("--scratch", type=Path, help="a folder for the banks, on a large disk")
    args = parser.parse_args()
    if args.build:
        name, folder, nprobe = args.build
        print(json.dumps(build(name, Path(folder), int(nprobe) or None)))
        return 0
    results = []
    for kind in args.kinds:
        for size in args.sizes:
            with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
                large = size * resampled.load(kind).width * 4 > 2e9
                names = ["exact", *(n for n in args.searches if n != "exact")]
                names = [n for n in names if not (large and n == "faiss-ivf")]
                results += run(kind, size, names, args.rounds, Path(scratch))
    if args.json:
        with args.json.open("a") as out:
            out.writelines(json.dumps(result) + "\n" for result in results)
    show(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
