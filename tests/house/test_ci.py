"""CI says what happened: pytest's closing line at the end, and no pass of what did not run."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NO_SKIPS = "S2V_NO_SKIPS"


def run_ci(root: Path, folder: Path, said: str, status: int) -> subprocess.CompletedProcess[str]:
    """Run .ci/run in a project whose `make test` prints `said` and exits with `status`."""
    (folder / ".ci").mkdir()
    shutil.copy(root / ".ci/run", folder / ".ci/run")
    (folder / "said").write_text(said)
    (folder / "Makefile").write_text(f"test:\n\t@cat said; exit {status}\n")
    programs = folder / "bin"
    programs.mkdir()
    for name in ("chromium", "chromedriver"):  # present, so that nothing is installed
        (programs / name).symlink_to(shutil.which("true") or "/bin/true")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [folder / ".ci/run"], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("closing", "status", "expected"),
    [
        ("===== 412 passed, 3 deselected in 702.11s (0:11:42) =====", 0, 0),
        ("===== 1 failed, 411 passed in 702.11s (0:11:42) =====", 2, 2),
        ("===== 5 skipped in 0.10s =====", 0, 1),
        ("===== 2 errors in 0.10s =====", 2, 2),
    ],
)
def test_the_last_line_is_the_closing_line_of_pytest(
    root: Path, tmp_path: Path, closing: str, status: int, expected: int
) -> None:
    done = run_ci(root, tmp_path, f"collected\n{closing}\nafterwards\n", status)
    assert done.stdout.splitlines()[-1] == closing
    assert done.returncode == expected


@pytest.mark.parametrize("status", [0, 2])
def test_without_a_closing_line_nothing_has_passed(root: Path, tmp_path: Path, status: int) -> None:
    done = run_ci(root, tmp_path, "lint failed\n", status)
    assert done.returncode != 0
    assert "no test result" in done.stderr


def run_tests(
    root: Path,
    folder: Path,
    tests: str,
    *,
    refuse: str = "0",
    before: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `tests` below this suite's conftest; `before` is called in the child, first."""
    (folder / "tests").mkdir()
    shutil.copy(root / "tests/conftest.py", folder / "tests/conftest.py")
    (folder / "tests/test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env=os.environ | {NO_SKIPS: refuse},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=before,
    )


@pytest.mark.parametrize(
    ("decorator", "refuse", "expected"),
    [
        ("@pytest.mark.skip(reason='no chromium')", "1", 1),
        ("@pytest.mark.skip(reason='no chromium')", "0", 0),
        ("@pytest.mark.gpu\n@pytest.mark.skip(reason='no CUDA device')", "1", 0),
    ],
)
def test_where_all_is_there_a_skipped_test_fails_the_run(
    root: Path, tmp_path: Path, decorator: str, refuse: str, expected: int
) -> None:
    tests = f"import pytest\n\n{decorator}\ndef test_a():\n    pass\n\ndef test_b():\n    pass\n"
    done = run_tests(root, tmp_path, tests, refuse=refuse)
    assert done.returncode == expected, done.stdout + done.stderr
    assert ("NOT RUN: 1" in done.stdout) == ("gpu" not in decorator)


CTRL_C = """
import os, signal, subprocess, sys

import pytest

def test_here():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)

def test_in_a_child():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert done.returncode == -signal.SIGINT
"""


def test_tests_of_ctrl_c_hold_in_a_ci_that_was_started_in_the_background(
    root: Path, tmp_path: Path
) -> None:
    done = run_tests(
        root, tmp_path, CTRL_C, before=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_share_of_the_time_is_of_tests_that_are_there(root: Path) -> None:
    """A renamed folder or file would be booked on "jobs" without a word."""
    tree = ast.parse((root / "tests/conftest.py").read_text(encoding="utf-8"))
    said = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"SHARES", "ELSEWHERE"}
    }
    for folder in said["SHARES"].keys() - {"production"}:
        assert list((root / "tests" / folder).glob("test_*.py")), folder
    for name, folder in said["ELSEWHERE"].items():
        assert (root / "tests" / name).is_file(), name
        assert folder in said["SHARES"], name
