"""A job started as a user starts it, and the tables of the run that it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


def job(name: str, *arguments: str, timeout: float = 1500) -> subprocess.CompletedProcess[str]:
    """Run a job as a user does, from the repository's root."""
    return subprocess.run(
        [sys.executable, f"jobs/{name}.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


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
