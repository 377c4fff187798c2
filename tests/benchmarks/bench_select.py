"""What it costs to select again after a changed threshold: no model, no vector, no search.

    python tests/benchmarks/bench_select.py [--subjects 10000 ...] [--run FOLDER] [--write]

Makes runs of so many subjects (made_run.py, in a process of its own), moves every bound, and
selects again by the command ``s2v-data select --no-write``, whose wall time, CPU seconds and peak
memory count from the start of its process; the part of it that selects is timed inside. ``--run``
does the same with a copy of a finished run, and there also without ``--no-write``; ``--write``
puts the table into docs/pairs.md.
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

from s2v.datapipe import verifying
from s2v.datapipe.cli import main as s2v_data
from s2v.datapipe.pair import steps as steps_module
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import BANKS, SelectSettings

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
    command(at, ["--no-write"], may_search=True)
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


def inside(folder: Path, arguments: list[str]) -> int:
    """The command itself, in a process of its own; what it selected goes to ``<folder>.json``.

    Raises:
        AssertionError: it searched again.
    """
    select, told = verifying.select, folder.with_name(f"{folder.name}.json")

    def timed(*args: Any, **more: Any) -> Selection:
        began = time.perf_counter()
        selection = select(*args, **more)
        found = {
            "subjects": selection.subjects.num_rows,
            "pairs": selection.pairs.num_rows,
            "accepted": int(np.count_nonzero(selection.pairs["accepted"].to_numpy())),
            "identities": len(selection.subjects["identity_id"].unique()),
            "samples": selection.samples.num_rows,
            "function_s": round(time.perf_counter() - began, 1),
        }
        told.write_text(json.dumps(found))
        return selection

    searched = mock.patch.object(
        steps_module, "find_candidates", side_effect=AssertionError("searched")
    )
    with searched, mock.patch.object(verifying, "select", timed):
        return s2v_data(arguments)


def command(folder: Path, arguments: list[str], *, may_search: bool = False) -> dict[str, Any]:
    """``s2v-data select`` in a process of its own, its start and all imports included."""
    config = folder.with_name(f"{folder.name}.toml")
    given = ["select", "--config", str(config), "--quiet", "--json", *arguments]
    plain = "import sys; from s2v.datapipe.cli import main; sys.exit(main(sys.argv[1:]))"
    how = ["-c", plain] if may_search else [__file__, "--inside", str(folder), "--"]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        pid = subprocess.Popen([sys.executable, *how, *given], stdout=out).pid
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


def measured(folder: Path, name: str, arguments: list[str]) -> dict[str, Any]:
    """One command after a move of every bound."""
    move(folder)
    used = command(folder, arguments)
    found = {"run": name, **json.loads(folder.with_name(f"{folder.name}.json").read_text()), **used}
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
    for hidden in ("--make", "--inside"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("given", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        sys.exit(inside(args.inside, args.given))
    if args.make:
        from made_run import make

        make(args.make, args.subjects[0])
        return
    results = []
    if args.run:
        folder = keep(args.run)
        results.append(measured(folder, "demo", ["--no-write"]))
        shutil.rmtree(folder.parent)
        folder = keep(args.run)
        results.append(measured(folder, "demo, with its shards", []))
        shutil.rmtree(folder.parent)
    for n in args.subjects:
        with tempfile.TemporaryDirectory(prefix="bench-select-", dir=args.scratch) as at:
            folder = Path(at) / "run"
            # Apart: a child is charged with the peak of the process that it was forked from.
            make_it = [sys.executable, __file__, "--make", str(folder), "--subjects", str(n)]
            subprocess.run(make_it, check=True)
            results.append(measured(folder, "made", ["--no-write"]))
    if args.write:
        replace_generated(PAGE, "select", table_of(results))


if __name__ == "__main__":
    main()
