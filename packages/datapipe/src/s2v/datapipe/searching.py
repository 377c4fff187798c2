"""Searching a bank on disk, shard by shard: here, or as tasks on Ray.

Every shard is searched on its own and the answers are merged. The cut into shards is the
bank's, so the answer is the same here and on Ray, for any number of workers and in any order of
arrival; of exact search it is that of one index. Tasks get names of files: the bank's shards
and the queries are read through memory maps, so the folder must be one that all machines see.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.engine.errors import FAULTS, NO_FAILURE, failure, raise_failure
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.pair.ann import Search, build_name, check, in_memory, kind_of, open_search
from s2v.datapipe.pair.bank import BankError, VectorBank, open_bank, write_bank
from s2v.datapipe.pair.index import Cosines, Positions, Vectors, merge, same_width
from s2v.datapipe.pair.settings import RetrievalSettings

_QUERIES = 16_384  # rows of the queries held at once


@dataclass(frozen=True)
class Banks:
    """Opens banks for a selection; fills :class:`s2v.datapipe.pair.ann.Opener`.

    One of fewer than ``retrieval.sharded_from`` vectors is held in memory. A larger one is written
    in shards, a block of vectors at a time, searched on Ray, and deleted when the search is done.

    Attributes:
        folder: where they are written; one that all machines see.
        cpus: CPUs of a local Ray.
        ray: as tasks on Ray; else here, one shard after the other, to the same answer.
    """

    folder: Path
    cpus: int | None = None
    ray: bool = True

    @contextmanager
    def __call__(
        self, rows: int, vectors: Callable[[Positions], Vectors], settings: RetrievalSettings
    ) -> Iterator[Search]:
        """Open a bank; see :class:`s2v.datapipe.pair.ann.Opener`."""
        if settings.sharded_from is None or rows < settings.sharded_from:
            with in_memory(rows, vectors, settings) as search:
                yield search
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        blocks = (
            vectors(np.arange(at, min(at + _QUERIES, rows))) for at in range(0, rows, _QUERIES)
        )
        with tempfile.TemporaryDirectory(prefix="bank-", dir=self.folder) as place:
            bank = write_bank(Path(place, "bank"), blocks, shard_rows=settings.shard_rows)
            yield ShardedSearch(bank, settings, ray=self.ray, cpus=self.cpus)

    def sweep(self) -> None:
        """Delete what a search that was killed left; only for the holder of the run's lock."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class ShardedSearch:
    """A bank on disk, ready to be asked; fills :class:`s2v.datapipe.pair.ann.Search`.

    An index is chosen by the rows of a shard (``exact_below`` too) and what it learnt is kept
    beside the bank, so asking again, for a larger ``k`` or other queries, builds nothing.

    A worker holds one shard: ``shard_rows * d * 2`` bytes of an inverted-list index (``+ 8 * 2 *
    hnsw_m`` a row for HNSW; 256 MB of blocks for exact), and about 0.5 GB for what it works on. The
    driver holds two answers of ``16 q k`` bytes.

    Attributes:
        bank: what is searched.
        settings: which index, and its sizes.
        ray: as tasks on Ray; else here, one shard after the other.
        cpus: CPUs of a local Ray.
    """

    bank: VectorBank
    settings: RetrievalSettings
    ray: bool = False
    cpus: int | None = None

    def top(self, queries: Vectors, k: int) -> tuple[Positions, Cosines]:
        """The ``k`` nearest of each query; see :class:`s2v.datapipe.pair.ann.Search`.

        Raises:
            ValueError: bad queries, or ``k`` below 1.
            BankError: a shard is missing or damaged.
            UnitFailedError: the machine failed a shard (disk full, out of memory).
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one neighbour")
        same_width(queries, np.empty((0, self.bank.width)))
        k = min(k, self.bank.rows)
        if len(queries) == 0:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float64)
        check(queries, "queries")
        with tempfile.TemporaryDirectory(prefix="asked-", dir=self.bank.folder) as scratch:
            asked = Path(scratch, "queries.npy")
            np.save(asked, np.asarray(queries, np.float32), allow_pickle=False)
            best = (np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0)))
            for found in self._answers(asked, k):
                positions = np.load(found / "positions.npy", allow_pickle=False)
                cosines = np.load(found / "cosines.npy", allow_pickle=False)
                shutil.rmtree(found)  # or the answers of all shards would lie there at once
                best = merge((best, (positions, cosines)), k)
        return best

    def _answers(self, asked: Path, k: int) -> Iterator[Path]:
        jobs = [
            json.dumps(
                {
                    "bank": str(self.bank.folder.absolute()),
                    "shard": number,
                    "queries": str(asked.absolute()),
                    "k": k,
                    "settings": self.settings.model_dump(mode="json"),
                }
            )
            for number in range(self.bank.shards)
        ]
        for answer in _on_ray(jobs, self.cpus) if self.ray else map(_search_shard, jobs):
            if answer["damaged"]:
                raise BankError(answer["damaged"])
            raise_failure(f"search of shard {answer['shard']}", answer["failed"])
            yield Path(answer["found"])


def _on_ray(jobs: Iterable[str], cpus: int | None) -> Iterator[dict[str, Any]]:
    """Answers as they come; merging does not mind the order."""
    import ray

    start_ray(cpus)
    task = ray.remote(num_cpus=1)(_search_shard)
    waiting = [task.remote(job) for job in jobs]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(done[0])


def _search_shard(job: str) -> dict[str, Any]:
    """Search one shard; the answer is left in files, what went wrong is returned as data."""
    given = json.loads(job)
    number, folder = int(given["shard"]), Path(given["bank"])
    answer: dict[str, Any] = {"shard": number, "damaged": "", "failed": NO_FAILURE, "found": ""}
    settings = RetrievalSettings.model_validate(given["settings"])
    found = Path(given["queries"]).parent / f"shard-{number:05d}"
    try:
        bank = open_bank(folder)
        rows = bank.shard(number)
        kind = kind_of(len(rows), settings)
        built = folder / "built" / build_name(settings) / f"{number:05d}"
        search = open_search(rows, settings, None if kind == "exact" else built)
        queries = np.load(given["queries"], mmap_mode="r", allow_pickle=False)
        parts = [
            search.top(np.asarray(queries[at : at + _QUERIES]), given["k"])
            for at in range(0, len(queries), _QUERIES)
        ]
        positions, cosines = (np.concatenate(side) for side in zip(*parts, strict=True))
        _save(found / "positions.npy", positions + number * bank.shard_rows)
        _save(found / "cosines.npy", cosines)
        answer["found"] = str(found)
    except FAULTS as fault:
        answer["failed"] = failure(fault, folder)
    except ValueError as damaged:
        answer["damaged"] = f"shard {number} of {folder}: {damaged}"
    return answer


def _save(path: Path, values: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.save(out, values, allow_pickle=False)
