"""One training of ``verify-resume``, in a process of its own: ``python -m s2v.model.verify_child``.

The job says after which step to stand still until the parent kills, or to get a SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from s2v.model import config as configuration
from s2v.model.errors import Interrupted, ModelError
from s2v.model.progress import Step, quiet
from s2v.model.run import Run

STOPPED: Final = 75  # a SIGTERM was obeyed
_PATIENCE_S: Final = 1800.0


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the job says; 0 when it ended, :data:`STOPPED` after its SIGTERM, 2 on errors."""
    path = Path((argv if argv is not None else sys.argv[1:])[0])
    job = json.loads(path.read_text(encoding="utf-8"))
    config = configuration.parse(job["config"], str(path))
    from s2v.model.train import train

    first = os.environ.get("RANK", "0") == "0"
    track = _Stopping(job).track if job["how"] and first else quiet
    try:
        train(config, job["shards"], job["out"], track, cache=job["cache"])
    except Interrupted:
        return STOPPED
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class _Stopping:
    """Progress of the first process that ends the training at a known step."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job, self._done = job, 0

    @contextmanager
    def track(self, title: str, total: int) -> Iterator[Step]:
        """As :data:`s2v.model.progress.Track`."""

        def step(n: int = 1, note: str = "") -> None:
            if title == "train":
                self._done += n
                self._look()

        yield step

    def _look(self) -> None:
        half = int(self._job["half"])
        if self._job["how"] == "term" and self._done == half:
            os.kill(os.getpid(), signal.SIGTERM)
        if self._job["how"] == "kill" and self._done == half + 1:
            self._wait_to_be_killed(half)

    def _wait_to_be_killed(self, half: int) -> None:
        """A step beyond the checkpoint is done and not saved: that is when to be killed."""
        from s2v.model import checkpoint

        until = time.monotonic() + _PATIENCE_S
        folder = Run(self._job["out"]).checkpoints
        while time.monotonic() < until:
            newest = checkpoint.latest(folder)
            if newest is not None and checkpoint.describe(newest).step == half:
                Path(self._job["ready"]).touch()
            time.sleep(0.01)
        raise ModelError(f"{folder}: no checkpoint of step {half} after {_PATIENCE_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
