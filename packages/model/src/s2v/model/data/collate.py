"""Samples to a batch: the reference forms are chosen, references and text padded and masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2v.model.binding import numbered
from s2v.model.conditioning import Condition
from s2v.model.data.features import Features
from s2v.model.data.references import FORMS
from s2v.model.rng import Key, generator


@dataclass(frozen=True)
class Item:
    """One sample of a batch with its choices made.

    Attributes:
        sample_id: its id.
        video: ``[C, T, H, W]``.
        references: ``[K, C, H, W]``.
        image: ``[K, N, Di]``.
        text: ``[L, Dt]``.
        text_subject: ``[L]``, see :class:`s2v.model.data.features.Features`.
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


def choose(key: Key, features: Features, odds: Mapping[str, float], seed: int) -> Item:
    """Choose variant, reference order and reference forms, a function of seed and key.

    The order is shuffled: otherwise the first phrase would own the first slot.
    """
    random = generator(seed, *key, "form")
    variant = int(random.integers(features.video.shape[0]))
    K = features.references.shape[1]
    order = torch.from_numpy(random.permutation(K))
    weights = torch.tensor([odds.get(form, 0.0) for form in FORMS], dtype=torch.float64)
    edges = (weights.cumsum(0) / weights.sum()).numpy()
    form = torch.from_numpy(edges.searchsorted(random.random(K), side="right")).clamp(
        max=len(FORMS) - 1
    )
    return Item(
        key[0],
        features.video[variant],
        features.references[variant][order, form],
        features.image[variant][order, form],
        features.text,
        *_renumbered(features, order),
    )


def _renumbered(features: Features, order: Tensor) -> tuple[Tensor, Tensor]:
    """Subjects numbered anew in the shuffled order: number 1 is not always the first phrase."""
    old = features.reference_subject[order].tolist()
    new = numbered(old)
    table = torch.zeros(max(old, default=0) + 1, dtype=torch.long)
    table[old] = torch.tensor(new, dtype=torch.long)
    return table[features.text_subject], table[features.reference_subject[order]]


def fixed(sample_id: str, features: Features, form: str) -> Item:
    """The sample itself (variant 0), references in order and in one form; to measure by."""
    f = [*FORMS].index(form)  # type: ignore[arg-type]  # ValueError names an unknown form
    return Item(
        sample_id,
        features.video[0],
        features.references[0, :, f],
        features.image[0, :, f],
        features.text,
        features.text_subject,
        features.reference_subject,
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
