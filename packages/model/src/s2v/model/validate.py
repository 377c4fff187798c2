"""The held-out loss while training: the same samples, noise and levels every time.

Training losses jump with the noise levels that were drawn; this one moves only when the network
does. It is taken with the averaged weights, on samples that are never trained on, at the fixed
levels ``(i + 0.5) / n``, with noise that is a function of the sample's id. So two steps, two runs
and two world sizes can be compared, by pair type, number of references, size and level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from s2v.datapipe.base.shards import ShardIndex
from s2v.model import flow
from s2v.model.conditioning import Condition, Hidden, hide
from s2v.model.config import Config
from s2v.model.data.collate import Batch, fixed
from s2v.model.data.features import FeatureStore
from s2v.model.data.held import Held, held
from s2v.model.data.quarantine import Quarantine
from s2v.model.errors import ModelError
from s2v.model.heldout import level_losses
from s2v.model.parallel.kernels import attention_kernels
from s2v.model.progress import Track, quiet

#: Joins what every rank found, in rank order; ``torch.distributed.all_gather_object`` does.
Gather = Callable[[list[Any]], list[Any]]
_HIDDEN: Mapping[str, tuple[bool, bool]] = {  # text, references
    "text+image": (False, False),
    "image": (True, False),
    "text": (False, True),
    "neither": (True, True),
}


def alone(rows: list[Any]) -> list[Any]:
    """What one process gathers."""
    return rows


@contextmanager
def averaged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with the averaged weights, and its own afterwards, to the last bit.

    The two change places one parameter at a time, so that no second copy is needed; shards of a
    distributed network as well. Nothing may save or update either one meanwhile.

    Args:
        model: whose parameters are exchanged.
        weights: by the parameters' names; others keep theirs. Their contents are the model's
            while this lasts.
    """
    _exchange(model, weights)
    try:
        yield
    finally:
        _exchange(model, weights)


@torch.no_grad()
def _exchange(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in weights:
            own, other = _local(parameter), _local(weights[name])
            kept = own.clone()
            own.copy_(other)
            other.copy_(kept)


def _local(x: Tensor) -> Tensor:
    """A distributed tensor's own shard."""
    to_local = getattr(x, "to_local", None)
    found: Tensor = x.detach() if to_local is None else to_local().detach()
    return found


class Validator:
    """Prepared once, run every so many steps.

    Args:
        config: of the run; its ``validation`` section.
        index: of the shards.
        store: gives and caches features; variants beyond the first are not looked at.
        null_text: ``[Ln, Dt]`` features of the empty prompt.
        track: where encoding is shown.

    Raises:
        ModelError: nothing is held out.
    """

    def __init__(
        self,
        config: Config,
        index: ShardIndex,
        store: FeatureStore,
        null_text: Tensor,
        track: Track = quiet,
    ) -> None:
        self.config, self._store, self._null = config, store, null_text.cpu()
        self.quarantine = Quarantine(config.data.fuse)
        readable = []
        chosen = held(index, config.data, config.validation.limit)
        with track("encode validation", len(chosen)) as step:
            for one in chosen:
                try:
                    store.get(one.sample, one.size)
                except ModelError as error:
                    self.quarantine.add(one.sample.id, error)
                else:
                    self.quarantine.good()
                    readable.append(one)
                step()
        self.quarantine.close()
        self.samples = tuple(readable)

    def run(
        self, model: nn.Module, rank: int = 0, world: int = 1, gather: Gather = alone
    ) -> dict[str, Any]:
        """Measure; see the module.

        Every rank takes every ``world``-th sample and calls the network equally often, as sharded
        networks need it.

        Args:
            model: with the weights that are to be measured.
            rank, world: of this process among those that see different samples.
            gather: joins the ranks' lists.

        Returns:
            ``loss``; ``by_pair``, ``by_references``, ``by_size``, ``by_level`` and ``by_branch``,
            each mean by name; ``samples``.
        """
        was = model.training
        model.eval()
        rounds = -(-len(self.samples) // world)
        found = []
        for n in range(rounds):
            place = n * world + rank
            # The last round may lack samples: those ranks repeat one, and it is not counted.
            row = self._measure(model, self.samples[min(place, len(self.samples) - 1)])
            if place < len(self.samples):
                found.append(row)
        model.train(was)
        rows = sorted(gather(found), key=lambda row: str(row["id"]))
        return self._summary(rows)

    def _measure(self, model: nn.Module, one: Held) -> dict[str, Any]:
        v, data, sample = self.config.validation, self.config.data, one.sample
        form = max(data.forms, key=lambda f: (data.forms[f], f == "white"))
        features = self._store.get(sample, one.size)
        item = fixed(sample.id, features, form, data.max_references)
        with attention_kernels(self.config.parallel):
            losses = level_losses(
                model, [item] * len(v.branches), flow.evenly(v.levels), v.batch,
                (v.seed, "validate"), self._shown,
            )  # fmt: skip
        return {
            "id": sample.id,
            "pair": str(sample.row["pair_type"]),
            "references": str(item.references.shape[0]),
            "size": "x".join(map(str, one.size)),
            "losses": losses.tolist(),
        }

    def _shown(self, batch: Batch, rows: list[int]) -> Condition:
        """What the branch of each row shows."""
        branches = self.config.validation.branches
        hidden = []
        for row, there in zip(rows, batch.condition.reference_mask, strict=True):
            text, references = _HIDDEN[branches[row]]
            hidden.append(Hidden(text, references, (False,) * int(there.sum())))
        condition = batch.condition
        short = len(self._null) - condition.text.shape[1]
        if short > 0 and any(h.text for h in hidden):  # the empty prompt may be the longest
            condition = _longer(condition, short)
        return hide(condition, hidden, self._null)

    def _summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        v = self.config.validation
        losses = np.array([row["losses"] for row in rows])  # [samples, branches, levels]
        shown = losses[:, 0]  # the first branch stands for the sample
        return {
            "loss": float(shown.mean()),
            "by_pair": _means(shown.mean(axis=1), [row["pair"] for row in rows]),
            "by_references": _means(shown.mean(axis=1), [row["references"] for row in rows]),
            "by_size": _means(shown.mean(axis=1), [row["size"] for row in rows]),
            "by_level": {
                f"{level:.4f}": float(shown[:, j].mean())
                for j, level in enumerate(flow.evenly(v.levels))
            },
            "by_branch": {name: float(losses[:, i].mean()) for i, name in enumerate(v.branches)},
            "samples": len(rows),
        }


def _longer(condition: Condition, rows: int) -> Condition:
    """Room for ``rows`` more words, all absent."""

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(x.shape[0], rows, *x.shape[2:])], dim=1)

    text, mask, ids = condition.text, condition.text_mask, condition.text_subject
    return replace(condition, text=padded(text), text_mask=padded(mask), text_subject=padded(ids))


def _means(values: Any, groups: Sequence[str]) -> dict[str, float]:
    names = np.array(groups)
    return {str(name): float(values[names == name].mean()) for name in np.unique(names)}
