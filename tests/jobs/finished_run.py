"""A job started as a user starts it, or called here; and the tables of the run that it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]


def environment(ray: str = "") -> dict[str, str]:
    """A job's environment: with a Ray of its own and as it comes, or on the one at an address."""
    found = os.environ | {"OMP_NUM_THREADS": "1"}
    if ray:
        return found | {"RAY_ADDRESS": ray}
    return {k: v for k, v in found.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}


def job(
    name: str, *arguments: str, timeout: float = 1500, ray: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a job as a user does, from the repository's root, with a Ray of its own or on one."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=ROOT,
        env=environment(ray),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def called(
    capfd: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Call a command's ``main`` in this process, which has imported everything already.

    For commands that another test starts as a program: their imports take seconds, which is most
    of what a short one takes. What any library writes to the two streams counts as said.
    """
    capfd.readouterr()
    code = main(list(arguments))
    said = capfd.readouterr()
    return subprocess.CompletedProcess([*arguments], code, said.out, said.err)


class Run:
    """A finished curation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, table: str) -> list[dict[str, object]]:
        """Rows of one of its tables."""
        found: list[dict[str, object]] = pq.read_table(
            self.folder / "tables" / f"{table}.parquet", partitioning=None
        ).to_pylist()
        return found
