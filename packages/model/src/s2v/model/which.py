"""Does a sample show the reference it was given, and not another?

For a held-out clip four references of four identities are given by turns: the clip's own and
three others. Caption and noise stay the same, so only the reference differs; other noises ask
again. Every video is compared with all four by two embedders that never conditioned the network:

- ``palette``: the Lab histogram by which the data pipeline compares subjects' colours, unchanged;
- ``classes``: EfficientNet-Lite's log class probabilities, which need outlines.

Some pictures are near to everything (hubs; a network's blurred videos have the same few), and
would win whatever was given. So a reference's similarities to the four videos of one noise are
taken less their mean: the nearest reference is the one that this video resembles more than its
sisters do. A network that ignores its reference makes four equal videos, of which one is right:
chance is 1 in 4.

The p-value is of the permutation test that this design allows: within a clip, which videos were
given which reference is shuffled in all 24 ways, alike for all noises (two noises of one clip are
no two witnesses), and the mean that is taken off does not depend on it; the clips are convolved.
Nothing is assumed of them but that they are drawn apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from s2v.datapipe.base.atomic import write_json
from s2v.datapipe.base.embedded.colour import lab_histogram
from s2v.datapipe.base.embedded.efficientnet import EfficientNetLite
from s2v.datapipe.base.shards import Sample, ShardIndex
from s2v.model.config import Config
from s2v.model.data.collate import Item, collate, fixed
from s2v.model.data.features import FeatureStore
from s2v.model.data.index import select
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Pixels
from s2v.model.data.references import fit_and_pad
from s2v.model.errors import ModelError
from s2v.model.heldout import find_partners
from s2v.model.networks import Network
from s2v.model.output import write_png
from s2v.model.progress import Track, shown
from s2v.model.run import Run, device_of
from s2v.model.sample import generate, latent_shape

CHOICES: Final = 4
_FRAMES: Final = 5  # of a video that are embedded, spread over it
_FLOOR: Final = 1e-6  # of a class's probability, before the logarithm

Embed = Callable[[Pixels], npt.NDArray[Any]]


@dataclass(frozen=True)
class Group:
    """One held-out clip with four references of four identities; the first is its own.

    Attributes:
        sample_id: of the clip's sample.
        references: sample ids that the references are from.
        similarity: per embedder and noise ``[4][4]`` cosine of video (row) and reference.
        nearest: per embedder and noise, for the video of each reference the place of the nearest
            reference.
    """

    sample_id: str
    references: tuple[str, ...]
    similarity: dict[str, list[list[list[float]]]]
    nearest: dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Verdict:
    """What one embedder says of all videos.

    Attributes:
        right: videos whose nearest reference is theirs.
        share: of the videos; 0.25 by chance.
        p: that so many or more are right if videos had nothing to do with their references.
        plain: how many would be right if no mean was taken off; hubs included, no test.
        embedder: its id.
    """

    right: int
    share: float
    p: float
    plain: int
    embedder: str


@dataclass(frozen=True)
class WhichResult:
    """How often the nearest of four references is the one a video was given.

    Attributes:
        samples: videos, four per group and noise.
        palette, classes: the two embedders' verdicts.
        step, weights: of the network.
        image_scale, text_scale: guidance that the videos were made with.
        groups: one per clip.
    """

    samples: int
    palette: Verdict
    classes: Verdict
    step: int
    weights: str
    image_scale: float
    text_scale: float
    groups: tuple[Group, ...]


def which(
    folder: str | Path,
    shards: str | Path,
    track: Track = shown,
    *,
    config: Config | None = None,
    cache: str | Path | None = None,
    groups: int = 16,
    noises: int = 2,
) -> WhichResult:
    """Sample held-out clips with four references each; writes ``which.json`` and ``which.png``.

    Args:
        folder: a run that has a checkpoint.
        shards: the shard folder.
        track: where progress is shown.
        config: only sections that a run is not bound to may differ from the run's own.
        cache: as in :func:`s2v.model.train.train`.
        groups: clips at most, of those that are held out.
        noises: per clip, each with all four references.

    Raises:
        ModelError: no held-out clips with four identities among them.
    """
    run = Run(folder, cache)
    config = config or run.config()
    torch.set_num_threads(config.train.threads)
    net = EfficientNetLite.from_assets()
    store = run.store(config, variants=1)
    whole = config.data.model_copy(update={"variants": 1})
    reader = run.reader(config.model_copy(update={"data": whole}))
    chosen = select(ShardIndex.open(shards), config.data, "heldout").samples
    samples = store.prepare(
        sorted(chosen, key=lambda s: s.id), Quarantine(config.data.fuse), "encode held-out", track
    )
    asked = choose_groups(samples, config.heldout.seed)[:groups]
    if not asked:
        raise ModelError(
            f"{shards}: {len(samples)} held-out samples, but no four of different identities"
        )
    model, facts = run.network(config.sample.weights, device_of(config))
    embedders: dict[str, Embed] = {
        "palette": lab_histogram,
        "classes": partial(log_probabilities, net),
    }
    made, rows = [], []
    with track("sample", len(asked) * noises * CHOICES * config.sample.steps) as step:
        for four in asked:
            pictures = [reader.read(sample).references[0].crop for sample in four]
            found: dict[str, list[list[list[float]]]] = {name: [] for name in embedders}
            for noise in range(noises):
                videos = _videos(model, store, four, config, noise, step)
                for name, embed in embedders.items():
                    found[name].append(similarity(videos, pictures, embed).round(6).tolist())
                rows.append(_row(pictures, videos, config))
            near = {name: [nearest(np.array(m)) for m in all_] for name, all_ in found.items()}
            made.append(Group(four[0].id, tuple(sample.id for sample in four), found, near))
    result = WhichResult(
        samples=len(made) * noises * CHOICES,
        palette=_verdict(made, "palette", "lab-histogram-2x8x8"),
        classes=_verdict(made, "classes", f"{net.model_id}-log-probabilities"),
        step=int(facts["step"]),
        weights=config.sample.weights,
        image_scale=config.sample.image_scale,
        text_scale=config.sample.text_scale,
        groups=tuple(made),
    )
    write_json(run.folder / "which.json", asdict(result))
    write_png(run.folder / "which.png", np.concatenate(rows))
    return result


def _verdict(groups: Sequence[Group], name: str, embedder: str) -> Verdict:
    found = [group.nearest[name] for group in groups]
    right = sum(_hits(clip) for clip in found)
    return Verdict(
        right=right,
        share=right / sum(np.size(clip) for clip in found),
        p=p_value(found),
        plain=sum(_hits(np.array(group.similarity[name]).argmax(axis=2)) for group in groups),
        embedder=embedder,
    )


def choose_groups(samples: Sequence[Sample], seed: int) -> list[tuple[Sample, ...]]:
    """Per clip one sample and three others, all four of different identities and clips.

    Cross pairs go first: their reference is not a picture of the clip itself.
    """
    found, clips = [], set()
    order = sorted(samples, key=lambda s: (s.row["pair_type"] != "cross", s.id))
    for own, others in find_partners(order, len(samples), seed):
        clip = own.row["clip_id"]
        if clip in clips:
            continue
        four = [own]
        for other in others:
            if len(four) < CHOICES and all(_apart(other, one) for one in four):
                four.append(other)
        if len(four) == CHOICES:
            clips.add(clip)
            found.append(tuple(four))
    return found


def _apart(a: Sample, b: Sample) -> bool:
    return bool(find_partners([a, b], 1, 0))


def _videos(
    model: Network,
    store: FeatureStore,
    four: Sequence[Sample],
    config: Config,
    noise: int,
    on_step: Callable[[], None],
) -> list[Pixels]:
    """The first one's clip with the reference of each in turn, all from one noise."""
    form = max(config.data.forms, key=lambda f: (config.data.forms[f], f == "white"))
    own = fixed(four[0].id, store.get(four[0]), form, 1)
    null = store.encoders.text.encode(config.sample.negative_prompt)
    videos = []
    for sample in four:
        other = fixed(sample.id, store.get(sample), form, 1)
        latents = generate(
            model,
            collate([_given(own, other)]).condition,
            null,
            shape=latent_shape(store.encoders, config),
            config=config.sample,
            noise_key=(config.heldout.seed + noise, f"which-{own.sample_id}"),
            on_step=on_step,
        )
        videos.append(store.encoders.video.decode(latents.cpu()))
    return videos


def _given(own: Item, other: Item) -> Item:
    return replace(own, references=other.references[:1], image=other.image[:1])


def log_probabilities(net: EfficientNetLite, image: Pixels) -> npt.NDArray[np.float64]:
    """``[1000]``, floored so that classes surely absent count alike."""
    return np.log(net.probabilities(np.ascontiguousarray(image)).astype(np.float64) + _FLOOR)


def similarity(
    videos: Sequence[Pixels], references: Sequence[Pixels], embed: Embed
) -> npt.NDArray[np.float64]:
    """Cosine of every video's mean embedding with every reference's, each less its own mean.

    Args:
        videos: each ``[F, H, W, 3]``.
        references: each ``[h, w, 3]``.
        embed: image to vector.

    Returns:
        ``[videos, references]``.
    """

    def unit(vectors: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        made = np.stack(vectors)
        made = made - made.mean(axis=1, keepdims=True)
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True).clip(min=1e-12))

    shown_ = [
        np.mean(
            [embed(v[i]) for i in np.linspace(0, len(v) - 1, _FRAMES).round().astype(int)], axis=0
        )
        for v in videos
    ]
    return unit(shown_) @ unit([embed(reference) for reference in references]).T


def nearest(similarities: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """For every video the place of the reference that it resembles more than the others do.

    Args:
        similarities: ``[videos, references]`` of one noise.
    """
    centred = similarities - similarities.mean(axis=0)
    return tuple(int(n) for n in centred.argmax(axis=1))


def _hits(nearest: npt.ArrayLike) -> int:
    """Videos whose nearest reference is theirs; ``nearest [noises, videos]``."""
    found = np.asarray(nearest)
    return int((found == np.arange(found.shape[1])).sum())


def p_value(clips: Sequence[Sequence[Sequence[int]]]) -> float:
    """One-sided, of the permutation test within clips.

    Args:
        clips: per clip and noise, for each of its videos the place of the nearest reference.

    Returns:
        The share of all shufflings, one per clip, with at least as many videos right.
    """
    counts: npt.NDArray[np.floating[Any]] = np.ones(1)
    for clip in clips:
        found = np.asarray(clip)
        ways = np.array(list(permutations(range(found.shape[1]))))
        hits = (found[None] == ways[:, None]).sum(axis=(1, 2))
        counts = np.convolve(counts, np.bincount(hits, minlength=found.size + 1) / len(ways))
    return float(min(1.0, counts[sum(_hits(clip) for clip in clips) :].sum()))


def _row(references: Sequence[Pixels], videos: Sequence[Pixels], config: Config) -> Pixels:
    """References over the middle frames of their videos."""
    size = (config.data.height, config.data.width)
    upper = [fit_and_pad(image, size, config.data.pad) for image in references]
    lower = [video[len(video) // 2] for video in videos]
    made = np.concatenate([np.concatenate(upper, axis=1), np.concatenate(lower, axis=1)])
    return np.concatenate([made, np.full((6, made.shape[1], 3), 40, np.uint8)])
