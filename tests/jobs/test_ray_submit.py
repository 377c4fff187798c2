"""The jobs run on a cluster through ``ray job submit``, as the README says."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2v.datapipe.base.assets import asset, fetch

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NAMES = ("man-clip", "man-photo")
pytestmark = [pytest.mark.ray, pytest.mark.assets]

TOO_EARLY = "No available agent to submit job, please try again later"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local head node with a dashboard and, as Ray has it by default, a token."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as out:
        head = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
             f"--dashboard-port={dashboard}",
             # Ray's own choice is one port, which another Ray of this machine may have.
             f"--dashboard-agent-listen-port={agent}", "--object-store-memory=200000000",
             "--disable-usage-stats", "--node-ip-address=127.0.0.1"],
            env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                break
        assert head.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.5)
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(60)


def submit(cluster: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """As the README says: ``jobs/`` travels, all paths are absolute."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--working-dir", "jobs", "--",
             sys.executable, *command],
            cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        # The dashboard answers before the agent that takes jobs is there, and Ray says so.
        if TOO_EARLY not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


@pytest.mark.timeout(600)
def test_curation_and_training_run_through_ray_job_submit(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    fetch(NAMES)
    rows = [{"video_id": name, "path": str(asset(name))} for name in NAMES]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curated = submit(
        cluster, "curate.py", "--config", str(ROOT / "jobs/configs/demo.toml"), "--quiet",
        "--set", f"folder={tmp_path / 'run'}", "--set", f'sources=[{{manifest="{manifest}"}}]',
        "--set", "exclusions=[]", "--set", "select.split.heldout_share=0",
        "--set", "engine.actors=1",
    )  # fmt: skip
    assert curated.returncode == 0, (curated.stdout + curated.stderr)[-3000:]
    assert "conservation: holds" in curated.stdout
    shards = tmp_path / "run" / "shards"
    assert (shards / "index" / "samples.parquet").exists()
    trained = submit(
        cluster, "train.py", "--shards", str(shards), "--out", str(tmp_path / "model"),
        "--set", "train.steps=2", "--set", "data.variants=1",
    )  # fmt: skip
    assert trained.returncode == 0, (trained.stdout + trained.stderr)[-3000:]
    assert len((tmp_path / "model" / "metrics.jsonl").read_text().splitlines()) == 2
