"""One real curation of the demo's input, shared by all tests that look at its result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "jobs"))  # the jobs are scripts, not a package


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


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole demo's curation: film, trailer, clips, portraits, damaged files."""
    from demo_inputs import make_inputs

    from s2v.datapipe.base.assets import fetch

    fetch("demo")
    base = tmp_path_factory.mktemp("demo")
    manifest = make_inputs(base / "input", quiet=True)
    done = job(
        "curate", "--config", "jobs/configs/demo.toml", "--quiet",
        "--set", f"folder={base / 'run'}", "--set", f'sources=[{{manifest="{manifest}"}}]',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Run(base / "run")
