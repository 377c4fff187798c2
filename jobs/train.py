"""Train: ``ray job submit --working-dir jobs -- python train.py --shards DIR --out DIR``.

A thin entry point: the same as ``s2v-model train``. The trainer itself needs no Ray.
"""

from __future__ import annotations

import sys

from s2v.model.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
