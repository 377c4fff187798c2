"""How a fetch shows where it is: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID


class Reporter(Protocol):
    """Told what a fetch does; called from several threads. Sizes in bytes."""

    def begin(self, archives: int, total: int, root: str) -> None:
        """A fetch of `archives` archives of `total` bytes into `root` starts."""

    def update(self, package: str, done: int) -> None:
        """`done` bytes of a package's archive are here."""

    def finish(self, package: str, size: int, files: int) -> None:
        """A package's files are in the cache."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """The fetch is over, well or badly."""


class Silent:
    """Says nothing."""

    def begin(self, archives: int, total: int, root: str) -> None:
        """Says nothing."""

    def update(self, package: str, done: int) -> None:
        """Says nothing."""

    def finish(self, package: str, size: int, files: int) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Says nothing."""

    def close(self) -> None:
        """Says nothing."""


class Lines:
    """One plain line per package, with the time left; for logs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()
        self._archives = self._total = self._count = self._bytes = 0
        self._start = 0.0

    def begin(self, archives: int, total: int, root: str) -> None:
        """Prints the size of the task."""
        self._archives, self._total, self._start = archives, total, time.monotonic()
        self.note(f"fetching {archives} packages, {megabytes(total)}, into {root}")

    def update(self, package: str, done: int) -> None:
        """Prints nothing: a log wants lines, not a bar."""

    def finish(self, package: str, size: int, files: int) -> None:
        """Prints a line with the time left, from the mean speed so far."""
        with self._lock:
            self._count += 1
            self._bytes += size
            elapsed = time.monotonic() - self._start
            left = elapsed * (self._total - self._bytes) / max(self._bytes, 1)
            noun = "file" if files == 1 else "files"
            text = (
                f"[{self._count}/{self._archives}] {package}: {files} {noun}; "
                f"{megabytes(self._bytes)} of {megabytes(self._total)}, about {left:.0f} s left"
            )
            print(text, file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Prints the line."""
        with self._lock:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to tidy."""


class Bar:
    """A bar with size, speed and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def begin(self, archives: int, total: int, root: str) -> None:
        """Shows the bar."""
        self._progress.start()
        self._progress.console.print(f"fetching {archives} packages into {root}")
        self._task = self._progress.add_task("assets", total=total)

    def update(self, package: str, done: int) -> None:
        """Moves the bar."""
        with self._lock:
            self._done[package] = max(done, self._done.get(package, 0))
            if self._task is not None:
                self._progress.update(self._task, completed=sum(self._done.values()))

    def finish(self, package: str, size: int, files: int) -> None:
        """Counts the whole package."""
        self.update(package, size)

    def note(self, text: str) -> None:
        """Prints the line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()


def reporter(stream: TextIO | None = None) -> Reporter:
    """Returns a bar if `stream` (standard error) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return Bar() if stream.isatty() else Lines(stream)


def megabytes(size: int) -> str:
    """Returns a size for people, for example `12.7 MB` (10^6 bytes)."""
    return f"{size / 1e6:.1f} MB"
