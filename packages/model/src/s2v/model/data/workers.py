"""Processes that fetch micro-batches, and a thread that keeps them busy within a memory bound.

Results come back as bytes over a pipe, not through shared memory: containers have little of it,
and a worker that dies leaves none behind. A worker that dies, or takes too long, is named with
the sample it was reading.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from s2v.model.errors import ModelError

J = TypeVar("J")
R = TypeVar("R")
Work = Callable[[J, Callable[[str], None]], R]

_AT, _DONE, _REFUSED, _FAILED, _READY = b"a", b"d", b"r", b"f", b"s"
_LOOK_S: Final = 0.5
#: A worker loads torch and this package before its first sample; a busy machine takes its time.
_START_S: Final = 300.0
_PIECE: Final = 1 << 20


class _Pickler(ForkingPickler):
    """As between all processes of one program, but tensors as their bytes, not as shared memory.

    Arrays are not copied: they are sent from where they lie, behind what describes them.
    """

    def __init__(self, out: io.BytesIO, buffers: list[memoryview] | None = None) -> None:
        keep = None if buffers is None else (lambda buffer: buffers.append(buffer.raw()))
        super(ForkingPickler, self).__init__(out, 5, buffer_callback=keep)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and obj.device.type == "cpu" and obj.layout == torch.strided:
            raw = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (raw, str(obj.dtype).removeprefix("torch."), obj.shape)
        return NotImplemented


def _tensor(raw: np.ndarray[Any, Any], dtype: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(raw).view(getattr(torch, dtype)).reshape(shape)


def _packed(value: object) -> bytes:
    out = io.BytesIO()
    _Pickler(out).dump(value)
    return out.getvalue()


def _send(pipe: Connection, value: object) -> None:
    """A result: the sizes of its parts, then the parts: the description, and each array."""
    out, buffers = io.BytesIO(), list[memoryview]()
    _Pickler(out, buffers).dump(value)
    parts = [out.getbuffer(), *buffers]
    pipe.send_bytes(_DONE)
    pipe.send_bytes(np.array([part.nbytes for part in parts], np.int64).tobytes())
    for part in parts:
        left = part.cast("B") if part.nbytes else part
        while left.nbytes:
            left = left[os.write(pipe.fileno(), left[:_PIECE]) :]


def _receive(pipe: Connection, timeout_s: float) -> list[bytearray]:
    """The parts of a result, read once, into where they stay."""
    parts = [bytearray(int(n)) for n in np.frombuffer(pipe.recv_bytes(), np.int64)]
    for part in parts:
        left = memoryview(part)
        while left.nbytes:
            if not pipe.poll(timeout_s):
                raise TimeoutError
            got = os.readv(pipe.fileno(), [left[:_PIECE]])
            if not got:
                raise EOFError
            left = left[got:]
    return parts


def _serve(pipe: Connection, packed: bytes) -> None:
    """A worker's life: job in, result out, until the pipe closes."""
    # The training process decides when to stop; its workers follow when it closes their pipes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    work = ForkingPickler.loads(packed)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send_bytes(_READY)
        while True:
            job = pipe.recv()
            try:
                result = work(job, lambda name: pipe.send_bytes(_AT + name.encode()))
            except ModelError as error:
                pipe.send_bytes(_REFUSED + str(error).encode())
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception:  # noqa: BLE001 - told whole to the process that asked
                pipe.send_bytes(_FAILED + traceback.format_exc().encode())
            else:
                _send(pipe, result)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    ticket: int | None = None
    sample: str = ""
    since: float = field(default_factory=time.monotonic)
    ready: bool = False


def warm() -> ForkServerContext:
    """Start the process that workers are forked from: it loads libraries while others do work.

    A fresh one, so that no worker has this process's threads, locks or GPU memory.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__, "s2v.model.data.samples"])
    forkserver.ensure_running()
    return context


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
        context = warm()
        packed = _packed(work)
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
        self._done: dict[int, list[bytearray] | ModelError] = {}
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
            if isinstance(found, list):
                self._held -= sum(map(len, found))
        self._ring()
        if isinstance(found, ModelError):
            raise found
        said, *arrays = found
        result: R = ForkingPickler.loads(said, buffers=arrays)
        return result

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
                worker.ticket, worker.sample = ticket, ""
                if worker.ready:  # one that starts is timed from its beginning
                    worker.since = time.monotonic()
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
                said = worker.pipe.recv_bytes()
                parts = _receive(worker.pipe, self._timeout) if said == _DONE else []
            except TimeoutError:
                raise self._hangs(worker) from None
            except (EOFError, ConnectionResetError, OSError):
                raise self._died(worker) from None
            worker.since = time.monotonic()
            kind, text = said[:1], said[1:].decode()
            if kind == _READY:
                worker.ready = True
            elif kind == _AT:
                worker.sample = text
            elif kind == _FAILED:
                raise RuntimeError(f"sample {worker.sample}: a worker failed:\n{text}")
            elif worker.ticket is not None:  # it speaks only of a job that it was given
                self._put(worker.ticket, parts if kind == _DONE else ModelError(text))
                worker.ticket = None

    def _put(self, ticket: int, result: list[bytearray] | ModelError) -> None:
        with self._lock:
            if isinstance(result, list):
                size = sum(map(len, result))
                self._held += size
                self._largest = max(self._largest, size)
            self._done[ticket] = result
            self._lock.notify_all()

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            limit = self._timeout if worker.ready else max(self._timeout, _START_S)
            if worker.ticket is not None and now - worker.since > limit:
                raise self._hangs(worker)

    def _hangs(self, worker: _Worker) -> ModelError:
        if not worker.ready:
            return ModelError(
                f"{worker.process.name} has not begun for {max(self._timeout, _START_S):g} s; it "
                "loads torch and this package: is the disk that they lie on slow? "
                "data.workers = 0 needs no processes"
            )
        return ModelError(
            f"{_named(worker)} has been read for {self._timeout:g} s and hangs "
            f"{worker.process.name}; raise data.worker_timeout_s if the disk is slow, or "
            f"exclude it: {_line(worker)}"
        )

    def _died(self, worker: _Worker) -> ModelError:
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        if not worker.sample:
            return ModelError(
                f"{worker.process.name} died {how} before it read a sample; if memory ran out, "
                "lower data.workers; data.workers = 0 reads without processes and shows the error"
            )
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
