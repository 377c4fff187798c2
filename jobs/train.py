"""Train: ``ray job submit --working-dir jobs -- python train.py --workers 8 --shards DIR ...``.

The same as ``s2v-model train``, as one process for each GPU of the cluster that ``RAY_ADDRESS``
names. Ray copies the working directory only, so paths are absolute and lie where all machines see
them. Without ``--workers`` there is one process, here, and Ray is not asked; under ``torchrun`` use
this file or ``s2v-model train``. The trainer needs no Ray.

Beyond ``s2v-model train`` it scores the samples of ``validation.sample_every`` (``scores.py``),
which the trainer by itself only writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _own(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="Train on a Ray cluster; everything else is passed to `s2v-model train`.",
        epilog="example: train.py --workers 8 --shards /data/shards --out /data/run "
        "--recipe phantom_mmdit_1b",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=int, default=0, help="processes (default: one, here)")
    parser.add_argument("--gpus-per-worker", type=int, choices=(0, 1), default=1)
    parser.add_argument("--cpus-per-worker", type=float, default=4.0, help="(%(default)s)")
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    own, passed = _own(argv)
    if own.workers < 1:
        return _here(passed)
    from workers import launch

    from s2v.datapipe.engine.execute import start_ray, stop_ray

    start_ray(None)
    try:
        return launch(
            [sys.executable, str(Path(__file__).resolve()), *passed],
            own.workers,
            cpus=own.cpus_per_worker,
            gpus=own.gpus_per_worker,
        )
    finally:
        stop_ray()


def _here(passed: list[str]) -> int:
    """One process of a training."""
    from s2v.datapipe.base.assets import AssetError
    from s2v.datapipe.base.settings import SettingsError
    from s2v.model import cli, config

    asked = cli.parser().parse_args(["train", *passed])
    evaluate = None
    try:
        samples = config.load(asked.recipe, asked.overrides).validation.sample_every
        if samples and not asked.print_config:
            from scores import scorer

            evaluate = scorer()
    except (SettingsError, AssetError) as error:
        print(f"train: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return cli.main(["train", *passed], evaluate=evaluate)


if __name__ == "__main__":
    sys.exit(main())
