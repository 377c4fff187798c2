"""Python values over a pipe between a process and its own child."""

from __future__ import annotations

import os
import pickle
import select
import struct
import time
from typing import Any, Final

_CHUNK: Final = 1 << 20
_MAX_MESSAGE: Final = 8 << 30


def send(fd: int, value: Any, deadline: float | None = None) -> None:
    """Write one message: pickle 5 with arrays as raw buffers, so that they are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    head = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    # A write of at most PIPE_BUF never blocks after poll; without a deadline blocking is fine.
    chunk = _CHUNK if deadline is None else select.PIPE_BUF
    for part in (memoryview(head), *parts):
        written = 0
        while written < part.nbytes:
            _wait(fd, deadline, write=True)
            written += os.write(fd, part[written : written + chunk])


def receive(fd: int, deadline: float | None = None) -> Any:
    """Read one message of :func:`send`.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: the deadline passed.
    """
    (count,) = struct.unpack("<I", _read(fd, 4, deadline))
    sizes = struct.unpack(f"<{count}Q", _read(fd, 8 * count, deadline))
    if sum(sizes) > _MAX_MESSAGE:
        raise EOFError(f"a message of {sum(sizes)} bytes")
    body, *buffers = (_read(fd, size, deadline) for size in sizes)
    return pickle.loads(body, buffers=buffers)  # noqa: S301  # from our own child, see sandbox


def _read(fd: int, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    filled = 0
    while filled < size:
        _wait(fd, deadline, write=False)
        got = os.readv(fd, [view[filled:]])
        if got == 0:
            raise EOFError
        filled += got
    return data


def _wait(fd: int, deadline: float | None, *, write: bool) -> None:
    if deadline is None:
        return
    poller = select.poll()
    poller.register(fd, select.POLLOUT if write else select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError
