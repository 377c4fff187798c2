"""Progress with time left: a bar on a terminal, plain lines elsewhere."""

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
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="")

        def step(n: int = 1, note: str = "") -> None:
            progress.update(task, advance=n, note=note)

        yield step


@contextmanager
def _lines(title: str, total: int, stream: TextIO) -> Iterator[Step]:
    began = time.monotonic()
    shown = began
    done = 0

    def line(note: str) -> None:
        spent = time.monotonic() - began
        left = spent * (total - done) / done if done else 0.0
        tail = f", about {left:.0f} s left" if 0 < done < total else ""
        print(
            f"{title}: {done}/{total} in {spent:.0f} s{tail} {note}".rstrip(),
            file=stream,
            flush=True,
        )

    def step(n: int = 1, note: str = "") -> None:
        nonlocal done, shown
        done += n
        if time.monotonic() - shown >= LINE_EVERY_S:
            shown = time.monotonic()
            line(note)

    yield step
    line("")
