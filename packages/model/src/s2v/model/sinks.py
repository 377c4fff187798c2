"""Where metrics go: ``metrics.jsonl`` always, TensorBoard and W&B on request (``train.log``).

The lines of steps that a killed run did after its last checkpoint are done again; each sink drops
or overwrites the old ones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol, Self

from s2v.datapipe.base.ids import stable_hash
from s2v.model.errors import ModelError
from s2v.model.metrics import MetricsLog


class Sink(Protocol):
    """Takes a line per step."""

    def add(self, line: dict[str, Any]) -> None:
        """One line; it has ``step``."""

    def close(self) -> None:
        """Write what is not written yet."""


class Log:
    """All sinks of a run as one.

    Args:
        path: the JSON lines.
        names: further sinks.
        folder: of the run.
        config: the resolved configuration, for sinks that show it.
        after: finished steps; see :class:`s2v.model.metrics.MetricsLog`.

    Raises:
        ModelError: a sink's package is not installed.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str] = (),
        *,
        folder: Path,
        config: Mapping[str, Any],
        after: int,
    ) -> None:
        made: list[Sink] = []
        for name in names:
            if name == "tensorboard":
                made.append(TensorBoard(folder / "tensorboard", after))
            else:
                made.append(Wandb(folder, config))
        self._sinks: list[Sink] = [MetricsLog(path, after), *made]

    def add(self, line: dict[str, Any]) -> None:
        """One line to all of them."""
        for sink in self._sinks:
            sink.add(line)

    def close(self) -> None:
        """Close all of them."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close. Where training ends with an error, a full disk does not hide it."""
        with nullcontext() if kind is None else suppress(OSError):
            self.close()


class TensorBoard:
    """Event files below ``folder``; steps after ``after`` are purged."""

    def __init__(self, folder: Path, after: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _absent("tensorboard") from None
        self._writer = SummaryWriter(str(folder), purge_step=after + 1 if folder.is_dir() else None)

    def add(self, line: dict[str, Any]) -> None:
        """One scalar per number."""
        for name, value in scalars(line):
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class Wandb:
    """One W&B run per run folder; a resumed training goes on in it.

    ``WANDB_MODE=offline`` writes below the run folder and sends nothing; each start has a file of
    its own there, all of one id, which ``wandb sync`` brings together. The key, project and entity
    come from W&B's own environment, never from a configuration.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise _absent("wandb") from None
        offline = os.environ.get("WANDB_MODE", "") in ("offline", "dryrun")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "s2v"),
                dir=str(folder),
                id=stable_hash([str(folder.resolve())], 16),
                name=folder.name,
                config=dict(config),
                resume=None if offline else "allow",
                # Progress is drawn on this console; W&B would record every redrawing of it.
                settings=wandb.Settings(console="off"),
            )
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            raise ModelError(
                f"train.log wandb: {' '.join(str(error).split())}; log in with `wandb login`, set "
                "WANDB_MODE=offline, or leave it out of train.log"
            ) from None
        # Steps that are done again are logged again: W&B's own step only ever rises.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, line: dict[str, Any]) -> None:
        """One line."""
        self._run.log({"step": line["step"], **dict(scalars(line))})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Finite numbers of a nested line as ``a/b/c``, without ``step``."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif math.isfinite(value) and not (key == "step" and not prefix):
            yield f"{prefix}{key}", float(value)


def _absent(name: str) -> ModelError:
    return ModelError(
        f"train.log asks for {name}, which is not installed; "
        f"pip install 's2v-model[{name}]', or leave it out"
    )
