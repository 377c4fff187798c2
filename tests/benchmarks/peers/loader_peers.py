"""Other tools' loaders: draw, save the state, go on from it. Runs in the tool's own environment.

    python loader_peers.py energon run --folder SHARDS --work DIR --at 0 50 --batches 20
    python loader_peers.py energon resume --folder SHARDS --work DIR --at 50 --batches 20

Imports nothing of ours; prints one line of JSON. ``run`` draws to each place of ``--at``, saves a
state there, and gives the ids that follow; ``resume`` goes on from one of these states in a new
process, and says how long it took from making the loader to its first batch.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SEED = 7
Batch = list[str]
#: The loader's batches, its state, and how to go on from one (before the first batch).
Loader = tuple[Callable[[], Iterator[Batch]], Callable[[], Any], Callable[[Any], None]]


def streaming(options: argparse.Namespace) -> Loader:
    """MosaicML Streaming on its own format, written from the same samples."""
    _without_vision_operators()
    from streaming import StreamingDataLoader, StreamingDataset

    data = StreamingDataset(
        local=str(options.work / "mds"),
        shuffle=True,
        shuffle_seed=SEED,
        batch_size=options.batch,
        num_canonical_nodes=2,
    )
    loader = StreamingDataLoader(data, batch_size=options.batch, num_workers=options.workers)
    return (
        lambda: (list(batch["id"]) for batch in loader),
        loader.state_dict,
        loader.load_state_dict,
    )


def _without_vision_operators() -> None:
    """Streaming imports torchvision, whose build for GPUs fails beside a torch without them.

    Two missing operators stop it; nothing here calls any.
    """
    import torch

    if not torch.version.cuda:
        said = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        global _library  # noqa: PLW0603 - an operator lives as long as its library
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(name + said)


_library: Any = None


def write_streaming(options: argparse.Namespace) -> None:
    """The samples of all tars in Streaming's format."""
    import tarfile

    _without_vision_operators()
    from streaming import MDSWriter

    columns = {"id": "str", "data": "bytes"}
    with MDSWriter(out=str(options.work / "mds"), columns=columns, size_limit=4 << 20) as out:
        for path in sorted(options.folder.glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    name, _, suffix = member.name.partition(".")
                    file = tar.extractfile(member)
                    if suffix == "bin" and file is not None:
                        out.write({"id": name, "data": file.read()})


def energon(options: argparse.Namespace) -> Loader:
    """Megatron-Energon on the shards as they are, with its defaults for training."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return sample

    class Ids(DefaultTaskEncoder):  # type: ignore[misc,type-arg,unused-ignore]
        decoder = None
        cookers = (Cooker(cook=cook),)

        def encode_sample(self, sample: Any) -> Any:
            return sample

        def batch(self, samples: list[Any]) -> Any:
            return [sample["__key__"].rpartition("/")[2] for sample in samples]

        def encode_batch(self, batch: Any) -> Any:
            return batch

    workers = WorkerConfig(
        rank=options.rank, world_size=options.world, num_workers=options.workers, seed_offset=SEED
    )
    data = get_train_dataset(
        str(options.folder),
        worker_config=workers,
        batch_size=options.batch,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        task_encoder=Ids(raw_batch_type=list),
    )
    loader = get_savable_loader(data)
    return lambda: iter(loader), loader.save_state_rank, loader.restore_state_rank


def torchdata(options: argparse.Namespace) -> Loader:
    """torchdata's StatefulDataLoader over random access by wids, in drawn order."""
    import torch
    import wids
    from torch.utils.data import DistributedSampler
    from torchdata.stateful_dataloader import StatefulDataLoader
    from torchdata.stateful_dataloader.sampler import RandomSampler

    class Ids(torch.utils.data.Dataset):  # type: ignore[misc,type-arg,unused-ignore]
        def __init__(self) -> None:
            self.data = wids.ShardListDataset(
                str(options.folder / "wids.json"),
                keep=True,
                transformations=[],
                cache_dir=str(options.work / "wids"),
            )

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, n: int) -> str:
            sample = self.data[n]
            sample[".bin"].read()
            return str(sample["__key__"])

    data = Ids()
    if options.world > 1:
        sampler: Any = DistributedSampler(data, options.world, options.rank, seed=SEED)
    else:
        sampler = RandomSampler(data, generator=torch.Generator().manual_seed(SEED))
    loader = StatefulDataLoader(
        data, batch_size=options.batch, sampler=sampler, num_workers=options.workers,
        collate_fn=list,
    )  # fmt: skip
    return lambda: iter(loader), loader.state_dict, loader.load_state_dict


def webdataset(options: argparse.Namespace) -> Loader:
    """A webdataset pipeline in the StatefulDataLoader: it has no state, so batches are skipped."""
    import webdataset as wds
    from torchdata.stateful_dataloader import StatefulDataLoader

    tars = [str(path) for path in sorted(options.folder.glob("*.tar"))]
    data = (
        wds.WebDataset(
            tars, shardshuffle=100, seed=SEED, nodesplitter=None if options.world == 1 else _split
        )
        .shuffle(1000, seed=SEED)
        .map(lambda sample: sample["__key__"])
    )
    loader = StatefulDataLoader(
        data, batch_size=options.batch, num_workers=options.workers, collate_fn=list
    )
    return lambda: iter(loader), loader.state_dict, loader.load_state_dict


def _split(shards: Any) -> Any:
    options = _options()
    yield from (shard for n, shard in enumerate(shards) if n % options.world == options.rank)


TOOLS = {f.__name__: f for f in (energon, streaming, torchdata, webdataset)}


def run(options: argparse.Namespace, make: Callable[[argparse.Namespace], Loader]) -> Any:
    """Draw to each place, save a state there, and give the ids that follow."""
    start, save, _ = make(options)
    batches = start()
    drawn: list[Batch] = []
    for at in sorted(options.at):
        while len(drawn) < at:
            drawn.append(list(next(batches)))
        if at:
            _state(options, at).write_bytes(pickle.dumps(save()))
    last = max(options.at)
    drawn += [list(next(batches)) for _ in range(last + options.batches - len(drawn))]
    return {str(at): drawn[at : at + options.batches] for at in options.at}


def resume(options: argparse.Namespace, make: Callable[[argparse.Namespace], Loader]) -> Any:
    """Go on from a state; 0 is a fresh start."""
    (at,) = options.at
    state = pickle.loads(_state(options, at).read_bytes()) if at else None  # noqa: S301 - its own
    make_began = time.perf_counter()
    start, _, restore = make(options)
    if state is not None:
        restore(state)
    batches = start()
    first = list(next(batches))
    took = time.perf_counter() - make_began
    ids = [first, *(list(next(batches)) for _ in range(options.batches - 1))]
    return {"first_s": took, "ids": ids}


def _state(options: argparse.Namespace, at: int) -> Path:
    rank = options.state_rank if options.state_rank is not None else options.rank
    return Path(options.work / f"{options.tool}-{options.tag}-{rank}-{at}.state")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool")
    parser.add_argument("action", choices=("write", "run", "resume"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--at", type=int, nargs="+", default=[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--tag", default="one")
    parser.add_argument("--state-rank", type=int)
    return parser.parse_args()


def serve(tools: dict[str, Callable[[argparse.Namespace], Loader]]) -> int:
    """Do what the command line says."""
    options = _options()
    result = (run if options.action == "run" else resume)(options, tools[options.tool])
    print(json.dumps(result))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    if _options().action == "write":
        write_streaming(_options())
        sys.exit(0)
    sys.exit(serve(TOOLS))
