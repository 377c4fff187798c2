"""All tests in two processes side by side, seen as one pytest session: ``python tests/lanes.py``.

The session that a user sees collects and runs one half of the tests. It starts a second pytest for
the other half, mostly tests that start whole runs, and tells what happens there as its own:
progress, failures, skips, warnings, times, ``--junitxml`` and ``--durations``, pytest's closing
line and the exit status. A second process that dies, stops early or loses a test is an error of the
session. Arguments are pytest's.

With a path, as in ``make test ARGS=tests/house``, or with options that want one process (a
debugger, ``-s``, ``--lf``), it is plain pytest. So is ``pytest`` itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Generator
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest
from _pytest.terminal import TerminalReporter, WarningReport
from _pytest.warnings import warning_record_to_str

#: Folders and files under tests/ that the second process runs: those that wait for Ray, for servers
#: and for whole runs, about half the time. What several of them share (the demo's run, a vLLM)
#: must not be made in both.
SECOND = ("jobs", "vllm", "faults", "datapipe/test_vlm_real.py")
#: Of these, what it runs last: the demo's run uses both cores, and by then the first is done.
LAST = ("jobs/test_demo_plan.py", "jobs/test_demo_triplets.py")
#: Options of pytest that want one process, and what they are when nobody asked for them.
ALONE = {
    "collectonly": False, "usepdb": False, "trace": False, "showfixtures": False,
    "show_fixtures_per_test": False, "setupplan": False, "lf": False, "failedfirst": False,
    "newfirst": False, "stepwise": False, "stepwise_skip": False, "cacheshow": None,
    "basetemp": None, "capture": "fd",
}  # fmt: skip
WORD = "--second-lane="


class Lane:
    """What both processes share: each looks only at its own half."""

    second = False

    def pytest_ignore_collect(self, collection_path: Path, config: pytest.Config) -> bool | None:
        """Leave out the other half; a folder is looked into if any of it may be of this half."""
        tests = config.rootpath / "tests"
        inside = any(collection_path.is_relative_to(tests / name) for name in SECOND)
        if self.second and not inside:
            inside = any((tests / name).is_relative_to(collection_path) for name in SECOND)
        return True if inside != self.second else None


class SecondLane(Lane):
    """The second process: writes down what happens, a JSON object a line."""

    second = True

    def __init__(self, told: Path) -> None:
        self.told: TextIO = told.open("a", encoding="utf-8", buffering=1)
        self.parent = os.getppid()
        self.config: pytest.Config

    def tell(self, **what: Any) -> None:
        """Append a line."""
        self.told.write(json.dumps(what, default=str) + "\n")

    def _report(self, report: pytest.TestReport | pytest.CollectReport) -> Any:
        return self.config.hook.pytest_report_to_serializable(config=self.config, report=report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Say what pytest understands as: another process owns the cache and the XML file."""
        self.config = config
        config.workerinput = {}  # type: ignore[attr-defined] # the name is pytest-xdist's

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Put off what is to be last."""
        last = [config.rootpath / "tests" / name for name in LAST]
        items.sort(key=lambda item: item.path in last)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Tell of tests that -k or -m left out."""
        self.tell(deselected=[item.nodeid for item in items])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell how many tests there will be."""
        self.tell(collected=len(session.items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Tell of modules that could not be read or skip themselves."""
        if not report.passed:
            self.tell(module=self._report(report))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, nodeid: str
    ) -> None:
        """Tell of a warning."""
        place = (warning_message.filename, warning_message.lineno)
        self.tell(warning=[warning_record_to_str(warning_message), nodeid, place])

    def pytest_runtest_logstart(self) -> None:
        """End when the first process is gone, whichever way it went."""
        if os.getppid() != self.parent:
            pytest.exit("the first process is gone", returncode=int(pytest.ExitCode.INTERRUPTED))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell of a test's setup, call or teardown."""
        self.tell(test=self._report(report))


class FirstLane(Lane):
    """The session that a user sees."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.collected = 0
        self.finished = 0
        self.failed = False
        self._folder = Path()
        self._read = 0
        self._held: list[dict[str, Any]] = []
        self._reporter: TerminalReporter

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Start the second process, or stand aside."""
        config = session.config
        told_where = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
        if told_where or any(config.getoption(name, no) != no for name, no in ALONE.items()):
            config.pluginmanager.unregister(self)
            return
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        self._reporter = reporter
        self._folder = Path(tempfile.mkdtemp(prefix="s2v-lane-"))
        (self._folder / "told").touch()
        arguments = map(str, config.invocation_params.args)
        with (self._folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, f"{WORD}{self._folder / 'told'}", *arguments],
                cwd=config.invocation_params.dir, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches it once, from here
            )  # fmt: skip

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """After each file, tell of the second process's finished files."""
        result = yield
        if nextitem is None or nextitem.path != item.path:
            self._listen(item.session)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After the last of its own, wait for the other's."""
        result = yield
        assert self.process is not None
        while self.process.poll() is None:
            time.sleep(0.2)
            self._listen(session)
            if session.shouldfail:  # --maxfail, -x
                raise session.Failed(session.shouldfail)
        self._listen(session, all_of_it=True)
        if trouble := self._trouble(session.config):
            self._error(session.config, trouble)
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Leave no process and no file, however the session ends."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # its fixtures end their servers
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _listen(self, session: pytest.Session, *, all_of_it: bool = False) -> None:
        """Tell what was written since; tests by whole files, so that lines stay together."""
        with (self._folder / "told").open("rb") as told:
            told.seek(self._read)
            new = told.read()
        new = new[: new.rfind(b"\n") + 1]  # the last line may still be in the writing
        self._read += len(new)
        for line in new.splitlines():
            self._hear(json.loads(line), session)
        files = [list(group) for _, group in groupby(self._held, key=_file)]
        self._held = [] if all_of_it or not files else files.pop()
        for data in (data for file in files for data in file):
            self._tell_test(data, session.config)

    def _hear(self, said: dict[str, Any], session: pytest.Session) -> None:
        stats = self._reporter.stats
        if "test" in said:
            self._held.append(said["test"])
        elif "collected" in said:
            self.collected = said["collected"]
            session.testscollected += self.collected  # the share that the progress is of
        elif "deselected" in said:
            left_out = [SimpleNamespace(nodeid=node) for node in said["deselected"]]
            stats.setdefault("deselected", []).extend(left_out)
        elif "warning" in said:
            message, node, (file, number) = said["warning"]
            stats.setdefault("warnings", []).append(WarningReport(message, node, (file, number)))
        else:
            report = _restored(session.config, said["module"])
            self.failed |= report.failed
            session.config.hook.pytest_collectreport(report=report)

    def _tell_test(self, data: dict[str, Any], config: pytest.Config) -> None:
        report = _restored(config, data)
        of = {"nodeid": report.nodeid, "location": report.location}
        if report.when == "setup":
            config.hook.pytest_runtest_logstart(**of)
        config.hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            self.finished += 1
            config.hook.pytest_runtest_logfinish(**of)
        self.failed |= report.failed

    def _trouble(self, config: pytest.Config) -> str:
        """Return why what was told of the second process cannot be all of it; empty if it is."""
        assert self.process is not None
        status = self.process.returncode
        some = bool(config.getoption("maxfail")) and self.failed
        whole = self.finished == self.collected or some
        if whole and status in {0, 5}:
            return ""
        unread = status == 2 and not self.collected  # a module with an error, told already
        if self.failed and (unread or (whole and status == 1)):
            return ""
        output = (self._folder / "output").read_text(encoding="utf-8", errors="replace")
        return (
            f"the second process ended with status {status} after {self.finished} of "
            f"{self.collected} tests; its output ends with:\n{output[-6000:]}"
        )

    def _error(self, config: pytest.Config, trouble: str) -> None:
        node = f"tests/lanes.py: {', '.join(SECOND)}"
        report = pytest.CollectReport(node, "failed", trouble, [])
        config.hook.pytest_collectreport(report=report)


def _file(data: dict[str, Any]) -> str:
    return str(data["nodeid"]).partition("::")[0]


def _restored(config: pytest.Config, data: dict[str, Any]) -> Any:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    if isinstance(report.longrepr, list):  # file, line and reason of a skip; JSON has no tuples
        report.longrepr = tuple(report.longrepr)
    return report


def main(arguments: list[str]) -> int:
    """Run pytest with `arguments`; its exit status."""
    if arguments and arguments[0].startswith(WORD):
        told = Path(arguments.pop(0).removeprefix(WORD))
        return int(pytest.main(arguments, plugins=[SecondLane(told)]))
    return int(pytest.main(arguments, plugins=[FirstLane()]))


if __name__ == "__main__":
    del sys.path[0]  # this folder, where a folder named like a package passes for it
    sys.exit(main(sys.argv[1:]))
