"""Does a loader go on with the same samples, and how long does it take to?"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "peers"))  # scripts, no package

from bench_loader_index import row
from peer_environments import peer

from s2v.datapipe.write.nvmeta import write_nv_meta
from s2v.datapipe.write.previous import record, write_records
from s2v.datapipe.write.tar import write_index, write_tar

HERE = Path(__file__).parent
BATCH, PER_SHARD, AFTER = 8, 500, 20
#: Ours first, then the others: name in the table, tool, environment, workers.
TOOLS = (
    ("s2v loader", "ours", None),
    ("Energon, savable loader", "energon", "energon"),
    ("Streaming, StreamingDataLoader", "streaming", "streaming"),
    ("StatefulDataLoader, wids by index", "torchdata", "torchdata"),
    ("StatefulDataLoader, webdataset", "webdataset", "torchdata"),
)


@dataclass
class Result:
    """What one tool did.

    Attributes:
        same: by kind of change: ``yes``, or what happened instead.
        first_s: by place, seconds to the first batch.
    """

    same: dict[str, str] = field(default_factory=dict)
    first_s: dict[int, list[float]] = field(default_factory=dict)


def write_samples(folder: Path, count: int) -> None:
    """Small samples, so that times are those of finding the place, in shards of 500."""
    drawn = random.Random(0)
    rows, records = [], []
    for first in range(0, count, PER_SHARD):
        name = f"in-{first // PER_SHARD:06d}.tar"
        part = [
            (f"{n:020x}", {"bin": drawn.randbytes(2000), "json": json.dumps({"n": n}).encode()})
            for n in range(first, min(first + PER_SHARD, count))
        ]
        rows += [row(name, written, 0) for written in write_tar(folder / name, part)]
        records.append(record(folder / name, len(part), ""))
    write_records(folder, records)
    write_index(folder, rows)
    write_nv_meta(folder, rows, records)
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
    )
    listed = [
        {"url": r.shard, "nsamples": r.samples, "filesize": (folder / r.shard).stat().st_size}
        for r in records
    ]
    text = json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed})
    (folder / "wids.json").write_text(text)


def command(tool: str, environment: str | None, action: str, **options: Any) -> list[str]:
    """A tool's command line."""
    ours = environment is None
    program = HERE / ("bench_loader_ours.py" if ours else "peers/loader_peers.py")
    python = sys.executable if ours else peer(str(environment)).python
    words = [python, str(program), tool, action]
    for name, value in options.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def ran(words: list[str], environment: str | None, **more: str) -> Any:
    """What a command printed, or the last line of its error."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}
    if environment is not None:
        env = {**peer(environment).environment(), "PYTHONWARNINGS": "ignore", **more}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return f"fails: {said[-1][:110] if said else done.returncode}"
    return json.loads(lines[-1])


def both(tool: str, environment: str | None, **options: Any) -> list[Any]:
    """Two ranks side by side."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(2):
        words = command(tool, environment, "run", rank=rank, world=2, **options)
        rendezvous = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip
        base = os.environ if environment is None else peer(environment).environment()
        env = {**base, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **rendezvous}
        running.append(
            subprocess.Popen(
                words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    found = []
    for process in running:
        out, err = process.communicate(timeout=600)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        last = (err.strip().splitlines() or [str(process.returncode)])[-1]
        found.append(json.loads(lines[-1]) if lines else f"fails: {last[:110]}")
    return found


def measure(samples: int, repetitions: int, scratch: Path) -> dict[str, Result]:
    """All tools by turns."""
    folder, work = scratch / "shards", scratch / "work"
    for path in (folder, work):
        path.mkdir()
    write_samples(folder, samples)
    subprocess.run(
        command("streaming", "streaming", "write", folder=folder, work=work),
        check=True, env=peer("streaming").environment(), capture_output=True,
    )  # fmt: skip
    whole = samples // BATCH
    places = [0, whole // 10, whole // 2, whole * 19 // 20]
    results = {name: Result(first_s={at: [] for at in places}) for name, _, _ in TOOLS}
    common = {"folder": folder, "work": work, "batch": BATCH, "batches": AFTER}
    expected: dict[str, Any] = {}
    for name, tool, environment in TOOLS:
        words = command(tool, environment, "run", **common, workers=2, at=places, tag="two")
        expected[name] = ran(words, environment)
        print(f"  {name}: drawn", file=sys.stderr)
    for number in range(repetitions):
        for name, tool, environment in TOOLS if number % 2 == 0 else reversed(TOOLS):
            if isinstance(expected[name], str):
                results[name].same["at 2 workers"] = expected[name]
                continue
            for at in places:
                words = command(
                    tool, environment, "resume", **common, workers=2, at=at, tag="two"
                )  # fmt: skip
                got = ran(words, environment)
                if isinstance(got, str):
                    results[name].same["at 2 workers"] = got
                    continue
                results[name].first_s[at].append(got["first_s"])
                if at:
                    said = _same(expected[name][str(at)], got["ids"])
                    before = results[name].same.get("at 2 workers", "yes")
                    results[name].same["at 2 workers"] = said if before == "yes" else before
            print(f"  {name}: {results[name].first_s}", file=sys.stderr)
    middle = places[2]
    for name, tool, environment in TOOLS:
        results[name].same["2 workers, then 1"] = _fewer(
            tool, environment, common, expected[name], middle
        )
        results[name].same["2 ranks, then 1"] = _alone(tool, environment, common, middle)
        print(f"  {name}: {results[name].same}", file=sys.stderr)
    return results


def _fewer(
    tool: str, environment: str | None, common: dict[str, Any], expected: Any, at: int
) -> str:
    words = command(tool, environment, "resume", **common, workers=1, at=at, tag="two")
    got = ran(words, environment)
    if isinstance(got, str) or isinstance(expected, str):
        return str(got if isinstance(got, str) else expected)
    return _same(expected[str(at)], got["ids"])


def _alone(tool: str, environment: str | None, common: dict[str, Any], at: int) -> str:
    """Drawn on two ranks; gone on with on one of twice the batch: the same samples per step?"""
    options = common | {"at": at // 2, "tag": "ranks"}
    ranks = both(tool, environment, **options)
    if failed := next((r for r in ranks if isinstance(r, str)), None):
        return str(failed)
    options |= {"batch": 2 * BATCH, "state_rank": 0}
    got = ran(command(tool, environment, "resume", **options), environment)
    if isinstance(got, str):
        return got
    pairs = zip(*(r[str(at // 2)] for r in ranks), strict=True)
    return _same([sorted(a + b) for a, b in pairs], [sorted(step) for step in got["ids"]])


def _same(expected: list[list[str]], got: list[list[str]]) -> str:
    """``yes``, or how many of the samples are the same ones in the same step."""
    if expected == got:
        return "yes"
    total = sum(map(len, expected))
    kept = sum(len(set(a) & set(b)) for a, b in zip(expected, got, strict=False))
    return f"no: {kept} of {total} samples in their step"


def table(results: dict[str, Result]) -> str:
    """Two tables in Markdown."""
    changes = ("at 2 workers", "2 workers, then 1", "2 ranks, then 1")
    lines = ["|  | " + " | ".join(changes) + " |", "|---" * 4 + "|"]
    for name, result in results.items():
        lines.append(f"| {name} | " + " | ".join(result.same.get(c, "") for c in changes) + " |")
    places = list(next(iter(results.values())).first_s)
    head = [f"batch {at}" if at else "start" for at in places]
    lines += ["", "|  | " + " | ".join(head) + f" | last less {head[1]} |", "|---" * 6 + "|"]
    for name, result in results.items():
        cells = []
        for at in places:
            took = result.first_s[at]
            cells.append(
                f"{statistics.median(took):.2f} ({min(took):.2f}–{max(took):.2f})" if took else "–"
            )
        more = "–"
        if result.first_s[places[-1]] and result.first_s[places[1]]:
            last, start = (statistics.median(result.first_s[at]) for at in (places[-1], places[1]))
            more = f"{last - start:+.2f}"
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {more} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables alone."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s2v-resume-") as scratch:
        print(table(measure(options.samples, options.repetitions, Path(scratch))))


if __name__ == "__main__":
    main()
