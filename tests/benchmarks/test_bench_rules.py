"""The rules of the comparison: a wrong count here would flatter somebody."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # scripts, no package

from bench_data_harness import Cost, Entry, by_turns, measured
from bench_data_tasks import f1
from generated import replace_generated


def test_a_boundary_found_twice_counts_twice() -> None:
    assert f1([100, 101], [100]) == (2 / 3, 0, 1)
    assert f1([98, 202], [100, 200]) == (1.0, 0, 0)
    assert f1([97], [100]) == (0.0, 1, 1)
    assert f1([], []) == (0.0, 0, 0)


def test_the_first_tool_always_runs_first(tmp_path: Path) -> None:
    """A machine that slows down must slow all tools down alike; the warm-up counts for none."""
    ran: list[str] = []

    def entry(name: str) -> Entry:
        def work(_: Path) -> Cost:
            ran.append(name)
            return Cost(float(len(ran)), 0.0, 0.0)

        return Entry(name, work)

    entries = [entry("a"), entry("b")]
    by_turns(entries, 2, tmp_path)
    assert "".join(ran) == "abbaab"
    assert [len(one.costs) for one in entries] == [2, 2]
    assert entries[0].costs[0].wall_s == 4.0


def test_work_in_processes_that_nobody_waits_for_is_free(tmp_path: Path) -> None:
    spin = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}])"
    cost, _ = measured([sys.executable, "-c", start], cwd=tmp_path)
    assert cost.cpu_s > 0.6
    with pytest.raises(RuntimeError, match="exit 3: no such film"):
        measured([sys.executable, "-c", "print('no such film'); raise SystemExit(3)"])


def test_what_people_wrote_on_the_page_is_lost(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- one: begin (by hand) -->\nold\n<!-- one: end -->\nAfter\n")
    replace_generated(page, "one", r"new \1")
    assert page.read_text() == (
        "Before\n<!-- one: begin (by hand) -->\nnew \\1\n<!-- one: end -->\nAfter\n"
    )
    with pytest.raises(ValueError, match="two: begin"):
        replace_generated(page, "two", "text")
