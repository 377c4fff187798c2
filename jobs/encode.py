"""Encode a shard folder on Ray, with absolute folders on storage that the cluster shares:
``ray job submit --working-dir jobs -- python encode.py --shards DIR --recipe FILE``.

The same arguments, files and bytes as ``s2v-model encode``: one pool of actors, each with the
encoders in memory once, takes shard after shard. An actor that is lost costs the shard in hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo import plainly

from s2v.datapipe.engine.execute import cluster, start_ray
from s2v.datapipe.engine.pools import AdmissionError, Need
from s2v.model import encode_cli
from s2v.model.errors import ModelError
from s2v.model.latents.encode import failure
from s2v.model.latents.shard import ShardReport
from s2v.model.progress import quiet, shown

RETRIES = 3  # of a shard whose actor was lost


class Encoder:
    """An actor: reads the recipe and loads the encoders once, then encodes shards by name."""

    def __init__(self, argv: Sequence[str]) -> None:
        import torch

        self.encoding = encode_cli.prepared(parser().parse_args([*argv, "--quiet"]))
        torch.set_num_threads(self.encoding.config.train.threads)
        self.tasks = {task.shard: task for task in self.encoding.plan.tasks}

    def begin(self) -> list[tuple[str, int]] | str:
        """Check the disk; returns shards with their numbers of entries, or why not."""
        try:
            self.encoding.begin()
        except ModelError as error:
            return str(error)
        return [(task.shard, task.count) for task in self.encoding.plan.tasks]

    def encode(self, shard: str) -> dict[str, Any]:
        """A shard's report, or ``{"failed": reason}``."""
        try:
            return asdict(self.encoding.one(self.tasks[shard], lambda n=1, note="": None))
        except ModelError as error:
            return {"failed": str(error)}

    def finish(self, reports: list[dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
        """How all stands."""
        return asdict(self.encoding.finish([ShardReport(**one) for one in reports], failed))


def parser() -> argparse.ArgumentParser:
    """``s2v-model encode``'s arguments, and the pool's."""
    made = argparse.ArgumentParser(prog="encode", description=__doc__)
    encode_cli.arguments(made)
    made.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    made.add_argument("--actors", type=int, help="at most so many (default: as many as fit)")
    made.add_argument("--actor-cpus", type=float, default=1.0, help="of each (%(default)s)")
    made.add_argument("--actor-gpus", type=float, help="of each (default: 1 where there are any)")
    made.add_argument("--cpus", type=int, help="of a local Ray")
    made.add_argument("--json", action="store_true")
    made.add_argument("--quiet", action="store_true")
    return made


def actors(wanted: int | None, need: Need) -> int:
    """How many actors the cluster holds.

    Raises:
        AdmissionError: not one; Ray would wait for a larger machine without a word.
    """
    fit = sum(node.holds(need) for node in cluster())
    if fit < 1:
        raise AdmissionError(
            f"no machine of the cluster has room for one encoder ({need}); lower --actor-cpus or "
            "--actor-gpus"
        )
    return min(fit, wanted or fit)


def run(args: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    """Encode; returns what ``s2v-model encode --json`` prints.

    Raises:
        AdmissionError: not one actor fits.
        ModelError: as :func:`s2v.model.latents.encode.encode`.
    """
    import ray

    start_ray(args.cpus)
    gpus = args.actor_gpus
    if gpus is None:
        gpus = 1.0 if any(node.gpus for node in cluster()) else 0.0
    need = Need(cpus=args.actor_cpus, gpus=gpus)
    most = actors(args.actors, need)
    remote: Any = ray.remote(
        num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=RETRIES, max_task_retries=RETRIES
    )(Encoder)
    # The first fits what has to be fitted, before the others.
    pool: list[Any] = [remote.remote(list(argv))]
    tasks: list[tuple[str, int]] | str = ray.get(pool[0].begin.remote())
    if isinstance(tasks, str):
        raise ModelError(tasks)
    pool += [remote.remote(list(argv)) for _ in range(min(most, len(tasks)) - 1)]
    reports: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    waiting = deque(sorted(tasks, key=lambda t: (-t[1], t[0])))
    busy: dict[Any, tuple[Any, str, int]] = {}
    idle = list(pool)
    with (quiet if args.quiet else shown)("encode", sum(count for _, count in tasks)) as told:
        while waiting or busy:
            while waiting and idle:
                actor, (shard, count) = idle.pop(), waiting.popleft()
                busy[actor.encode.remote(shard)] = (actor, shard, count)
            done, _ = ray.wait(list(busy), num_returns=1)
            actor, shard, count = busy.pop(done[0])
            answer = ray.get(done[0])
            idle.append(actor)
            if "failed" in answer:
                failed[shard] = answer["failed"]
            else:
                reports.append(answer)
            told(count)
    result: dict[str, Any] = ray.get(pool[0].finish.remote(reports, failed))
    for actor in pool:
        ray.kill(actor)
    if failed:
        raise ModelError(failure(result))
    return result


def _absolute(args: argparse.Namespace) -> None:
    """Actors run elsewhere: a folder of here means nothing there."""
    for name in ("shards", "run", "out"):
        path: Path | None = getattr(args, name)
        if path is not None and not path.is_absolute():
            raise ModelError(f"--{name} {path}: give an absolute folder; Ray runs elsewhere")


def main(argv: list[str] | None = None) -> int:
    """Parse and encode."""
    given = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(given)

    def said() -> int:
        if args.estimate or args.verify:
            raise ModelError("--estimate and --verify need no cluster: `s2v-model encode`")
        _absolute(args)
        result = run(args, given)
        print(json.dumps(result, sort_keys=True) if args.json else encode_cli.told(result), end="")
        return 0

    return plainly("encode", said)


if __name__ == "__main__":
    sys.exit(main())
