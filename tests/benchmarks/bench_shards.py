"""Shards written and read beside webdataset's and Ray's own writers and readers.

    make bench-shards

The same samples, drawn from a seed with the sizes of the demo's (a clip, a caption, a JSON, one
to four references with masks), go through every tool by turns in one run. Process time is that
of this process and of all below it. The table goes into docs/shards.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
import pyarrow as pa

sys.path.append(str(Path(__file__).parent))  # scripts, no package

from bench_data_harness import Cost, Entry, by_turns
from generated import machine, replace_generated

from s2v.datapipe.base.shards import INDEX, ReferenceScores, ShardIndex
from s2v.datapipe.write.nvmeta import write_nv_meta
from s2v.datapipe.write.previous import ShardRecord, record, write_records
from s2v.datapipe.write.tar import write_index, write_tar

PAGE = Path(__file__).parents[2] / "docs" / "shards.md"
PER_SHARD = 50
READS = 500
Sample = tuple[str, dict[str, bytes]]


def draw(samples: int, seed: int = 0) -> list[Sample]:
    """Samples of random bytes; sizes are lognormal around those of the demo."""
    random_ = random.Random(seed)
    made = []
    for n in range(samples):
        members = {
            "mp4": random_.randbytes(int(random_.lognormvariate(12.6, 0.6))),  # about 300 kB
            "txt": b"a rabbit in a meadow",
            "json": json.dumps({"n": n, "scores": ReferenceScores().model_dump()}).encode(),
        }
        for r in range(random_.randint(1, 4)):
            members[f"ref{r}.jpg"] = random_.randbytes(int(random_.lognormvariate(11.3, 0.6)))
            members[f"ref{r}.mask.png"] = random_.randbytes(3000)
        made.append((f"{n:020x}", members))
    return made


def cost(work: Callable[[], object]) -> Cost:
    """Wall and process time of a piece of work, children that live on included."""
    before, began = _cpu(), time.monotonic()
    result = work()
    wall = time.monotonic() - began
    return Cost(wall, _cpu() - before, psutil.Process().memory_info().rss / 1e6, result)


def _cpu() -> float:
    used = 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


def ours(samples: list[Sample], folder: Path) -> None:
    """Tars, every offset and hash, the index: what a write of ours does once samples are built."""
    rows, records = [], []
    for name, part in _shards(samples):
        written = write_tar(folder / name, part)
        rows += [_row(name, one, part[n][1]) for n, one in enumerate(written)]
        records.append(record(folder / name, len(part), ""))
    write_records(folder, records)
    write_index(folder, rows)


def _shards(samples: list[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    for first in range(0, len(samples), PER_SHARD):
        yield f"in-{first // PER_SHARD:06d}.tar", samples[first : first + PER_SHARD]


def _row(shard: str, written: dict[str, object], members: dict[str, bytes]) -> dict[str, object]:
    empty = {
        f.name: 0 if pa.types.is_integer(f.type) else 24.0 if pa.types.is_floating(f.type) else ""
        for f in INDEX
    }
    references = sum(suffix.endswith(".jpg") for suffix in members)
    said = {"pair_type": "in", "split": "train", "heldout": False, "part": "train",
            "identity_ids": [None] * references, "references": references}  # fmt: skip
    return {**empty, **said, "shard": shard, **written}


def with_webdataset(samples: list[Sample], folder: Path) -> None:
    """``webdataset.ShardWriter``: tars, no index."""
    import webdataset

    pattern = str(folder / "in-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=PER_SHARD, verbose=0, encoder=False) as writer:
        for key, members in samples:
            writer.write({"__key__": key, **members})


def with_ray(samples: list[Sample], folder: Path) -> None:
    """Ray Data's ``write_webdataset``: tars, no index; Ray runs already."""
    import ray

    names = sorted({name for _, members in samples for name in members})
    rows = [{"__key__": key, **dict.fromkeys(names), **members} for key, members in samples]
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // PER_SHARD))
    data.write_webdataset(str(folder), encoder=_present)


def _present(sample: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in sample.items() if value is not None}


def writers(samples: list[Sample]) -> list[Entry]:
    """One entry per writer; its result is a digest of all tars by name."""

    def entry(name: str, write: Callable[[list[Sample], Path], None]) -> Entry:
        def work(folder: Path) -> Cost:
            made = cost(lambda: write(samples, folder))
            return Cost(made.wall_s, made.cpu_s, made.rss_mb, _digest(folder))

        return Entry(name, work)

    return [
        entry("s2v-data, with index", ours),
        entry("webdataset.ShardWriter", with_webdataset),
        entry("Ray write_webdataset", with_ray),
    ]


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.tar")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def readers(folder: Path) -> list[Entry]:
    """One entry per way of reading every member of every sample in order."""
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]

    def indexed(verify: bool) -> int:
        return sum(
            len(sample.read(suffix, verify=verify))
            for sample in ShardIndex.open(folder)
            for suffix in sample.suffixes
        )

    def scanned() -> int:
        import webdataset

        return sum(
            len(value)
            for sample in webdataset.WebDataset(tars, shardshuffle=False)
            for key, value in sample.items()
            if not key.startswith("__")
        )

    def by_ray() -> int:
        import ray

        read = ray.data.read_webdataset(tars, decoder=None)
        return sum(
            len(value)
            for sample in read.iter_rows()
            for key, value in sample.items()
            if isinstance(value, bytes) and not key.startswith("__")
        )

    return [
        Entry("ShardIndex", lambda _: cost(lambda: indexed(False))),
        Entry("ShardIndex, sha256 verified", lambda _: cost(lambda: indexed(True))),
        Entry("webdataset.WebDataset", lambda _: cost(scanned)),
        Entry("Ray read_webdataset", lambda _: cost(by_ray)),
    ]


def random_access(folder: Path, cache: Path) -> list[tuple[str, list[float]]]:
    """Milliseconds to one caption and one whole clip of a random sample, opened anew each time."""
    import wids

    index = ShardIndex.open(folder)
    stock = wids.ShardListDataset(
        str(folder / "wids.json"), keep=True, transformations=[], cache_dir=str(cache)
    )
    order = random.Random(1).choices(range(len(index)), k=READS)
    stock[0]
    found = []
    for name, read in (
        ("ShardIndex, caption", lambda n: index[n].read("txt")),
        ("ShardIndex, clip", lambda n: index[n].read("mp4")),
        ("ShardIndex, clip, sha256 verified", lambda n: index[n].read("mp4", verify=True)),
        ("wids, clip", lambda n: stock[n][".mp4"].read()),
    ):
        took = []
        for n in order:
            began = time.perf_counter()
            read(n)
            took.append((time.perf_counter() - began) * 1e3)
        found.append((name, sorted(took)))
    return found


def index_times(folder: Path, scratch: Path) -> list[tuple[str, float, float]]:
    """Wall and process seconds to make each index from what the writer knows, or from the tars."""
    rows = [sample.row for sample in ShardIndex.open(folder)]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["shard"]] = counts.get(row["shard"], 0) + 1
    records = [ShardRecord(name, n, 0, "", "", "") for name, n in counts.items()]
    scratch.mkdir()
    stock = scratch / "stock"
    stock.mkdir()
    for name in counts:
        (stock / name).symlink_to(folder / name)

    def prepare() -> None:
        from megatron.energon.epathlib import EPath
        from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

        WebdatasetPreparator.prepare_dataset(
            EPath(stock), list(counts), split_parts_ratio=[("train", 1.0)], workers=1
        )

    made = []
    for name, work in (
        ("index/samples.parquet", lambda: write_index(scratch / "ours", rows)),
        (".nv-meta and .tar.idx, ours", lambda: write_nv_meta(scratch / "ours", rows, records)),
        ("energon prepare, 1 worker (scans the tars)", prepare),
    ):
        took = cost(work)
        made.append((name, took.wall_s, took.cpu_s))
    return made


def table(entries: list[Entry], megabytes: float, samples: int, *, written: bool) -> str:
    """Medians, ratios to the first, and whether two runs gave the same bytes."""
    first = entries[0]
    head = ["", "CPU-s", "of ours", "wall s", "of ours", "samples/s", "MB/s"]
    lines = [head + ["same bytes twice"] * written]
    for one in entries:
        cpu, wall = one.median("cpu_s"), one.median("wall_s")
        line = [
            one.name,
            f"{cpu:.2f} ({one.spread('cpu_s')})",
            f"{cpu / first.median('cpu_s'):.2f}",
            f"{wall:.2f} ({one.spread('wall_s')})",
            f"{wall / first.median('wall_s'):.2f}",
            f"{samples / wall:.0f}",
            f"{megabytes / wall:.0f}",
        ]
        same = len({c.result for c in one.costs}) == 1
        lines.append(line + ["yes" if same else "no"] * written)
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Write, read, print, and put the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--print", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    from s2v.datapipe.engine.execute import start_ray, stop_ray

    start_ray(None)
    samples = draw(options.samples)
    megabytes = sum(len(data) for _, members in samples for data in members.values()) / 1e6
    with tempfile.TemporaryDirectory(prefix="s2v-shards-") as scratch:
        writing = writers(samples)
        by_turns(writing, options.repetitions, Path(scratch) / "write")
        folder = Path(scratch) / "folder"
        folder.mkdir()
        ours(samples, folder)
        _wids(folder)
        reading = readers(folder)
        by_turns(reading, options.repetitions, Path(scratch) / "read")
        assert len({one.result for one in reading}) == 1, "readers read different bytes"
        access = random_access(folder, Path(scratch) / "cache")
        indexes = index_times(folder, Path(scratch) / "indexes")
    stop_ray()
    text = "\n\n".join(
        [
            f"{options.samples} samples, {megabytes:.0f} MB, {PER_SHARD} a shard; median of "
            f"{options.repetitions} by turns (least–most), page cache warm. All get the same "
            "samples as bytes in memory: no clip, crop or mask is encoded in these times, and no "
            "card written. Ours hashes all and syncs its files to disk, the others do neither. "
            "Each with its own defaults; webdataset's time stamps, which make its bytes differ, "
            "can be set (`mtime=0`). Ray runs before the clock; its time has the way into its "
            f"object store and through its workers. {machine()}; "
            f"Python {platform.python_version()}, webdataset "
            f"{version('webdataset')}, wids {version('wids')}, Ray {version('ray')}, Energon "
            f"{version('megatron-energon')}.",
            f"**Write**\n\n{table(writing, megabytes, options.samples, written=True)}",
            f"**Read all, in order**\n\n"
            f"{table(reading, megabytes, options.samples, written=False)}",
            f"**Read one of {READS} at random, ms**\n\n{_access(access)}",
            "**Make the index, s**\n\n"
            + _markdown(
                [["", "wall", "CPU"]]
                + [[name, f"{wall:.3f}", f"{cpu:.3f}"] for name, wall, cpu in indexes]
            ),
        ]
    )
    print(text)
    if not options.print:
        replace_generated(PAGE, "bench-shards", text)
    return 0


def _access(found: list[tuple[str, list[float]]]) -> str:
    return _markdown(
        [["", "median", "95 %", "99 %"]]
        + [
            [
                name,
                *(
                    f"{value:.3f}"
                    for value in (
                        statistics.median(took),
                        took[int(0.95 * len(took))],
                        took[int(0.99 * len(took))],
                    )
                ),
            ]
            for name, took in found
        ]
    )


def _wids(folder: Path) -> None:
    counts: dict[str, int] = {}
    for sample in ShardIndex.open(folder):
        counts[sample.row["shard"]] = counts.get(sample.row["shard"], 0) + 1
    listed = [
        {"url": name, "nsamples": n, "filesize": (folder / name).stat().st_size}
        for name, n in counts.items()
    ]
    text = json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed})
    (folder / "wids.json").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
