"""Processes that fetch micro-batches, and a thread that keeps them busy within a memory bound.

Results come back as bytes over a pipe, not through shared memory: containers have little of it,
and a worker that dies leaves none behind. A worker that dies, or takes too long, is named with
the sample it was reading.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from s2v.model.errors import ModelError

J = TypeVar("J")
R = TypeVar("R")
Work = Callable[[J, Callable[[str], None]], R]

_AT, _DONE, _REFUSED, _FAILED = b"a", b"d", b"r", b"f"
_LOOK_S: Final = 0.5


class _Pickler(pickle.Pickler):
    """Tensors as their bytes: torch's own way copies them twice more, or needs shared memory."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.device.type == "cpu" and obj.layout == torch.strided:
            raw = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (np.array(raw), str(obj.dtype).removeprefix("torch."), obj.shape)
        return NotImplemented


def _tensor(raw: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(raw).view(getattr(torch, dtype)).reshape(shape)


def _packed(value: object) -> bytes:
    out = io.BytesIO()
    _Pickler(out, protocol=5).dump(value)
    return out.getvalue()


def _serve(pipe: Connection, packed: bytes) -> None:
    """A worker's life: job in, result out, until the pipe closes."""
    # The training process decides when to stop; its workers follow when it closes their pipes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    work = pickle.loads(packed)  # noqa: S301 - from the process that started this one
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = pipe.recv()
            try:
                result = _packed(work(job, lambda name: pipe.send_bytes(_AT + name.encode())))
            except ModelError as error:
                pipe.send_bytes(_REFUSED + str(error).encode())
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception:  # noqa: BLE001 - told whole to the process that asked
                pipe.send_bytes(_FAILED + traceback.format_exc().encode())
            else:
                pipe.send_bytes(_DONE)
                pipe.send_bytes(result)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    ticket: int | None = None
    sample: str = ""
    since: float = 0.0


class Workers(Generic[J, R]):
    """An ordered map over processes: results are taken in the order the jobs were given.

    Args:
        work: does one job; it is sent to every worker once. Its second argument is to be called
            with the name of each sample before it is read.
        count: processes.
        ahead_bytes: results that may wait, in all.
        timeout_s: for one sample.
    """

    def __init__(self, work: Work[J, R], count: int, ahead_bytes: int, timeout_s: float) -> None:
        self._ahead, self._timeout = ahead_bytes, timeout_s
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([__name__, "s2v.model.data.fetch"])
        packed = pickle.dumps(work)
        self._workers: list[_Worker] = []
        for number in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, packed), name=f"s2v-read-{number}"
            )
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, mine))
        self._lock = threading.Condition()
        self._jobs: deque[tuple[int, J]] = deque()
        self._done: dict[int, bytes | ModelError] = {}
        self._given, self._taken = 0, 0
        self._held, self._largest = 0, 0
        self._error: BaseException | None = None
        self._closed = False
        self._bell_in, self._bell_out = context.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._run, name="s2v-reading", daemon=True)
        self._end = Finalize(self, _stop, args=(self._workers,), exitpriority=20)
        self._thread.start()

    @property
    def hungry(self) -> bool:
        """Whether more jobs should be given: a worker is idle, or soon will be."""
        with self._lock:
            return len(self._jobs) < 4 * len(self._workers)

    def give(self, job: J) -> None:
        """Queue a job."""
        with self._lock:
            self._jobs.append((self._given, job))
            self._given += 1
        self._ring()

    def take(self) -> R:
        """The result of the oldest job not yet taken; waits for it.

        Raises:
            ModelError: the job was refused, or a worker died or hangs.
        """
        with self._lock:
            while self._taken not in self._done:
                if self._error is not None:
                    raise self._error
                self._lock.wait()
            found = self._done.pop(self._taken)
            self._taken += 1
            if isinstance(found, bytes):
                self._held -= len(found)
        self._ring()
        if isinstance(found, ModelError):
            raise found
        return pickle.loads(found)  # type: ignore[no-any-return]  # noqa: S301 - of our own worker

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        self._ring()
        self._thread.join()
        self._end()

    def _ring(self) -> None:
        with suppress(OSError, ValueError):
            self._bell_out.send_bytes(b"")

    def _run(self) -> None:
        try:
            while not self._closed:
                self._assign()
                self._listen()
                self._watch()
        except BaseException as error:  # noqa: BLE001 - raised where results are taken
            with self._lock:
                self._error = error
                self._lock.notify_all()

    def _assign(self) -> None:
        """Give jobs to idle workers; the oldest one always, others within the memory bound."""
        with self._lock:
            for worker in self._workers:
                if worker.ticket is not None or not self._jobs:
                    continue
                ticket, job = self._jobs[0]
                busy = sum(w.ticket is not None for w in self._workers)
                expected = self._held + (busy + 1) * self._largest
                if ticket != self._taken and expected > self._ahead:
                    break
                self._jobs.popleft()
                worker.ticket, worker.sample, worker.since = ticket, "", time.monotonic()
                with suppress(BrokenPipeError, ConnectionResetError):  # told as its death below
                    worker.pipe.send(job)

    def _listen(self) -> None:
        pipes = {worker.pipe: worker for worker in self._workers}
        for ready in wait([*pipes, self._bell_in], timeout=_LOOK_S):
            if ready is self._bell_in:
                self._bell_in.recv_bytes()
                continue
            worker = pipes[ready]  # type: ignore[index]  # one of ours
            try:
                kind = worker.pipe.recv_bytes()
                data = worker.pipe.recv_bytes() if kind == _DONE else kind[1:]
            except (EOFError, ConnectionResetError, OSError):
                raise self._died(worker) from None
            worker.since = time.monotonic()
            if kind[:1] == _AT:
                worker.sample = data.decode()
                continue
            if worker.ticket is not None:  # it speaks only of a job that it was given
                self._put(worker, worker.ticket, kind[:1], data)

    def _put(self, worker: _Worker, ticket: int, kind: bytes, data: bytes) -> None:
        worker.ticket = None
        if kind == _FAILED:
            raise RuntimeError(f"sample {worker.sample}: a worker failed:\n{data.decode()}")
        with self._lock:
            if kind == _DONE:
                self._held += len(data)
                self._largest = max(self._largest, len(data))
                self._done[ticket] = data
            else:
                self._done[ticket] = ModelError(data.decode())
            self._lock.notify_all()

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.ticket is not None and now - worker.since > self._timeout:
                raise ModelError(
                    f"{_named(worker)} has been read for {self._timeout:g} s and hangs "
                    f"{worker.process.name}; raise data.worker_timeout_s if the disk is slow, or "
                    f"exclude it: {_line(worker)}"
                )

    def _died(self, worker: _Worker) -> ModelError:
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return ModelError(
            f"{worker.process.name} died {how} while it read {_named(worker)}; if memory ran out, "
            f"lower data.workers or data.prefetch_mb, if the sample does it, exclude it: "
            f"{_line(worker)}"
        )


def _named(worker: _Worker) -> str:
    return f"sample {worker.sample}" if worker.sample else "nothing yet"


def _line(worker: _Worker) -> str:
    return (
        f'a line {{"key_type": "sample_id", "key": "{worker.sample}", "reason": "unreadable", '
        '"by": "...", "when": "..."} in a list of data.exclusions'
    )


def _stop(workers: list[_Worker]) -> None:
    """End processes that may be anywhere, even in a decoder that never returns."""
    for worker in workers:
        worker.pipe.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join(10)
