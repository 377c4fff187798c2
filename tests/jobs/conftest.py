"""One real curation of the demo's input, shared by all tests that look at its result."""

from __future__ import annotations

import sys

import pytest
from finished_run import ROOT, Run, job

sys.path.insert(0, str(ROOT / "jobs"))  # the jobs are scripts, not a package


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
