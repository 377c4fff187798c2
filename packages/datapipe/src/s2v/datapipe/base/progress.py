"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

Step = Callable[..., None]  # step(n=1, note="")
LINE_EVERY_S = 10.0


@contextmanager
def track(title: str, total: int, *, quiet: bool = False) -> Iterator[Step]:
    """Show how far a loop of ``total`` steps is; yields ``step(n=1, note="")``.

    On a terminal a bar is drawn on standard error. Elsewhere a line is printed at most
    every ten seconds and one at the end, so that logs stay short.
    """
    if quiet:
        yield lambda n=1, note="": None
    elif sys.stderr.isatty():
        with _bar(title, total) as step:
            yield step
    else:
        with _lines(title, total, sys.stderr) as step:
            yield step


class Pace:
    """How fast steps go, counting only those done now."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps = 0

    def step(self, n: int) -> None:
        """Count ``n`` steps."""
        self._steps += n

    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def left(self, steps: int) -> float:
        """Seconds that ``steps`` more will take at this pace; 0 when there is none yet."""
        return self.spent() * steps / self._steps if self._steps else 0.0

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


@contextmanager
def _bar(title: str, total: int) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="", rate="")
        pace = Pace()

        def step(n: int = 1, note: str = "") -> None:
            pace.step(0 if note else n)  # what a note goes with was done before
            progress.update(task, advance=n, note=note, rate=pace.text())

        yield step


@contextmanager
def _lines(title: str, total: int, stream: TextIO) -> Iterator[Step]:
    pace = Pace()
    shown = time.monotonic()
    done = 0

    def line(note: str) -> None:
        left = pace.left(total - done)
        tail = f", about {left:.0f} s left" if left else ""
        rate = f" ({pace.text()})" if pace.text() else ""
        print(
            f"{title}: {done}/{total} in {pace.spent():.0f} s{rate}{tail} {note}".rstrip(),
            file=stream,
            flush=True,
        )

    def step(n: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += n
        pace.step(0 if note else n)  # what a note goes with was done before
        if time.monotonic() - shown >= LINE_EVERY_S:
            shown = time.monotonic()
            line(note)

    yield step
    line("")
