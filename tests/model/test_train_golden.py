"""Thirty steps of ``ci_tiny`` give the losses written down: what moves them is meant to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_thirty_steps_give_the_golden_losses() -> None:
    """In a process of its own: no other test's threads or seeds stand behind it."""
    done = subprocess.run(
        [sys.executable, str(HERE / "golden.py")], capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 steps" in done.stdout


def test_the_golden_run_learns_something() -> None:
    golden = json.loads((HERE / "golden_ci_tiny.json").read_text())
    assert len(golden) == 30
    assert sum(golden[-5:]) < 0.97 * sum(golden[:5])
