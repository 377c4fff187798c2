"""What holds for every test: a machine without ffmpeg, one thread, no hub, time shares, no skips.

The product brings its own ffmpeg from a package and never calls ffprobe. Tests therefore run with
the system's two programs off the PATH, in this process and in every child.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from _pytest.terminal import TerminalReporter

if TYPE_CHECKING:
    from tiny_server import TinyServer

# An example that is slow because others use the machine has found nothing.
hypothesis.settings.register_profile("s2v", deadline=None)
hypothesis.settings.load_profile("s2v")

HIDDEN = ("ffmpeg", "ffprobe")
# Minutes that the tests of a folder under tests/ may take on two quiet cores, where lanes.py runs
# two tests at a time; the rest shares "jobs". A fixture of the session is booked on the test that
# first asks for it.
SHARES = {
    "datapipe": 5,
    "model": 5,
    "evals": 3,
    "vllm": 2,
    "faults": 1,
    "production": 3,
    "jobs": 7,
}
# Files whose time is that of the production models, or of a vLLM, and not of their folder.
ELSEWHERE = {
    "jobs/test_production_profile.py": "production",
    "jobs/test_served_run.py": "production",
    "datapipe/test_vlm_real.py": "vllm",
}


def path_without(programs: tuple[str, ...], path: str, scratch: Path) -> str:
    """Return `path` with every folder that holds one of `programs` replaced by links to the rest.

    /usr/bin holds ffmpeg, but also git and the browser, so leaving the folder out is no answer.
    """
    folders = []
    for number, name in enumerate(path.split(os.pathsep)):
        folder = Path(name)
        if not any((folder / program).exists() for program in programs):
            folders.append(name)
            continue
        links = scratch / str(number)
        links.mkdir()
        for entry in folder.iterdir():
            if entry.name not in programs:
                (links / entry.name).symlink_to(entry.absolute())
        folders.append(str(links))
    return os.pathsep.join(folders)


def _prepare_environment() -> None:
    scratch = Path(tempfile.mkdtemp(prefix="s2v-path-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # forked children inherit the handler
            shutil.rmtree(scratch, ignore_errors=True)

    atexit.register(remove)
    os.environ["PATH"] = path_without(HIDDEN, os.environ["PATH"], scratch)
    # It would point imageio-ffmpeg, whose program the product uses, at another one.
    os.environ.pop("IMAGEIO_FFMPEG_EXE", None)
    # Two threads on two busy cores were up to twenty times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What a Ray that is started here has anyway; who joins one that runs must ask for it, and Ray
    # reads it when it is imported.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # A shell that starts this with `&` has SIGINT ignored, in every child's child too. Tests press
    # Ctrl-C on their children, and on this process.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_prepare_environment()  # before any test module imports a library that reads these
_spent: defaultdict[str, float] = defaultdict(float)


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServer]:
    """A real vLLM that serves a tiny model; one for all tests, as starting takes half a minute."""
    from tiny_server import tiny_server, why_not_here

    if reason := why_not_here():
        pytest.skip(reason)
    with tiny_server(tmp_path_factory.mktemp("vllm")) as server:
        yield server


def _area(node: str) -> str:
    file = node.partition("::")[0].removeprefix("tests/")
    folder = ELSEWHERE.get(file, file.partition("/")[0])
    return folder if folder in SHARES else "jobs"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Book each test's wall time, fixtures included, on its folder's share."""
    _spent[_area(report.nodeid)] += report.duration


def _skipped(reporter: TerminalReporter) -> list[object]:
    """Skipped tests and modules, but those that only a GPU could run."""
    reports = reporter.stats.get("skipped", [])
    return [report for report in reports if "gpu" not in getattr(report, "keywords", ())]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where skips are refused and a test was skipped: what did not run has not passed."""
    if hasattr(session.config, "workerinput"):
        return  # lanes.py: the first process is told of the skips
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    refuse = os.environ.get("S2V_NO_SKIPS") == "1"
    if reporter and refuse and _skipped(reporter) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print what was not run, and each folder's time beside its share."""
    skipped = _skipped(terminalreporter)
    if skipped:
        terminalreporter.section(f"NOT RUN: {len(skipped)}", red=True, bold=True)
        if os.environ.get("S2V_NO_SKIPS") == "1":
            terminalreporter.line("S2V_NO_SKIPS=1, so the run fails; the reasons stand above")
    if sum(_spent.values()) > 60:
        terminalreporter.section("time against shares")
        for area, minutes in SHARES.items():
            over = "   OVER" if _spent[area] > minutes * 60 else ""
            terminalreporter.line(f"{area:>10} {_spent[area]:6.0f} s of {minutes * 60} s{over}")
        total, share = sum(_spent.values()), 60 * sum(SHARES.values())
        terminalreporter.line(f"{'all':>10} {total:6.0f} s of {share} s")
