"""The GPU script runs, here at toy size on a CPU: the day a GPU is lent it must not be broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one toy run wrote."""
    out = tmp_path_factory.mktemp("h200") / "rows.json"
    command = [sys.executable, str(HERE / "h200.py"), "--toy", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


def test_every_case_of_the_gpu_script_runs(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if "error" in row] == []
    found = dict.fromkeys(("ceilings", "attention", "step", "mmdit", "mixed"), 0)
    for row in rows[1:]:
        found[row["section"]] += 1
    assert found == {"ceilings": 2, "attention": 1, "step": 6 + 4, "mmdit": 2, "mixed": 1}


def test_three_calls_of_ten_minutes_make_one_table(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A call goes on from what was measured before, and the page has every case once."""
    sys.path.insert(0, str(HERE))
    try:
        from h200 import joined, main
    finally:
        sys.path.remove(str(HERE))
    known = [{**row, "seconds": 17.0} for row in rows if row["section"] in ("versions", "mixed")]
    (tmp_path / "first.json").write_text(json.dumps(known))
    again = ["--toy", "--only", "mixed", "--json", str(tmp_path / "second.json")]
    assert main([*again, "--after", str(tmp_path / "first.json")]) == 0
    second = json.loads((tmp_path / "second.json").read_text())
    assert [row["seconds"] for row in second[1:]] == [17.0]
    failed = [rows[0], {**rows[-2], "error": "no room"}]
    table = joined([failed, rows, [rows[0], *rows[1:3]]])
    assert sorted(row["case"] for row in table[1:] if "error" not in row) == sorted(
        {row["case"] for row in rows[1:]}
    )


def test_no_utilisation_is_claimed_of_a_cpu(rows: list[dict[str, Any]]) -> None:
    steps = [row for row in rows if row["section"] == "step"]
    assert all(row["mfu"] is None and row["hfu"] is None for row in steps)
    assert all(row["tflops"] > 0 for row in steps)


def test_a_toy_run_gives_the_page_no_figure(rows: list[dict[str, Any]]) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from h200_page import NONE, page
    finally:
        sys.path.remove(str(HERE))
    assert page(rows) == NONE
    real = [{**rows[0], "toy": False, "device": "NVIDIA H200"}, *rows[1:]]
    shown = page(real)
    assert "ours, 4 references, compiled, recompute full, run 1" in shown
    assert "Ours over diffusers" in shown
