"""The golden losses of ``ci_tiny``: thirty steps on drawn shards, written down.

    python tests/model/golden.py          # compare
    python tests/model/golden.py --write  # after a change that is meant to change them

A change of the network, the objective, the data plan, a draw of chance or the optimiser shows here,
however small. Different processors round differently, hence 1e-4 per step; who writes them anew
says in the commit what moved them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILE = HERE / "golden_ci_tiny.json"
TOLERANCE = 1e-4


def losses(folder: Path) -> list[float]:
    """Train ``ci_tiny`` on shards drawn into ``folder``; the loss of every step."""
    from s2v.model import config, metrics
    from s2v.model.progress import quiet
    from s2v.model.train import train

    draw = _drawing()
    samples = [draw.Drawn(i, n) for i in range(4) for n in range(3)]
    samples += [draw.Drawn(i, n, pair="cross", references=1 + n) for i in range(4) for n in (0, 1)]
    shards = folder / "shards"
    shards.mkdir()
    run = folder / "run"
    train(config.load("ci_tiny"), draw.write_shards(shards, samples), run, quiet)
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl")]


def _drawing() -> Any:
    """The drawn samples of all model tests: they stand in conftest.py, which is no module."""
    spec = importlib.util.spec_from_file_location("drawn_samples", HERE / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = losses(Path(folder))
    if arguments.write:
        FILE.write_text(json.dumps([round(x, 7) for x in found], indent=0) + "\n")
    golden = json.loads(FILE.read_text())
    worst = max(abs(a - b) for a, b in zip(found, golden, strict=True))
    print(f"{len(found)} steps, off by at most {worst:.1e}; {found[0]:.4f} to {found[-1]:.4f}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
