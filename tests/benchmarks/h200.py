"""A training step on one GPU, and what bounds it: one script for a machine that has one.

    python tests/benchmarks/h200.py --json h200.json [--only ceilings,attention,step,...]
        [--budget-s 540] [--repeats 2] [--after h200.json] [--toy]
    python tests/benchmarks/h200.py --write h200.json ...  # into docs/benchmarks.md

The packages' sources on PYTHONPATH, and torch, numpy, pydantic and safetensors are all it needs;
neither Ray nor transformers. diffusers, where it can be imported, is measured in the same run
on the same inputs. Every row is written as soon as it is known, so that a run that is cut off
leaves what it had, and ``--after`` goes on from it: all of it takes three calls of ten minutes.
Sections:

    versions    of everything, and the device
    ceilings    a bf16 product of 8192 cubed and a copy, on random numbers: what the chip gives
    attention   scaled_dot_product_attention by kernel, forward and backward, checked against fp64
    step        Wan-1.3B at 480p, 81 frames, 0 and 4 references, eager and compiled, with nothing,
                products and attention, or nothing but inputs kept; beside diffusers' network
    mmdit       the paper's network at 1.6 billion parameters
    mixed       buckets by turns: tokens per second and graphs compiled

``--toy`` is the same on a CPU at sizes of seconds, so that the script cannot rot; its times mean
nothing and its MFU is null.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from h200_cases import Bench, mixed, mmdit, steps  # noqa: E402 - beside it
from h200_kernels import attention, ceilings  # noqa: E402 - beside it

PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
Row = dict[str, Any]
SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ceilings": ceilings,
    "attention": attention,
    "step": steps,
    "mmdit": mmdit,
    "mixed": mixed,
}


def versions(bench: Bench) -> Row:
    """What ran where."""
    found: Row = {"section": "versions", "python": platform.python_version(), "toy": bench.toy}
    for name in ("torch", "triton", "transformers", "diffusers", "numpy", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if bench.device.type == "cuda":
        facts = torch.cuda.get_device_properties(bench.device)
        found |= {
            "device": torch.cuda.get_device_name(bench.device),
            "memory_gib": round(facts.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "peak_tflops": None if bench.peak is None else bench.peak / 1e12,
        }
    return found


def measure(bench: Bench, sections: list[str], budget_s: float, out: Path | None) -> list[Row]:
    """Run the sections in order; those for which no time is left say so."""
    began = time.monotonic()
    rows = [versions(bench)]
    for name in sections:
        walk = SECTIONS[name](bench)
        while True:
            if time.monotonic() - began > budget_s:
                rows.append({"section": name, "case": "rest", "error": "no time left"})
                break
            try:
                row = next(walk)
            except StopIteration:
                break
            rows.append({"section": name, **row})
            print(_line(rows[-1]), flush=True)
            _keep(out, rows)
    _keep(out, rows)
    return rows


def joined(files: list[list[Row]]) -> list[Row]:
    """Rows of several calls: each case once, a figure before a failure.

    Raises:
        SystemExit: they are of different machines or versions.
    """
    if any(rows[0] != files[0][0] for rows in files):
        raise SystemExit("--write: the files are of different machines or versions")
    found: dict[tuple[str, str], Row] = {}
    for row in (row for rows in files for row in rows[1:]):
        key = (row["section"], row["case"])
        if key not in found or "error" in found[key]:
            found[key] = row
    measured = [row for row in found.values() if row["case"] != "rest"]
    return [files[0][0], *measured]


def _keep(out: Path | None, rows: list[Row]) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = out.with_name(f"{out.name}.tmp")
        aside.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        aside.replace(out)


def _line(row: Row) -> str:
    said = [f"{row['section']:<10} {row['case']:<58}"]
    said += [row["error"]] if "error" in row else []
    for key, unit in (
        ("seconds", "s"), ("tflops", "TFLOP/s"), ("gb_s", "GB/s"), ("mfu", "MFU"),
        ("hfu", "HFU"), ("peak_gib", "GiB"), ("tokens_s", "tokens/s"), ("error_max", "off"),
    ):  # fmt: skip
        if row.get(key) is not None:
            said.append(f"{row[key]:.4g} {unit}")
    return "  ".join(said)


def main(argv: list[str] | None = None) -> int:
    """Measure, or write a page from what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--only", help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--budget-s", type=float, default=540, help="no new case after (540)")
    parser.add_argument("--repeats", type=int, default=2, help="of each step case (2)")
    parser.add_argument("--after", type=Path, metavar="JSON", help="do not measure its cases anew")
    parser.add_argument("--toy", action="store_true", help="small sizes, on a CPU")
    parser.add_argument(
        "--write", type=Path, metavar="JSON", nargs="+", help="into docs/benchmarks.md"
    )
    arguments = parser.parse_args(argv)
    if arguments.write:
        from generated import replace_generated
        from h200_page import page

        files = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.write]
        replace_generated(PAGE, "gpu", page(joined(files)))
        return 0
    chosen = arguments.only.split(",") if arguments.only else list(SECTIONS)
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"--only {','.join(unknown)}: known are {', '.join(SECTIONS)}")
    if not arguments.toy and not torch.cuda.is_available():
        parser.error("no CUDA device here; --toy runs the same at toy size on a CPU")
    bench = Bench.make(toy=arguments.toy, repeats=arguments.repeats)
    if arguments.after:
        before = json.loads(arguments.after.read_text(encoding="utf-8"))
        bench.known = {row["case"]: row for row in before[1:] if "error" not in row}
    with bench:
        rows = measure(bench, chosen, arguments.budget_s, arguments.json)
    failed = [row for row in rows if "error" in row]
    print(f"{len(rows)} rows, {len(failed)} without a figure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
