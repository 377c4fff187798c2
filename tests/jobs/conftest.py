"""What the jobs' tests share: a Ray that stays up, and one real curation of the demo's input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from finished_run import ROOT, Run, job

sys.path.insert(0, str(ROOT / "jobs"))  # the jobs are scripts, not a package


#: Starts Ray as every job does by itself, says where it is, and ends it when nobody is left.
STAYS = """
import sys
import ray
from s2v.datapipe.engine.execute import start_ray, stop_ray
start_ray(2)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
stop_ray()
"""


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """RAY_ADDRESS of a Ray of two CPUs: starting one takes as long as many a job.

    Of every job at least one test starts a Ray of its own, as on a laptop; the others share this
    one, as on a cluster. Its workers have the environment of this moment, and two CPUs are few for
    the demo's run.
    """
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", STAYS],
        cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C ends the tests first; its input closes with this process
    ) as head:  # fmt: skip
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        assert address, "Ray did not start"
        yield address
        head.communicate()  # closes its input


@pytest.fixture
def ray_here(shared_ray: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs that are called in this process use the shared Ray; it is left afterwards."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", shared_ray)
    yield
    ray.shutdown()


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
