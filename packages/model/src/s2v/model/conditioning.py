"""What the network is told, and what is hidden from it while it trains.

Guidance needs the network to know three states: text and image, image alone, neither. The
paper also zeroes the reference *latents* in most steps and keeps the image tokens, so that
pixels do not overshadow meaning (section 3.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from s2v.model.config import DropoutConfig
from s2v.model.moving import onto
from s2v.model.rng import Key, generator


def _no_ids() -> Tensor:
    return torch.zeros(0, 0, dtype=torch.long)


@dataclass(frozen=True)
class Condition:
    """Text and references of a batch.

    Attributes:
        text: ``[B, L, Dt]`` token features.
        text_mask: ``[B, L]`` bool, False on padding.
        references: ``[B, C, K, H, W]`` latents of the references, zero where hidden.
        reference_mask: ``[B, K]`` bool, the slots a sample has. A hidden reference keeps its
            slot with zero latents, as the released sampler has it; an absent one has none.
        image: ``[B, K, N, Di]`` image-encoder tokens of the references.
        image_mask: ``[B, K]`` bool, the references whose image tokens are seen.
        text_subject: ``[B, L]`` the subject (1, 2, ...) whose phrase a token belongs to, or 0;
            all 0 where it is not given.
        reference_subject: ``[B, K]`` the subject (1, 2, ...) a reference shows, or 0; several
            images of one subject have the same.
    """

    text: Tensor
    text_mask: Tensor
    references: Tensor
    reference_mask: Tensor
    image: Tensor
    image_mask: Tensor
    text_subject: Tensor = field(default_factory=_no_ids)
    reference_subject: Tensor = field(default_factory=_no_ids)

    def __post_init__(self) -> None:
        for name, mask in (
            ("text_subject", self.text_mask),
            ("reference_subject", self.reference_mask),
        ):
            if getattr(self, name).numel() == 0:
                object.__setattr__(self, name, torch.zeros_like(mask, dtype=torch.long))

    def rows(self, index: Tensor) -> Condition:
        """The samples ``index [n]``, of which one may occur several times."""
        return Condition(**{name: tensor[index] for name, tensor in vars(self).items()})

    def to(self, device: torch.device) -> Condition:
        """All tensors on ``device``."""
        return Condition(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def on(self, device: torch.device) -> Condition:
        """Values on ``device``, masks on the CPU: what is laid out by them waits for no GPU."""
        masks = {"text_mask", "reference_mask", "image_mask"}
        return Condition(
            **{
                name: tensor if name in masks else onto(tensor, device)
                for name, tensor in vars(self).items()
            }
        )

    def without_text(self, null: Tensor) -> Condition:
        """Every text replaced by ``null [Ln, Dt]`` (the encoded negative prompt)."""
        B = self.text.shape[0]
        text = null.expand(B, *null.shape)
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        ids = torch.zeros_like(mask, dtype=torch.long)
        return replace(self, text=text, text_mask=mask, text_subject=ids)

    def without_references(self) -> Condition:
        """Zero latents in the references' slots and no image tokens."""
        return replace(
            self,
            references=torch.zeros_like(self.references),
            image_mask=torch.zeros_like(self.image_mask),
        )


@dataclass(frozen=True)
class Hidden:
    """What one sample is not shown at one step."""

    text: bool
    references: bool
    vae: tuple[bool, ...]  # per reference, its latents; meaningless where ``references``
    image: tuple[bool, ...] = ()  # per reference, its image tokens; () is none

    @property
    def state(self) -> str:
        """``text+image``, ``image``, ``text`` or ``neither``."""
        if self.references:
            return "neither" if self.text else "text"
        return "image" if self.text else "text+image"


def draw(config: DropoutConfig, seed: int, key: Key, references: int) -> Hidden:
    """Draw what is hidden of a sample with so many references, a function of seed and key."""
    random = generator(seed, *key, "dropout")
    u = random.random()
    edges = (
        config.both,
        config.both + config.text_only,
        config.both + config.text_only + config.references_only,
    )
    return Hidden(
        text=bool(u < edges[1]),
        references=bool(u < edges[0] or edges[1] <= u < edges[2]),
        vae=_each(random, config.vae, config.vae_mode, references),
        # A stream of its own: turning it on changes no other draw.
        image=_each(
            generator(seed, *key, "dropout-image"), config.image, config.image_mode, references
        ),
    )


def _each(random: np.random.Generator, rate: float, mode: str, count: int) -> tuple[bool, ...]:
    """One draw for all references, or one for each."""
    if mode == "all":
        return (bool(random.random() < rate),) * count
    return tuple(bool(x) for x in random.random(count) < rate)


def hide(condition: Condition, hidden: Sequence[Hidden], null: Tensor) -> Condition:
    """Apply the draws to a batch.

    Args:
        condition: of B samples.
        hidden: B draws.
        null: ``[Ln, Dt]`` features of the empty prompt; ``Ln`` must not exceed L.
    """
    text, text_mask = condition.text.clone(), condition.text_mask.clone()
    text_subject = condition.text_subject.clone()
    references, image_mask = condition.references.clone(), condition.image_mask.clone()
    for b, h in enumerate(hidden):
        if h.text:
            text[b, : len(null)] = null
            text[b, len(null) :] = 0
            text_mask[b] = torch.arange(text.shape[1], device=text.device) < len(null)
            text_subject[b] = 0
        if h.references:
            references[b] = 0
            image_mask[b] = False
        else:
            for k, dropped in enumerate(h.vae):
                if dropped:
                    references[b, :, k] = 0
            for k, dropped in enumerate(h.image):
                if dropped:
                    image_mask[b, k] = False
    return replace(
        condition,
        text=text,
        text_mask=text_mask,
        text_subject=text_subject,
        references=references,
        image_mask=image_mask,
    )


def tally(hidden: Sequence[Hidden]) -> Counter[str]:
    """Counts for the realised rates: states, hidden latents, samples and references seen."""
    counts: Counter[str] = Counter()
    for h in hidden:
        counts[h.state] += 1
        counts["samples"] += 1
        counts["references"] += len(h.vae)
        counts["vae"] += sum(h.vae)
        counts["image_tokens"] += sum(h.image)
    return counts


def rates(counts: Counter[str]) -> dict[str, float]:
    """Realised shares of :func:`tally` counts.

    Returns:
        Per state its share of the samples; ``vae`` and ``image_tokens`` of the references.
    """
    samples = max(counts["samples"], 1)
    out = {s: counts[s] / samples for s in ("text+image", "image", "text", "neither")}
    for name in ("vae", "image_tokens"):
        out[name] = counts[name] / max(counts["references"], 1)
    return out


def concatenate(conditions: Sequence[Condition]) -> Condition:
    """One batch of several; shorter texts are padded and masked.

    Args:
        conditions: with the same number of reference slots.
    """
    longest = max(c.text.shape[1] for c in conditions)

    def padded(x: Tensor) -> Tensor:
        more = x.new_zeros(x.shape[0], longest - x.shape[1], *x.shape[2:])
        return torch.cat([x, more], dim=1)

    parts: dict[str, list[Tensor]] = {}
    for c in conditions:
        for name, tensor in vars(c).items():
            parts.setdefault(name, []).append(padded(tensor) if name.startswith("text") else tensor)
    return Condition(**{name: torch.cat(tensors) for name, tensors in parts.items()})
