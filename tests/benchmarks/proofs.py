"""The long proofs, and a table of what they said.

    python tests/benchmarks/proofs.py [--write] [pytest's arguments]

``--write`` puts the table into docs/proofs.md. The exit status is pytest's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from generated import machine, replace_generated

HOUSE = Path(__file__).resolve().parents[2]
PAGE = HOUSE / "docs" / "proofs.md"


class Told:
    """A plugin that keeps each test's verdict and time, its setup and teardown included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.verdicts: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest three times a test."""
        self.seconds[report.nodeid] += report.duration
        if report.outcome != "passed" or report.when == "call":
            self.verdicts.setdefault(report.nodeid, report.outcome)
        if report.outcome == "failed":
            self.verdicts[report.nodeid] = "failed"

    def table(self, conditions: str) -> str:
        """As Markdown, in the order of file and name."""
        lines = [
            conditions,
            "",
            "| where | what holds | verdict | minutes |",
            "|---|---|---|---|",
        ]
        for test, verdict in sorted(self.verdicts.items()):
            path, _, name = test.partition("::")
            plain, _, case = name.removeprefix("test_").partition("[")
            said = plain.replace("_", " ") + (f" (`{case.rstrip(']')}`)" if case else "")
            minutes = self.seconds[test] / 60
            lines.append(f"| `{path}` | {said} | {verdict} | {minutes:.1f} |")
        good = sum(verdict == "passed" for verdict in self.verdicts.values())
        total = sum(self.seconds.values()) / 60
        lines += ["", f"{good} of {len(self.verdicts)} hold; {total:.0f} minutes in all."]
        return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run pytest on the proofs; write the table where asked."""
    write = "--write" in argv
    rest = [argument for argument in argv if argument != "--write"]
    if write and rest:
        raise SystemExit(f"proofs: --write takes all proofs, not those of {' '.join(rest)}")
    told = Told()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HOUSE, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    conditions = f"{machine()}; torch {torch.__version__}; at commit `{commit or 'unknown'}`."
    os.chdir(HOUSE)
    status = pytest.main(["-m", "prove", "--timeout=7200", *rest], plugins=[told])
    table = told.table(conditions)
    print(table)
    if write:
        replace_generated(PAGE, "proofs", table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
