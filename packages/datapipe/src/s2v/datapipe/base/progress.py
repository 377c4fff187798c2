"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Step = Callable[..., None]  # step(n=1, note="")
LINE_EVERY_S = 10.0
SILENT_S = 120.0  # without a line off a terminal, at most


@contextmanager
def track(title: str, total: int, *, quiet: bool = False) -> Iterator[Step]:
    """Show how far a loop of ``total`` steps is; yields
    ``step(n=1, note="", before=False)``; what was done ``before`` is no part of the pace.

    On a terminal a bar is drawn on standard error. Elsewhere a line is printed at most
    every ten seconds, at least every two minutes, and one at the end, so that logs stay short.
    """
    if quiet:
        yield lambda n=1, note="", before=False: None
    elif sys.stderr.isatty():
        with _bar(title, total) as step:
            yield step
    else:
        with _lines(title, total, sys.stderr) as step:
            yield step


class Pace:
    """How fast steps go, counting only those done now."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._steps = 0

    def step(self, n: int) -> None:
        """Count ``n`` steps."""
        self._steps += n
        if n:
            self._last = time.monotonic()

    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def quiet(self) -> float:
        """Seconds since the last step."""
        return time.monotonic() - self._last

    def left(self, steps: int) -> float | None:
        """Seconds that ``steps`` more will take at this pace; ``None`` when there is none yet.

        Between steps they run down to none; a step that takes long does not add to them.
        """
        if not self._steps:
            return None
        each = (self._last - self._began) / self._steps
        return max(0.0, each * steps - self.quiet())

    def text(self) -> str:
        """Such as ``2.5/s`` or ``14/min``; empty before the first step."""
        if not self._steps or not self.spent():
            return ""
        rate = self._steps / self.spent()
        if rate >= 100:
            return f"{rate:,.0f}/s"
        if rate >= 1:
            return f"{rate:.3g}/s"
        return f"{rate * 60:.3g}/min" if rate * 60 >= 1 else f"{rate * 3600:.3g}/h"


def duration(seconds: float) -> str:
    """Such as ``12 s``, ``4 min 20 s``, ``3 h 12 min``, ``2 d 4 h``."""
    whole = round(seconds)
    for size, name, smaller, finer in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name} {rest} {finer}" if rest else f"{whole // size} {name}"
    return f"{whole} s"


@contextmanager
def _bar(title: str, total: int) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    pace = Pace()

    class Left(ProgressColumn):
        """Rich's own forgets steps that are more than half a minute apart."""

        def render(self, task: Task) -> Text:
            left = pace.left(total - int(task.completed))
            if left is None or task.finished:
                return Text("")
            return Text(f"{duration(left)} left", style="cyan")

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        Left(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        task = progress.add_task(title, total=total, note="", rate="")

        def step(n: int = 1, note: str = "", before: bool = False) -> None:
            pace.step(0 if before else n)
            progress.update(task, advance=n, note=note, rate=pace.text())

        yield step


@contextmanager
def _lines(title: str, total: int, stream: TextIO) -> Iterator[Step]:
    pace = Pace()
    shown = time.monotonic()
    done = 0

    def line(note: str) -> None:
        nonlocal shown
        shown = time.monotonic()
        left = pace.left(total - done)
        tail = f", about {duration(left)} left" if left and done < total else ""
        rate = f" ({pace.text()})" if pace.text() else ""
        print(
            f"{title}: {done}/{total} in {duration(pace.spent())}{rate}{tail}"
            f"{f', {note}' if note else ''}",
            file=stream,
            flush=True,
        )

    def step(n: int = 1, note: str = "", before: bool = False) -> None:
        nonlocal done
        done += n
        pace.step(0 if before else n)
        if time.monotonic() - shown >= LINE_EVERY_S:
            line(note)

    def watch() -> None:
        """Say that it is still at work; long silence looks like a hang."""
        while not over.wait(SILENT_S / 4):
            if time.monotonic() - shown >= SILENT_S:
                line(f"at work, the last step {duration(pace.quiet())} ago")

    over = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield step
        line("")
    finally:
        over.set()
        watcher.join()
