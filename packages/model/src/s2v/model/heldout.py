"""Does the network use its reference? Loss on clips it never saw, right against wrong.

For every held-out sample the loss is taken at fixed noise levels with noise that depends on the
sample alone: once with its own references, once with those of another subject of another
identity, once with none. Same noise, same caption, same clip: what is left is the reference. The
difference is paired, its interval is over clips.

The levels are the quantiles of those that training draws (``heldout.spread = "training"``), so
that the mean is the loss that training minimises, only on other clips; or ``(i + 0.5) / n``
(``"uniform"``), the same for every recipe, of which most lie where the noisy clip itself says more
than any reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.shards import Reference, Sample, ShardIndex
from s2v.model import flow
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.data.collate import Batch, Item, collate, fixed
from s2v.model.data.features import FeatureStore
from s2v.model.data.index import select
from s2v.model.data.quarantine import Quarantine
from s2v.model.errors import ModelError
from s2v.model.networks import Network, patch_of
from s2v.model.progress import Track, shown
from s2v.model.rng import generator, normal
from s2v.model.run import Run, device_of

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences with its 95 % interval (bootstrap over clips)."""

    mean: float
    low: float
    high: float
    share_positive: float


@dataclass(frozen=True)
class HeldoutResult:
    """Mean losses over clips and noise levels.

    Attributes:
        samples: held-out samples with at least one partner of another identity.
        clips: their distinct clips (an in-pair and a cross-pair may share one).
        skipped: held-out samples without a partner.
        faults: unreadable held-out samples.
        right, swapped, none: mean loss with the clip's own references, with another
            subject's, with zero latents and no image tokens.
        swapped_minus_right, none_minus_right: above 0 where the reference helps.
        spread: which noise levels, ``training`` or ``uniform``.
        by_level: ``{level: [right, swapped, none]}``, ascending, not weighted.
        by_sample: ``{sample id: [right, swapped, none]}``.
        step, weights: what was measured.
    """

    samples: int
    clips: int
    skipped: int
    faults: int
    right: float
    swapped: float
    none: float
    swapped_minus_right: Difference
    none_minus_right: Difference
    spread: str
    by_level: dict[str, list[float]]
    by_sample: dict[str, list[float]]
    step: int
    weights: str


def heldout(
    folder: str | Path,
    shards: str | Path,
    track: Track = shown,
    *,
    config: Config | None = None,
    cache: str | Path | None = None,
) -> HeldoutResult:
    """Measure a run on its shards' held-out clips; writes ``heldout.json`` into the run.

    Args:
        folder: a run that has a checkpoint.
        shards: the shard folder.
        track: where progress is shown.
        config: only its ``heldout`` section may differ from the run's own.
        cache: as in :func:`s2v.model.train.train`.

    Raises:
        ModelError: no held-out sample, or none with a partner of another identity.
    """
    run = Run(folder, cache)
    config = config or run.config()
    torch.set_num_threads(config.train.threads)
    store = run.store(config, variants=1)
    quarantine = Quarantine(config.data.fuse)
    chosen = select(ShardIndex.open(shards), config.data, "heldout").samples
    chosen = tuple(sorted(chosen, key=lambda s: s.id))[: config.heldout.limit]
    samples = store.prepare(chosen, quarantine, "encode held-out", track)
    partners = find_partners(samples, config.heldout.partners, config.heldout.seed)
    if not partners:
        raise ModelError(
            f"{shards}: {len(samples)} held-out samples, but no two of different identities"
        )
    weights = config.sample.weights
    model, facts = run.network(weights, device_of(config))
    levels = levels_of(config)
    rows = np.zeros((len(partners), 3, len(levels)))
    with track("held-out loss", len(partners)) as step:
        for i, (sample, others) in enumerate(partners):
            rows[i] = _losses(model, store, sample, others, config, levels)
            step()
    losses = (rows * _weights(config, levels)).mean(axis=2)
    clips = [str(sample.row["clip_id"]) for sample, _ in partners]
    result = HeldoutResult(
        samples=len(partners),
        clips=len(set(clips)),
        skipped=len(samples) - len(partners),
        faults=len(quarantine.faults),
        right=float(losses[:, 0].mean()),
        swapped=float(losses[:, 1].mean()),
        none=float(losses[:, 2].mean()),
        swapped_minus_right=paired(losses[:, 1] - losses[:, 0], clips, config.heldout.seed),
        none_minus_right=paired(losses[:, 2] - losses[:, 0], clips, config.heldout.seed),
        spread=config.heldout.spread,
        by_level={
            name: rows[:, :, j].mean(axis=0).tolist() for j, name in enumerate(_names(levels))
        },
        by_sample={s.id: losses[i].tolist() for i, (s, _) in enumerate(partners)},
        step=int(facts["step"]),
        weights=weights,
    )
    write_json(run.folder / "heldout.json", asdict(result))
    return result


def levels_of(config: Config) -> list[float]:
    """The noise levels by ``heldout.spread``, ascending."""
    if config.heldout.spread == "uniform":
        return flow.evenly(config.heldout.levels)
    data = config.data
    _, ph, pw = patch_of(config)
    tokens = ((data.frames - 1) // 4 + 1) * (data.height // 8 // ph) * (data.width // 8 // pw)
    return flow.quantiles(config.flow, config.heldout.levels, tokens)


def _weights(config: Config, levels: Sequence[float]) -> np.ndarray:
    """Of the levels: those of the training loss, or all alike."""
    if config.heldout.spread == "uniform":
        return np.ones(len(levels))
    return flow.level_weights(config.flow, torch.tensor(levels, dtype=torch.float64)).numpy()


def _names(levels: Sequence[float]) -> list[str]:
    """Four digits, or more where two levels would have one name."""
    for digits in range(4, 17):
        names = [f"{level:.{digits}f}" for level in levels]
        if len(set(names)) == len(names):
            break
    return names


def find_partners(
    samples: Sequence[Sample], count: int, seed: int
) -> list[tuple[Sample, list[Sample]]]:
    """For each sample up to ``count`` others, none of whose subjects may be one of its own."""
    metas = {s.id: s.meta() for s in samples}
    out = []
    for sample in samples:
        own = metas[sample.id].refs
        others = [
            s
            for s in samples
            if all(_differ(a, b) for a in own for b in metas[s.id].refs)
            and metas[s.id].source.clip_id != metas[sample.id].source.clip_id
        ]
        if others:
            order = generator(seed, sample.id, "partners").permutation(len(others))
            out.append((sample, [others[int(j)] for j in order[:count]]))
    return out


def _differ(a: Reference, b: Reference) -> bool:
    """Surely another subject: identities known and unequal, or unknown but of another kind."""
    if a.identity_id is not None and b.identity_id is not None:
        return a.identity_id != b.identity_id
    return a.class_ != b.class_ or a.noun != b.noun


def _losses(
    model: Network,
    store: FeatureStore,
    sample: Sample,
    others: list[Sample],
    config: Config,
    levels: Sequence[float],
) -> np.ndarray:
    """``[3, levels]``: right, swapped (mean over partners), none."""
    form = max(config.data.forms, key=lambda f: (config.data.forms[f], f == "white"))
    most = config.data.max_references
    own = fixed(sample.id, store.get(sample), form, most)
    swapped = [_with_references(own, fixed(o.id, store.get(o), form, most)) for o in others]
    h = config.heldout
    found = level_losses(
        model, [own, *swapped, own], levels, h.batch, (h.seed, "heldout"),
        lambda batch, rows: _hide_last(batch, [row == len(others) + 1 for row in rows]),
    )  # fmt: skip
    return np.stack([found[0], found[1:-1].mean(axis=0), found[-1]])


@torch.no_grad()
def level_losses(
    model: nn.Module,
    items: Sequence[Item],
    levels: Sequence[float],
    size: int,
    noise: tuple[int, str],
    condition: Callable[[Batch, list[int]], Condition],
) -> np.ndarray:
    """Loss of every item at every noise level, all with the same noise.

    Args:
        model: the network.
        items: of one clip: the noise is a function of the first one's sample.
        levels: each in [0, 1].
        size: forwards at once; their number is the same for equally many items.
        noise: seed and purpose.
        condition: what of a batch is shown, given which item each of its rows is.

    Returns:
        ``[items, levels]``.
    """
    device = next(model.parameters()).device
    jobs = [(i, j) for j in range(len(levels)) for i in range(len(items))]
    found = np.zeros((len(items), len(levels)))
    first = items[0]
    seed, purpose = noise
    eps = normal(tuple(first.video.shape), seed, first.sample_id, purpose)
    for part in _chunks(jobs, size):
        rows = [i for i, _ in part]
        batch = collate([items[i] for i in rows])
        told = condition(batch, rows).to(device)
        t = torch.tensor([levels[j] for _, j in part], device=device)
        x0, e = batch.video.to(device), eps.expand_as(batch.video).to(device)
        loss = flow.video_loss(model(flow.interpolate(x0, e, t), t, told), x0, e)
        for (i, j), value in zip(part, loss.tolist(), strict=True):
            found[i, j] = value
    return found


def _with_references(own: Item, other: Item) -> Item:
    """``own`` with as many references as it has, taken round-robin from ``other``."""
    take = torch.arange(own.references.shape[0]) % other.references.shape[0]
    return replace(own, references=other.references[take], image=other.image[take])


def _hide_last(batch: Batch, hidden: list[bool]) -> Condition:
    """References hidden from the marked samples."""
    bare = batch.condition.without_references()
    mark = torch.tensor(hidden)

    def mixed(bare_value: Tensor, value: Tensor) -> Tensor:
        return torch.where(mark.reshape(-1, *([1] * (value.dim() - 1))), bare_value, value)

    c = batch.condition
    return replace(
        c,
        references=mixed(bare.references, c.references),
        image_mask=mixed(bare.image_mask, c.image_mask),
    )


def paired(differences: np.ndarray, clips: Sequence[str], seed: int) -> Difference:
    """Mean with a percentile bootstrap over whole clips.

    Samples of one clip resemble each other; resampling samples would make the interval too
    narrow.

    Args:
        differences: ``[n]``.
        clips: the clip of each.
        seed: of the resampling.
    """
    names = sorted(set(clips))
    where = np.array([names.index(clip) for clip in clips])
    sums = np.bincount(where, weights=differences)
    counts = np.bincount(where)
    picks = generator(seed, "bootstrap").integers(0, len(names), size=(_RESAMPLES, len(names)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(
        float(differences.mean()), float(low), float(high), float((differences > 0).mean())
    )


def _chunks(jobs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    walk = iter(jobs)
    while part := list(islice(walk, size)):
        yield part
