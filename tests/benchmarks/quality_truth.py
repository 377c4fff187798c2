"""Precision and recall of every quality filter on clips with known faults: docs/quality.md.

    python tests/benchmarks/quality_truth.py --write docs/quality.md

Makes the clips of ``tests/datapipe/quality_cases.py`` in a temporary folder, measures them with
the stages of a run and the embedded models, and applies the default thresholds of the selection.
Copies of clips, and clips alike that are none, are those of ``tests/datapipe/quality_copies.py``.
Needs the assets of the demo (``make assets``), one core and some fifteen minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datapipe"))

import quality_cases  # noqa: E402  the folder has to be known first
from quality_copies import measure_copies  # noqa: E402
from quality_page import page, put  # noqa: E402
from quality_run import Line  # noqa: E402
from quality_score import measure  # noqa: E402


def main() -> None:
    """Measure and write the tables between the marks of the page, or print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--each", type=int, default=4, help="clips per fault; default 4")
    parser.add_argument("--tuning", action="store_true", help="on the tuning sources instead")
    parser.add_argument("--folder", type=Path, help="keep the clips here")
    chosen = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        quality_cases.use(folder / "layers")
        which = "tuning" if chosen.tuning else "report"
        line = Line(folder / "run")
        found = measure(line, which, chosen.each, folder)
        parts = page(found, measure_copies(line, which, chosen.each, folder), line)
    print(*parts.values(), sep="\n\n")
    print(f"{time.process_time() - began:.0f} CPU seconds in this process", file=sys.stderr)
    if chosen.write:
        text = put(chosen.write.read_text(encoding="utf-8"), parts)
        chosen.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
