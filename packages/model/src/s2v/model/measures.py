"""What is measured while training, and when: held-out losses, samples and their scores."""

from __future__ import annotations

from typing import Any

from torch import nn

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import optim
from s2v.model.config import Config
from s2v.model.data.features import FeatureStore
from s2v.model.monitor import Evaluator, Monitor
from s2v.model.parallel.shard import reshard
from s2v.model.parallel.world import World
from s2v.model.progress import Track
from s2v.model.run import Run
from s2v.model.validate import Validator, averaged


class Measures:
    """Prepared at the start, asked after every step.

    Args:
        config: of the run, its ``validation``.
        index: of the shards.
        store: of features.
        run: its folder.
        world: the processes.
        evaluate: scores samples; None writes them alone.
        track: where encoding is shown.

    Raises:
        ModelError: asked for, but nothing is held out.
    """

    def __init__(
        self,
        config: Config,
        index: ShardIndex,
        store: FeatureStore,
        run: Run,
        world: World,
        evaluate: Evaluator | None,
        track: Track,
    ) -> None:
        self._config, self._run, self._world = config, run, world
        self._validator: Validator | None = None
        self._monitor: Monitor | None = None

        def prepare() -> None:
            if config.validation.every:
                self._validator = Validator(config, index, store, store.empty_text, track)
            if config.validation.sample_every:
                self._monitor = Monitor(config, index, store.encoders, evaluate)

        world.alone("measures", prepare)  # encodes; the others find it cached
        if not world.first:
            prepare()

    def due(self, step: int) -> bool:
        """Whether anything is measured after so many finished steps."""
        return self._due(step, self._config.validation.every) or self._due(
            step, self._config.validation.sample_every
        )

    def take(self, step: int, model: nn.Module, ema: optim.Ema) -> dict[str, Any]:
        """Measure the averaged weights. All processes must call it after the same step.

        Returns:
            ``validation`` and ``scores``, as far as they are due; whole on rank 0.
        """
        v = self._config.validation
        told: dict[str, Any] = {}
        rank, world = self._world.reader, self._world.readers
        with averaged(model, ema.weights):
            if self._validator is not None and self._due(step, v.every):
                told["validation"] = self._validator.run(model, rank, world, self._gather)
            if self._monitor is not None and self._due(step, v.sample_every):
                out = self._run.samples / f"step-{step:08d}"
                told["scores"] = self._monitor.run(model, out, rank, world, self._gather)
                self._world.meet(f"scored/{step}")  # rank 0 alone scores
            reshard(model)  # what is gathered now is the average
        return told

    def _gather(self, rows: list[Any]) -> list[Any]:
        # Processes that share a sample's tokens have found the same.
        return [row for part in self._world.gather(rows)[:: self._world.cp] for row in part]

    @staticmethod
    def _due(step: int, every: int) -> bool:
        return every > 0 and step % every == 0
