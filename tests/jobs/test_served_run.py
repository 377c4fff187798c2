"""A run that serves its vision-language model itself: up while clips are measured, then gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_run import ROOT, Run
from tiny_prompts import choice_prompt
from tiny_server import MODEL, tiny_settings, why_not_here
from tiny_vlm import build_tiny_vlm

from s2v.datapipe.base.assets import asset, fetch

pytestmark = [pytest.mark.ray, pytest.mark.assets, pytest.mark.vllm]
SOURCES = ("man-clip", "obama-1")
#: They name no subject: what is measured of one has its tests elsewhere.
CAPTIONS = ["It is bright here, and nothing moves.", "It is dark here, and all is still."]


class Served:
    """A run whose captioner is a tiny model on a server of the run's own."""

    def __init__(self, base: Path) -> None:
        fetch("demo")
        self.model = build_tiny_vlm(base / "tiny-vlm")
        self.logs = base / "logs"
        self.run = Run(base / "run")
        self.config = base / "served.toml"
        served = tiny_settings(self.model).model_dump(exclude_none=True, exclude={"log_folder"})
        environment = served.pop("environment")
        prompt = choice_prompt(base / "caption.toml", "What is this?", "caption", CAPTIONS)
        sections = [
            "".join(f'[[sources]]\npath = "{asset(name)}"\n' for name in SOURCES),
            # Four logical CPUs on two real ones: the server waits while clips are looked at.
            "[engine]\ncpus = 4\nactors = 1\n",
            f'[roles.captioner]\nbackend = "vlm"\nprompt = "{prompt}"\n',
            "[serve]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in served.items() if v != ""),
            f'log_folder = "{self.logs}"\n',
            "[serve.environment]\n" + "".join(f'{k} = "{v}"\n' for k, v in environment.items()),
        ]
        self.config.write_text(f'folder = "{self.run.folder}"\n' + "".join(sections))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "jobs/curate.py", "--config", str(self.config), "--quiet"],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def finish(self) -> str:
        run = self.start()
        out, err = run.communicate(timeout=600)
        assert run.returncode == 0, err[-3000:]
        return out

    def processes(self) -> list[int]:
        """Of this run's servers, wherever they were started from."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--model={self.model}".encode() in words:
                found.append(int(folder.name))
        return found

    def gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        return not self.processes()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if reason := why_not_here():
        pytest.skip(reason)
    made = Served(tmp_path_factory.mktemp("served"))
    yield made
    assert made.gone_within(60), "a server outlived the tests"


@pytest.mark.timeout(900)
def test_a_killed_run_leaves_no_server_and_the_next_one_ends_its_own(served: Served) -> None:
    run = served.start()
    deadline = time.monotonic() + 400
    while not served.processes():
        assert run.poll() is None, run.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no server within 400 s"
        time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert served.gone_within(60), "a server outlived its driver"

    out = served.finish()
    assert served.gone_within(60), "a server outlived its run"
    assert "conservation: holds" in out
    log = max(served.logs.glob("*.log"), key=lambda path: path.stat().st_mtime).read_text()
    assert "POST /v1/chat/completions" in log, "the server was asked"
    clips = {row["clip_id"] for row in served.run.rows("clips")}
    captions = served.run.rows("captions")
    gated = {row["clip_id"] for row in served.run.rows("quality") if row["gate"]}
    assert clips == {row["clip_id"] for row in captions} | gated
    assert {row["captioner"] for row in captions} == {f"vllm:{MODEL}"}
    assert {row["caption"] for row in captions} <= set(CAPTIONS)


@pytest.mark.timeout(300)
def test_a_run_that_has_nothing_to_ask_starts_no_server(served: Served) -> None:
    before = set(served.logs.iterdir())
    assert before, "the first test has run"
    assert "measured now: {}" in served.finish()
    assert set(served.logs.iterdir()) == before
    # Another embedder measures its own stage only: no caption is open, so nobody is asked.
    for commit in served.run.folder.glob("measure/embed-*/*.json"):
        commit.unlink()
    assert "embed:" in served.finish()
    assert set(served.logs.iterdir()) == before
