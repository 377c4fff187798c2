"""What a decoder may do to its process; imported and run by sandbox workers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind
from s2v.datapipe.base.media.ffmpeg import executable


def pid() -> int:
    return os.getpid()


def crash(*_: str) -> None:
    ctypes.string_at(0)


def hang(seconds: float = 1000) -> None:
    time.sleep(seconds)


def spin() -> None:
    while True:
        pass


def crash_once(mark: str) -> str:
    """Crash on the first call, succeed on the second."""
    if not Path(mark).exists():
        Path(mark).touch()
        crash()
    return "second attempt"


def eat_memory(gigabytes: int) -> int:
    return int(np.ones(gigabytes << 30, np.uint8).sum())


def eat_memory_in_opencv() -> tuple[int, ...]:
    return cv2.resize(np.zeros((10, 10, 3), np.uint8), (100_000, 30_000)).shape


def killed_from_outside() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(path: str, kind: str) -> None:
    raise MediaError(MediaErrorKind(kind), path, "as asked")


class UnportableError(Exception):
    """Cannot be pickled: its constructor wants two arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}/{b}")


def unportable() -> None:
    raise UnportableError(1, 2)


def ramp(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def items(count: int, then: str = "") -> Iterator[np.ndarray]:
    for index in range(count):
        yield np.full(3, index)
    if then == "crash":
        crash()
    if then == "hang":
        hang()
    return "report"


def environment() -> dict[str, str]:
    return dict(os.environ)


def endless_ffmpeg(mark: str) -> None:
    """Start an encoder that never ends and note its process id."""
    command = [executable(), "-nostdin", "-f", "lavfi", "-i", "testsrc2", "-f", "null", "-"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        Path(mark).write_text(f"{os.getpid()} {process.pid}")
        process.wait()
