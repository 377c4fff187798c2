"""The child's side of :mod:`.sandbox`: ``python -m ...sandbox_worker IN OUT LEASH``."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from s2v.datapipe.base.media.messages import receive, send, survives
from s2v.datapipe.base.media.sandbox import Task, resolve

_PIPE_BYTES: Final = 1 << 20


def main() -> None:
    """Serve calls until the parent closes its end."""
    requests, answers, leash = (int(argument) for argument in sys.argv[1:4])
    threading.Thread(target=_die_with_parent, args=(leash,), daemon=True).start()
    with suppress(OSError):  # a bigger pipe is only faster
        fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(answers, "ready")
    while True:
        try:
            request = receive(requests)
        except EOFError:
            return
        send(answers, _answer(answers, Task(*request)))


def _answer(answers: int, task: Task) -> tuple[str, Any]:
    """The last message of a call; items of a stream are sent on the way."""
    try:
        function = resolve(task.function)
        _limit_memory(task.memory_bytes)
        _limit_cpu(task.timeout_s)
        value = function(*task.args, **task.kwargs)
        if task.iterate:
            value = _send_items(answers, value, task.timeout_s)
        return "done", value
    except MemoryError:
        return "memory", None
    except Exception as error:  # noqa: BLE001  # whatever it is goes to the caller
        return ("memory", None) if _is_memory(error) else ("error", _portable(error))
    finally:
        _unlimit()


def _send_items(answers: int, iterator: Any, timeout_s: float) -> Any:
    while True:
        try:
            item = next(iterator)
        except StopIteration as done:
            return done.value
        send(answers, ("item", item))
        _limit_cpu(timeout_s)


def _is_memory(error: BaseException) -> bool:
    """OpenCV reports a failed allocation as its own error, PIL's and libav's are wrapped."""
    if type(error).__module__ == "cv2" and "insufficient memory" in str(error).lower():
        return True
    cause = error.__cause__ or error.__context__
    return isinstance(cause, MemoryError)


def _portable(error: Exception) -> Exception:
    """The exception itself where it survives the way, its text otherwise."""
    if survives(error):
        return error
    return RuntimeError(f"{type(error).__module__}.{type(error).__qualname__}: {error}")


def _limit_memory(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    held = pages * resource.getpagesize()
    _soft(resource.RLIMIT_AS, held + memory_bytes)


def _limit_cpu(timeout_s: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _soft(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime + timeout_s) + 2)


def _unlimit() -> None:
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        _soft(limit, resource.getrlimit(limit)[1])


def _soft(limit: int, value: int) -> None:
    """Set a soft limit, which may be raised again for the next call."""
    hard = resource.getrlimit(limit)[1]
    if resource.RLIM_INFINITY not in {hard, value}:
        value = min(value, hard)
    resource.setrlimit(limit, (value, hard))


def _die_with_parent(leash: int) -> None:
    """The leash reads as ended when the parent is gone, even when it was killed."""
    while os.read(leash, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
