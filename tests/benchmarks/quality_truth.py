"""Precision and recall of every quality filter on clips with known faults: docs/quality.md.

    python tests/benchmarks/quality_truth.py --write docs/quality.md

Makes the clips of ``tests/datapipe/quality_cases.py`` in a temporary folder, measures them with
the stages of a run and the embedded models, and applies the default thresholds of the selection.
Needs the assets of the demo (``make assets``), one core and some ten minutes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "datapipe"))

from quality_page import BEGIN, END, page  # noqa: E402  the folder has to be known first
from quality_score import measure  # noqa: E402


def main() -> None:
    """Measure and write the tables between the marks of the page, or print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--each", type=int, default=5, help="clips per fault; default 5")
    parser.add_argument("--tuning", action="store_true", help="on the tuning sources instead")
    parser.add_argument("--folder", type=Path, help="keep the clips here")
    chosen = parser.parse_args()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        which = "tuning" if chosen.tuning else "report"
        found = measure(which, chosen.each, chosen.folder or Path(scratch))
    tables = page(found)
    print(tables)
    print(f"{time.process_time() - began:.0f} CPU seconds in this process", file=sys.stderr)
    if chosen.write:
        text = chosen.write.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        tail = rest.split(END)[1]
        chosen.write.write_text(f"{head}{BEGIN}\n{tables}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
