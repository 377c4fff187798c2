"""Python values over a pipe between a process and its own child.

The child decodes strangers' files. Were a decoder taken over, its answers would come from a
stranger too; so only arrays, plain values, exceptions of Python's own and classes of this
project are read back, and nothing that could be called with an effect.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import pickle
import select
import struct
import time
from typing import Any, Final

_CHUNK: Final = 1 << 20
_MAX_MESSAGE: Final = 8 << 30
_VALUES: Final = frozenset(
    [
        *(("builtins", name) for name in ("bytearray", "complex", "frozenset", "range", "set")),
        ("fractions", "Fraction"),
        ("pathlib", "PosixPath"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    ]
)


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
    return _Reader(io.BytesIO(body), buffers=buffers).load()


def survives(value: object) -> bool:
    """Whether the other side will be able to read ``value``."""
    try:
        _Reader(io.BytesIO(pickle.dumps(value, protocol=5))).load()
    except Exception:  # noqa: BLE001  # a class's own pickling may raise anything
        return False
    return True


class _Reader(pickle.Unpickler):
    """Refuses every name but those that values of the media room are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """The class, if it is one of ours, NumPy's arrays, or a built-in value or exception.

        Raises:
            EOFError: anything else; the child counts as crashed.
        """
        if (module, name) in _VALUES:
            return getattr(importlib.import_module(module), name)
        found: Any = None
        if module == "builtins":
            found = getattr(builtins, name, None)
            if not (isinstance(found, type) and issubclass(found, Exception)):
                found = None
        elif module.startswith("s2v."):
            found = getattr(importlib.import_module(module), name, None)
        if not isinstance(found, type):
            raise EOFError(f"a message that names {module}.{name}")
        return found


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
