"""What it costs to select again after a changed threshold: no model, no vector, no search.

    python tests/benchmarks/bench_select.py [--subjects 10000 ...] [--run FOLDER] [--write]

Makes runs of so many subjects (made_run.py), moves every bound, and selects again: by the function,
and by the command ``s2v-data select --no-write`` in a process of its own, whose wall time, CPU
seconds and peak memory count from its start. ``--run`` does the same with a copy of a finished run,
and there also without ``--no-write``; ``--write`` puts the table into docs/pairs.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from generated import machine, replace_generated
from made_run import make

from s2v.datapipe.base.stored import StoredTable
from s2v.datapipe.pair import steps as steps_module
from s2v.datapipe.pair.select import select
from s2v.datapipe.pair.settings import BANKS, SelectSettings
from s2v.datapipe.pair.steps import Steps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pairs.md"


def moved(settings: SelectSettings) -> SelectSettings:
    """All bounds a little tighter."""
    data = settings.model_dump(by_alias=True)
    for bank in BANKS:
        data["pair"][bank]["lower"] += 0.01
        data["pair"][bank]["upper"] -= 0.01
    data["pair"]["crop_bits"] += 1
    data["face"]["lower"] += 0.01
    return SelectSettings.model_validate(data)


def keep(folder: Path) -> Path:
    """A copy of a finished run, selected once more with its own settings, so that steps are kept.

    Returns:
        Its folder; ``<folder>.toml`` beside it is its configuration.
    """
    at = Path(tempfile.mkdtemp(prefix="bench-select-")) / "run"
    shutil.copytree(folder, at)
    said = json.loads((at / "run.json").read_text())["settings"] | {"folder": str(at)}
    at.with_name("run.toml").write_text(toml(said))
    command(at, ["--no-write"])
    return at


def toml(said: dict[str, Any]) -> str:
    """A configuration as a file; what is null is left out."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            pairs = (f"{json.dumps(k)} = {value(v)}" for k, v in one.items() if v is not None)
            return "{" + ", ".join(pairs) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(map(value, one)) + "]"
        return json.dumps(one)

    return "".join(f"{name} = {value(one)}\n" for name, one in said.items() if one is not None)


def settings_of(folder: Path) -> SelectSettings:
    """A run's own settings of the selection."""
    said = json.loads((folder / "run.json").read_text())["settings"]["select"]
    return SelectSettings.model_validate(said)


def move(folder: Path) -> None:
    """Write the configuration of a run with every bound moved, as ``<folder>.toml`` beside it."""
    said = json.loads((folder / "run.json").read_text())["settings"]
    new = moved(settings_of(folder)).model_dump(mode="json", by_alias=True)
    folder.with_name(f"{folder.name}.toml").write_text(
        toml(said | {"folder": str(folder), "select": new})
    )


def again(folder: Path) -> dict[str, Any]:
    """The selection alone: what the function takes that the command calls."""
    began = time.perf_counter()
    state = json.loads((folder / "select" / "views.json").read_text())
    tables = {name: StoredTable(folder / "tables" / f"{name}.parquet") for name in state["files"]}
    steps = Steps(folder / "select", state["digest"])
    with mock.patch.object(steps_module, "find_candidates", side_effect=AssertionError("searched")):
        selection = select(tables, moved(settings_of(folder)), steps=steps)
    return {
        "subjects": selection.subjects.num_rows,
        "pairs": selection.pairs.num_rows,
        "accepted": int(np.count_nonzero(selection.pairs["accepted"].to_numpy())),
        "identities": len(selection.subjects["identity_id"].unique()),
        "samples": selection.samples.num_rows,
        "function_s": round(time.perf_counter() - began, 1),
    }


def command(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """``s2v-data select`` in a process of its own, its start and all imports included."""
    code = "import sys; from s2v.datapipe.cli import main; sys.exit(main(sys.argv[1:]))"
    config = folder.with_name(f"{folder.name}.toml")
    given = ["select", "--config", str(config), "--quiet", "--json", *arguments]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        pid = subprocess.Popen([sys.executable, "-c", code, *given], stdout=out).pid
        _, status, used = os.wait4(pid, 0)
        if status:
            raise SystemExit(f"s2v-data {' '.join(given)} ended with status {status}")
        out.seek(0)
        said: dict[str, Any] = json.loads(out.read())
    if said["measured now"]:
        raise SystemExit(f"{folder}: something was measured: {said['measured now']}")
    return {
        "command_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def measured(folder: Path, name: str) -> dict[str, Any]:
    """The function, then the command, each once after a move of every bound."""
    told = subprocess.run(
        [sys.executable, __file__, "--again", str(folder)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = {"run": name, **json.loads(told.stdout)}
    move(folder)
    found |= command(folder, ["--no-write"])
    print(json.dumps(found), flush=True)
    return found


def table_of(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(results[0])
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    lines += ["| " + " | ".join(_cell(one[name]) for name in names) + " |" for one in results]
    return "\n".join([*lines, "", f"{machine()}, one thread for numpy."])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def main() -> None:
    """Make, and measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--run", type=Path, help="a finished run, beside the made ones")
    parser.add_argument("--write", action="store_true", help="into docs/pairs.md")
    parser.add_argument("--scratch", type=Path, help="a folder for the made runs, on a large disk")
    parser.add_argument("--again", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.again:
        print(json.dumps(again(args.again)))
        return
    results = []
    if args.run:
        folder = keep(args.run)
        results.append(measured(folder, "demo"))
        whole = command(folder, [])
        print(json.dumps({"with shards": whole}), flush=True)
        shutil.rmtree(folder.parent)
    for n in args.subjects:
        with tempfile.TemporaryDirectory(prefix="bench-select-", dir=args.scratch) as at:
            make(Path(at) / "run", n)
            results.append(measured(Path(at) / "run", "made"))
    if args.write:
        replace_generated(PAGE, "select", table_of(results))


if __name__ == "__main__":
    main()
