"""Samples to a batch: references and their forms are chosen; what is shorter is padded, masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from s2v.model.binding import numbered
from s2v.model.conditioning import Condition
from s2v.model.data.encoding import Features
from s2v.model.data.references import FORMS
from s2v.model.latents.stored import StoredFeatures
from s2v.model.rng import Key, generator

MAX_SHOWN: Final = 4
"""References of a sample that a step sees at most (Phantom: six candidates, up to four used)."""


@dataclass(frozen=True)
class Item:
    """One sample of a batch with its choices made.

    Attributes:
        sample_id: its id.
        video: ``[C, T, H, W]``.
        references: ``[K, C, H, W]``.
        image: ``[K, N, Di]``.
        text: ``[L, Dt]``.
        text_subject: ``[L]``, see :class:`s2v.model.data.encoding.Features`.
        reference_subject: ``[K]``.
    """

    sample_id: str
    video: Tensor
    references: Tensor
    image: Tensor
    text: Tensor
    text_subject: Tensor
    reference_subject: Tensor


@dataclass(frozen=True)
class Batch:
    """Clean latents ``[B, C, T, H, W]`` with their conditions."""

    sample_ids: tuple[str, ...]
    video: Tensor
    condition: Condition


def shown(sample_id: str, epoch: int, candidates: int, most: int, seed: int) -> list[int]:
    """Which of a sample's candidate references an epoch shows: at most ``most`` of them.

    The candidates stand in a circle, in an order of the sample's own, and every epoch takes up
    where the one before stopped. So ``ceil(candidates / most)`` epochs in a row show each of them,
    all are shown equally often in the long run, and which is a function of the arguments alone.

    Returns:
        Positions, in the order of the circle; all of them where there are no more than ``most``.
    """
    circle = generator(seed, sample_id, "candidates").permutation(candidates).tolist()
    count = min(candidates, most)
    return [circle[(epoch * count + n) % candidates] for n in range(count)]


def choose(
    key: Key,
    features: Features | StoredFeatures,
    odds: Mapping[str, float],
    seed: int,
    *,
    epoch: int = 0,
    most: int = MAX_SHOWN,
) -> Item:
    """Choose variant, references, their order and forms, a function of the arguments alone.

    The order is shuffled: otherwise the first phrase would own the first slot.

    Args:
        key: sample id and number in the stream.
        features: of the sample, with all its candidates.
        odds: of each form.
        seed: of the run.
        epoch: of the sample's source; says which candidates are shown (:func:`shown`).
        most: references shown at most; Phantom trains with up to four.
    """
    random = generator(seed, *key, "form")
    variant = int(random.integers(features.variants))
    candidates = shown(key[0], epoch, features.candidates, most, seed)
    K = len(candidates)
    order = torch.tensor(sorted(candidates), dtype=torch.int64)[
        torch.from_numpy(random.permutation(K))
    ]
    weights = torch.tensor([odds.get(form, 0.0) for form in FORMS], dtype=torch.float64)
    edges = (weights.cumsum(0) / weights.sum()).numpy()
    form = torch.from_numpy(edges.searchsorted(random.random(K), side="right")).clamp(
        max=len(FORMS) - 1
    )
    return Item(
        key[0],
        *features.pick(variant, order, form),
        features.text,
        *_renumbered(features, order),
    )


def _renumbered(features: Features | StoredFeatures, order: Tensor) -> tuple[Tensor, Tensor]:
    """Subjects numbered anew in the shuffled order: number 1 is not always the first phrase.

    Words of a subject none of whose references is shown name none.
    """
    old = features.reference_subject[order].tolist()
    known = [*features.reference_subject.tolist(), *features.text_subject.tolist(), 0]
    table = torch.zeros(max(known) + 1, dtype=torch.long)
    table[old] = torch.tensor(numbered(old), dtype=torch.long)
    return table[features.text_subject], table[features.reference_subject[order]]


def fixed(
    sample_id: str, features: Features | StoredFeatures, form: str, most: int = MAX_SHOWN
) -> Item:
    """The sample itself (variant 0), its first references, in order and in one form."""
    f = [*FORMS].index(form)  # type: ignore[arg-type]  # ValueError names an unknown form
    first = torch.arange(min(most, features.candidates))
    return Item(
        sample_id,
        *features.pick(0, first, torch.tensor(f)),
        features.text,
        *_renumbered(features, first),
    )


def collate(items: Sequence[Item]) -> Batch:
    """Stack items; fewer references or words than the batch's most are padded and masked."""
    B = len(items)
    K = max(item.references.shape[0] for item in items)
    L = max(item.text.shape[0] for item in items)
    C, _, H, W = items[0].video.shape
    N, Di = items[0].image.shape[1:]
    text = torch.zeros(B, L, items[0].text.shape[1])
    text_mask = torch.zeros(B, L, dtype=torch.bool)
    references, image = torch.zeros(B, C, K, H, W), torch.zeros(B, K, N, Di)
    reference_mask = torch.zeros(B, K, dtype=torch.bool)
    text_subject = torch.zeros(B, L, dtype=torch.long)
    reference_subject = torch.zeros(B, K, dtype=torch.long)
    for b, item in enumerate(items):
        n, k = item.text.shape[0], item.references.shape[0]
        text[b, :n], text_mask[b, :n] = item.text, True
        references[b, :, :k] = item.references.transpose(0, 1)
        image[b, :k], reference_mask[b, :k] = item.image, True
        text_subject[b, :n], reference_subject[b, :k] = item.text_subject, item.reference_subject
    return Batch(
        tuple(item.sample_id for item in items),
        torch.stack([item.video for item in items]),
        Condition(
            text,
            text_mask,
            references,
            reference_mask,
            image,
            reference_mask.clone(),
            text_subject,
            reference_subject,
        ),
    )
