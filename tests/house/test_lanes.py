"""`make test` runs two processes and hides nothing that happens in either."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

#: Half a suite: something of all that can happen to a test, and something that was left out.
HALF = """
import warnings
import pytest

@pytest.fixture
def breaks():
    raise RuntimeError("no fixture in {name}")

@pytest.fixture
def breaks_after():
    yield
    raise RuntimeError("no end in {name}")

def test_passes():
    warnings.warn("a word of {name}", UserWarning)

def test_fails():
    print("said in {name}")
    assert 1 == 2, "wrong in {name}"

@pytest.mark.skip(reason="nothing for {name}")
def test_skips(): ...

@pytest.mark.xfail(reason="known in {name}", strict=True)
def test_is_known_to_fail():
    assert False

def test_needs(breaks): ...

def test_ends_badly(breaks_after): ...

@pytest.mark.prove
def test_is_long(): ...
"""
PASSES = "def test_{n}():\n    pass\n"
FIRST, SECOND = "tests/model/test_first.py", "tests/jobs/test_second.py"


def project(root: Path, folder: Path, **files: str) -> Path:
    """A project with this suite's conftest and lanes, and `first` and `second` as its tests."""
    for name, text in {"first": PASSES, "second": PASSES, **files}.items():
        path = folder / (FIRST if name == "first" else SECOND)
        path.parent.mkdir(parents=True)
        path.write_text(text.replace("{n}", name).replace("{name}", name))
    for name in ("conftest.py", "lanes.py"):
        shutil.copy(root / "tests" / name, folder / "tests" / name)
    (folder / "pytest.ini").write_text(
        "[pytest]\ntestpaths = tests\nmarkers = prove: long\n"
        "addopts = -ra -m 'not prove' --import-mode=importlib\n"
    )
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "tests/lanes.py", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "S2V_NO_SKIPS"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the project's tests; exit status and all that was said."""
    started = start(folder, *arguments)
    said, _ = started.communicate(timeout=120)
    return started.returncode, said


def closing(said: str) -> str:
    return said.strip().splitlines()[-1]


def test_all_that_happens_in_either_half_is_told_as_pytest_tells_it(
    root: Path, tmp_path: Path
) -> None:
    folder = project(root, tmp_path, first=HALF, second=HALF)
    status, said = run(folder, "--junitxml=all.xml", "--durations=0", "-vv")
    assert status == 1
    assert re.search(
        r"=+ 2 failed, 4 passed, 2 skipped, 2 deselected, 2 xfailed, 2 warnings, 4 errors in ",
        closing(said),
    ), said
    for file, name in ((FIRST, "first"), (SECOND, "second")):
        for words in (f"wrong in {name}", f"said in {name}", f"no fixture in {name}",
                      f"no end in {name}", f"nothing for {name}", f"known in {name}",
                      f"a word of {name}", f"{file}::test_fails"):  # fmt: skip
            assert words in said, words
        assert re.search(rf"s call +{file}::test_passes", said)
    cases = list(ET.parse(folder / "all.xml").getroot().iter("testcase"))  # noqa: S314 # our own
    assert len(cases) == 2 * 6  # all but the one left out
    assert {case.get("classname", "").split(".")[1] for case in cases} == {"model", "jobs"}


@pytest.mark.parametrize("half", ["first", "second"])
def test_one_failure_in_either_half_fails_the_whole(root: Path, tmp_path: Path, half: str) -> None:
    status, said = run(project(root, tmp_path, **{half: "def test_it():\n    assert 0\n"}))
    assert status == 1
    assert "1 failed, 1 passed" in closing(said)


def test_what_passes_in_both_halves_passes(root: Path, tmp_path: Path) -> None:
    folder = project(root, tmp_path)
    status, said = run(folder)
    assert status == 0, said
    assert "2 passed" in closing(said)
    status, said = run(folder, "-k", "second")
    assert status == 0, said
    assert "1 passed, 1 deselected" in closing(said)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("import os\n\ndef test_it():\n    os._exit(0)\n", "status 0 after 0 of 1 tests"),
        ("import os\n\ndef test_it():\n    os.kill(os.getpid(), 9)\n", "status -9"),
        ("import no_such_module\n", "no_such_module"),
        ("import pytest\n\ndef test_it():\n    pytest.exit('enough', 0)\n", "enough"),
    ],
)
def test_a_second_process_that_stops_early_has_not_passed(
    root: Path, tmp_path: Path, second: str, words: str
) -> None:
    status, said = run(project(root, tmp_path, second=second))
    assert status == 1
    assert words in said
    assert "1 passed, 1 error" in closing(said)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_first_process_that_is_ended_leaves_no_second(
    root: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C lets fixtures end what they started; a kill is noticed at the next test."""
    slow = (
        "import os, time, pathlib, pytest\n\n@pytest.fixture(scope='module', autouse=True)\n"
        "def server():\n    pathlib.Path('up').write_text(str(os.getpid()))\n    yield\n"
        "    pathlib.Path('down').touch()\n\n@pytest.mark.parametrize('n', range(600))\n"
        "def test_it(n):\n    time.sleep(0.1)\n"
    )
    folder = project(root, tmp_path, second=slow)
    started = start(folder)
    try:
        assert within(60, lambda: (folder / "up").is_file() and (folder / "up").read_text() != "")
        started.send_signal(how)
        said, _ = started.communicate(timeout=60)
        assert started.returncode == (2 if how == signal.SIGINT else -9), said
        second = Path("/proc") / (folder / "up").read_text()
        assert within(30, lambda: not second.exists())
        assert (folder / "down").exists()
    finally:
        started.kill()
        started.wait()


def within(seconds: float, what: object) -> bool:
    assert callable(what)
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(what())


def test_a_path_or_a_debugger_gets_plain_pytest(root: Path, tmp_path: Path) -> None:
    folder = project(root, tmp_path, second=HALF)
    status, said = run(folder, FIRST)
    assert (status, "1 passed" in closing(said)) == (0, True), said
    status, said = run(folder, "--collect-only", "-q")
    assert status == 0
    assert f"{FIRST}::test_first" in said
    assert f"{SECOND}::test_fails" in said


def test_what_the_second_process_is_to_run_is_there(root: Path) -> None:
    """A renamed folder or file would move to the first process without a word."""
    tree = ast.parse((root / "tests/lanes.py").read_text(encoding="utf-8"))
    said = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in {"SECOND", "LAST"}
    }
    for name in said["SECOND"] + said["LAST"]:
        path = root / "tests" / name
        assert path.is_file() if path.suffix else list(path.glob("test_*.py")), name
