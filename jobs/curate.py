"""Curate on Ray: ``ray job submit --working-dir jobs -- python curate.py --config FILE``.

A thin entry point: the same as ``s2v-data run``, on whatever cluster RAY_ADDRESS names. Ray
copies the working directory only, so FILE and all paths in it are absolute.
"""

from __future__ import annotations

import sys

from s2v.datapipe.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
