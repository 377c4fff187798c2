"""One sample as latents and tokens: what the frozen encoders make of a decoded clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from s2v.datapipe.base.shards import SampleMeta
from s2v.model import binding
from s2v.model.config import DataConfig, ReferenceAugmentConfig
from s2v.model.data import augment_references
from s2v.model.data.augment import Change, change
from s2v.model.data.reader import Clip, Pixels
from s2v.model.data.references import FORMS, Reference, fit_and_pad, forms
from s2v.model.encoders import ImageEncoder, TextEncoder, VideoAutoencoder
from s2v.model.latents import identity

_STRIDE = 8  # pixels per latent, both ways


@dataclass(frozen=True)
class Features:
    """What the network needs of a sample.

    Attributes:
        video: ``[V, C, T, H, W]`` latents, per variant.
        references: ``[V, K, forms, C, H, W]`` latents of all K candidates; a form that could not
            be made, or that the run never draws, repeats the crop.
        image: ``[V, K, forms, N, Di]`` image tokens.
        text: ``[L, Dt]`` text tokens.
        text_subject: ``[L]`` the subject each token's phrase names, 0 for none.
        reference_subject: ``[K]`` the subject each reference shows, from 1.
    """

    video: Tensor
    references: Tensor
    image: Tensor
    text: Tensor
    text_subject: Tensor
    reference_subject: Tensor

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(tensor.nbytes for tensor in vars(self).values())

    @property
    def variants(self) -> int:
        """V."""
        return int(self.video.shape[0])

    @property
    def candidates(self) -> int:
        """K."""
        return int(self.references.shape[1])

    def pick(self, variant: int, which: Tensor, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What one step sees of a sample.

        Args:
            variant: of V.
            which: ``[n]`` candidates, in the order wanted.
            form: ``[n]`` or a scalar, positions in ``FORMS``.

        Returns:
            Video ``[C, T, H, W]``, references ``[n, C, H, W]``, image tokens ``[n, N, Di]``.
        """
        return (
            self.video[variant],
            self.references[variant][which, form],
            self.image[variant][which, form],
        )


@dataclass(frozen=True)
class Encoders:
    """The frozen encoders of a run.

    Attributes:
        text: of the caption.
        image: of references.
        video: of clips and references.
        dtype: to which all features are rounded before anybody sees them, so that those made on
            the way and those read from a folder are the same numbers.
    """

    text: TextEncoder
    image: ImageEncoder
    video: VideoAutoencoder
    dtype: torch.dtype = torch.float32

    def made_by(self, config: DataConfig) -> identity.Fields:
        """All that makes features what they are, by name."""
        dtype = str(self.dtype).removeprefix("torch.")
        return identity.fields(self.text.id, self.image.id, self.video.fingerprint, dtype, config)

    def fingerprint(self, config: DataConfig) -> str:
        """16 hex over the encoders and all that happens to pixels before them; sizes aside."""
        return identity.fingerprint(self.made_by(config))

    def reference(self, image: Pixels, config: DataConfig) -> tuple[Tensor, Tensor]:
        """One reference image: latents ``[C, H, W]`` of the padded image, tokens ``[N, Di]``."""
        padded = fit_and_pad(image, (config.height, config.width), config.pad)
        with _as_declared():
            latents, tokens = self.video.encode(padded[None])[:, 0], self.image.encode(image)
        return self._rounded(latents), self._rounded(tokens)

    def caption(self, text: str) -> Tensor:
        """``[L, Dt]`` of a caption or a prompt."""
        with _as_declared():
            return self._rounded(self.text.encode(text))

    def sample(self, clip: Clip, config: DataConfig) -> Features:
        """Encode one decoded sample in all its variants."""
        references, image = self.references(clip, config, len(clip.videos))
        text, text_subject, reference_subject = self.words(clip.meta, len(clip.references))
        video = self.videos(clip, config)
        return Features(video, references, image, text, text_subject, reference_subject)

    def videos(self, clip: Clip, config: DataConfig) -> Tensor:
        """Latents ``[V, C, T, H, W]`` of the clip's windows, each as its variant has it."""
        latents = []
        for v, video in enumerate(clip.videos):
            move = change(config.augment, clip.sample.id, v)
            with _as_declared():
                latents.append(self.video.encode(video if move is None else move(video)))
        return self._rounded(torch.stack(latents))

    def references(self, clip: Clip, config: DataConfig, variants: int) -> tuple[Tensor, Tensor]:
        """Latents ``[V, K, forms, C, H, W]`` and tokens ``[V, K, forms, N, Di]``."""
        rows = [self._variant(clip, v, config) for v in range(variants)]
        return torch.stack([z for z, _ in rows]), torch.stack([i for _, i in rows])

    def words(self, meta: SampleMeta, references: int) -> tuple[Tensor, Tensor, Tensor]:
        """Text ``[L, Dt]``, the subject of each token ``[L]`` and of each reference ``[K]``."""
        caption, refs = meta.caption, meta.refs[:references]
        text = self.caption(caption)
        subjects = binding.numbered([r.identity_id or r.subject_id for r in refs])
        spans = [r.span for r in refs]
        named = binding.text_subject(self.text, caption, spans, subjects, len(text))
        return text, named, torch.tensor(subjects, dtype=torch.long)

    def _variant(self, clip: Clip, variant: int, config: DataConfig) -> tuple[Tensor, Tensor]:
        """Latents and tokens of the references in every form that the run draws from."""
        if not clip.references:
            none = (0, len(FORMS))
            grid = (config.height // _STRIDE, config.width // _STRIDE)
            image = torch.zeros(*none, self.image.tokens, self.image.width)
            return torch.zeros(*none, self.video.channels, *grid), image
        changed = _changed(clip.references, config.augment_references, clip.sample.id, variant)
        move = change(config.augment, clip.sample.id, variant)
        if move is not None:
            changed = [_moved(reference, move) for reference in changed]
        rows = [self._forms(reference, config) for reference in changed]
        return torch.stack([z for z, _ in rows]), torch.stack([i for _, i in rows])

    def _forms(self, reference: Reference, config: DataConfig) -> tuple[Tensor, Tensor]:
        """``[forms, C, H, W]`` and ``[forms, N, Di]``; each picture is encoded once."""
        made = forms(reference)
        wanted = [form for form in FORMS if form in config.forms]
        # What is never drawn stands in for by the first that is; what cannot be made, by the crop.
        shown = [form if form in wanted else wanted[0] for form in FORMS]
        shown = [form if form in made else "crop" for form in shown]
        coded = {form: self.reference(made[form], config) for form in sorted(set(shown))}
        rows = [coded[form] for form in shown]
        return torch.stack([z for z, _ in rows]), torch.stack([i for _, i in rows])

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.dtype == torch.float32 else x.to(self.dtype).float()


@contextmanager
def _as_declared() -> Iterator[None]:
    """Encoders compute in the precision of their fingerprint, whatever the trainer asked of torch.

    TF32, lower matrix precision and searched-for convolutions would give other latents in a
    training run than where the same clips were encoded beforehand.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _changed(
    references: Sequence[Reference], config: ReferenceAugmentConfig, sample_id: str, variant: int
) -> list[Reference]:
    """The references changed on their own, before clip and references change alike."""
    return [
        augment_references.apply(
            reference,
            augment_references.draw(config, sample_id, variant, k, flips=reference.flips),
        )
        for k, reference in enumerate(references)
    ]


def _moved(reference: Reference, move: Change) -> Reference:
    mask = None
    if reference.mask is not None:
        mask = np.ascontiguousarray(np.flip(reference.mask, 1)) if move.mirrored else reference.mask
    return replace(reference, crop=move(reference.crop), mask=mask)
