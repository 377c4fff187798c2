"""Run decoding in a child process that may crash, hang or eat memory without taking us along.

A worker is a plain Python child that is kept between tasks, because importing OpenCV and PyAV
costs more than most tasks; it is replaced after any failure and after a number of tasks,
since decoders leak on damaged input. It works in threads and inside Ray actors: no fork, no
re-import of ``__main__``, no signal handlers.

What comes back from a worker is unpickled, so a worker is as trusted as this process. It
contains accidents and clumsy attacks on decoders, not an attacker who took the worker over.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.ffmpeg import SANDBOX_MARK
from s2v.datapipe.base.media.messages import receive, send

TIMEOUT_S: Final = 120.0
MEMORY_BYTES: Final = 4 << 30
TASKS_PER_WORKER: Final = 200
_START_TIMEOUT_S: Final = 60.0

_ENVIRONMENT: Final = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV", "S2V_ASSETS"}
)
"""What a worker inherits: no credentials come near a decoder."""

_BEFORE_DECODING: Final = frozenset(
    {
        MediaErrorKind.MISSING,
        MediaErrorKind.EMPTY,
        MediaErrorKind.NOT_MEDIA,
        MediaErrorKind.NO_VIDEO,
        MediaErrorKind.UNSUPPORTED,
    }
)
"""Refusals that leave a worker as good as new; after any other failure it is replaced."""


class Task(NamedTuple):
    """One call as it travels to a worker."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout_s: float
    memory_bytes: int
    subject: str
    iterate: bool


def reference(function: Callable[..., Any] | str) -> str:
    """Name a module-level function as ``module:name``, the form a worker can import.

    Raises:
        ValueError: a lambda, a closure, a method, or something of ``__main__``.
    """
    if isinstance(function, str):
        module, _, name = function.partition(":")
    else:
        module, name = function.__module__, function.__qualname__
    if not module or not name or "<" in name or "." in name or module == "__main__":
        raise ValueError(
            f"{module}:{name} cannot be imported by a worker; pass a module-level function"
        )
    return f"{module}:{name}"


def resolve(name: str) -> Callable[..., Any]:
    """Import what :func:`reference` named."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def run_isolated(
    function: Callable[..., Any] | str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str = "",
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    attempts: int = 2,
) -> Any:
    """Call a function in a worker process under limits.

    Args:
        function: module-level function, or ``"module:name"``.
        args, kwargs: picklable arguments.
        path: the file at work, for error messages; by default the first argument.
        timeout_s: wall clock of one attempt; also the worker's CPU time.
        memory_bytes: address space beyond what the worker held before the call.
        attempts: a time-out or crash is tried again in a fresh worker this often in all, so
            that a busy machine does not cost a good file its place.

    Returns:
        What the function returned.

    Raises:
        MediaError: ``timeout``, ``crash``, ``too_large`` (out of memory), ``transient`` (the
            worker was killed from outside), or the function's own.
        Exception: any other exception of the function, as it was raised.
    """
    subject = path or _subject(args)
    task = Task(
        reference(function),
        tuple(args),
        dict(kwargs or {}),
        timeout_s,
        memory_bytes,
        subject,
        False,
    )
    for attempt in range(1, attempts + 1):
        try:
            with _borrowed() as worker:
                return worker.call(task)
        except MediaError as error:
            again = error.kind in {MediaErrorKind.TIMEOUT, MediaErrorKind.CRASH}
            if not again or attempt == attempts or not _is_sandbox_error(error):
                raise
    raise ValueError(f"attempts must be at least 1, not {attempts}")


def stream_isolated(
    function: Callable[..., Any] | str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    path: str = "",
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> Generator[Any, None, Any]:
    """Iterate over a generator function that runs in a worker process.

    Items are handed over one by one; the worker stops producing while nobody takes them. The
    time-out counts between items. There is no second attempt: items were already used.

    Args:
        function, args, kwargs, path, memory_bytes: as in :func:`run_isolated`.
        timeout_s: longest wait for one item.

    Returns:
        The generator's return value, as ``yield from`` gives it.

    Raises:
        MediaError: as in :func:`run_isolated`, between items.
    """
    subject = path or _subject(args)
    task = Task(
        reference(function), tuple(args), dict(kwargs or {}), timeout_s, memory_bytes, subject, True
    )
    with _borrowed() as worker:
        return (yield from worker.stream(task))


def close_workers() -> None:
    """End all idle workers of this process; the next call starts a new one."""
    with _lock:
        idle = list(_idle)
        _idle.clear()
    for worker in idle:
        worker.stop()


def _subject(args: Sequence[Any]) -> str:
    return str(args[0])[:500] if args and isinstance(args[0], str | os.PathLike) else "<task>"


def _is_sandbox_error(error: MediaError) -> bool:
    """Only failures of the worker itself are tried again, not what a function reported."""
    return getattr(error, "from_sandbox", False)


def _sandbox_error(kind: MediaErrorKind, path: str, message: str) -> MediaError:
    error = MediaError(kind, path, message)
    error.from_sandbox = True  # type: ignore[attr-defined]  # a mark that is never pickled
    return error


class Worker:
    """One child process that serves calls one after another."""

    def __init__(self) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        leash_read, self._leash = os.pipe()  # closes when this process ends, however it ends
        environment = {key: value for key, value in os.environ.items() if key in _ENVIRONMENT}
        environment.update(
            {
                SANDBOX_MARK: "1",
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "OPENCV_FOR_THREADS_NUM": "1",
            }
        )
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "s2v.datapipe.base.media.sandbox_worker",
                *map(str, (theirs_in, theirs_out, leash_read)),
            ],
            pass_fds=(theirs_in, theirs_out, leash_read),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # decoders chatter; what matters comes as an exception
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        for fd in (theirs_in, theirs_out, leash_read):
            os.close(fd)
        self._in, self._out = ours_in, ours_out
        self.owner = os.getpid()
        self.tasks = 0
        self.healthy = True
        self._expect_ready()

    def _expect_ready(self) -> None:
        try:
            receive(self._in, time.monotonic() + _START_TIMEOUT_S)
        except (EOFError, TimeoutError) as error:
            self.stop()
            raise MediaError(
                MediaErrorKind.TRANSIENT,
                sys.executable,
                "the media worker did not start; try: python -m "
                "s2v.datapipe.base.media.sandbox_worker",
            ) from error

    def call(self, task: Task) -> Any:
        """One call; see :func:`run_isolated`."""
        answers = self.stream(task)
        while True:
            try:
                next(answers)
            except StopIteration as done:
                return done.value

    def stream(self, task: Task) -> Generator[Any, None, Any]:
        """One call whose items are handed over as they come; see :func:`stream_isolated`."""
        self.healthy = False  # until it has answered; an abandoned stream never does
        self.tasks += 1
        asked = False
        while True:
            deadline = time.monotonic() + task.timeout_s
            try:
                if not asked:
                    send(self._out, tuple(task), deadline)
                    asked = True
                kind, value = receive(self._in, deadline)
            except TimeoutError:
                self.stop()
                raise _sandbox_error(
                    MediaErrorKind.TIMEOUT, task.subject, f"no answer within {task.timeout_s:g} s"
                ) from None
            except (EOFError, BrokenPipeError):
                raise self._post_mortem(task.subject) from None
            if kind == "item":
                yield value
                continue
            self.healthy = kind == "done"
            if kind == "memory":
                raise _sandbox_error(
                    MediaErrorKind.TOO_LARGE,
                    task.subject,
                    f"needs more than {task.memory_bytes} bytes",
                )
            if kind == "error":
                self.healthy = isinstance(value, MediaError) and value.kind in _BEFORE_DECODING
                raise value
            return value

    def _post_mortem(self, subject: str) -> MediaError:
        """Why the worker is gone."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.stop()
        if code == -signal.SIGXCPU:
            return _sandbox_error(MediaErrorKind.TIMEOUT, subject, "used up its CPU time")
        if code in {-signal.SIGKILL, -signal.SIGTERM}:
            return _sandbox_error(
                MediaErrorKind.TRANSIENT,
                subject,
                f"the worker was killed from outside ({signal.Signals(-code).name}); "
                "is the machine out of memory?",
            )
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _sandbox_error(MediaErrorKind.CRASH, subject, f"the worker died: {name}")

    def stop(self) -> None:
        """Kill the worker and whatever it started."""
        self.healthy = False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for fd in (self._in, self._out, self._leash):
            with suppress(OSError):
                os.close(fd)
        self._in = self._out = self._leash = -1


_lock = threading.Lock()
_idle: list[Worker] = []
atexit.register(close_workers)


@contextmanager
def _borrowed() -> Iterator[Worker]:
    """A worker for one call: an idle one of this process, or a new one."""
    with _lock:
        while _idle and _idle[-1].owner != os.getpid():
            _idle.pop()  # inherited by a fork; it answers our parent
        worker = _idle.pop() if _idle else None
    worker = worker or Worker()
    try:
        yield worker
    finally:
        if worker.healthy and worker.tasks < TASKS_PER_WORKER:
            with _lock:
                _idle.append(worker)
        else:
            worker.stop()
