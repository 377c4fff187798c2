"""One sample as latents and tokens, made once and cached under what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.shards import Sample
from s2v.model import binding
from s2v.model.config import DataConfig, ReferenceAugmentConfig
from s2v.model.data import augment_references
from s2v.model.data.augment import Change, change
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Clip, Pixels, Reader
from s2v.model.data.references import FORMS, Reference, fit_and_pad, forms
from s2v.model.encoders import ImageEncoder, TextEncoder, VideoAutoencoder
from s2v.model.errors import ModelError
from s2v.model.progress import Track, quiet

MEMORY_BYTES: Final = 1 << 30
_VERSION: Final = 2  # 2: all references that a sample has; whose phrase a word belongs to


@dataclass(frozen=True)
class Features:
    """What the network needs of a sample.

    Attributes:
        video: ``[V, C, T, H, W]`` latents, per variant.
        references: ``[V, K, forms, C, H, W]`` latents of all K candidates; a form that could not
            be made repeats the crop.
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


@dataclass(frozen=True)
class Encoders:
    """The frozen encoders of a run."""

    text: TextEncoder
    image: ImageEncoder
    video: VideoAutoencoder

    def fingerprint(self, config: DataConfig) -> str:
        """16 hex over the encoders and all that happens to pixels before them."""
        c = config
        made_by = [_VERSION, self.text.id, self.image.id, self.video.fingerprint]
        window = [c.height, c.width, c.frames, c.fps, c.variants, c.max_references > 0, c.pad]
        moved = [sorted(a.model_dump().items()) for a in (c.augment, c.augment_references)]
        return stable_hash([json.dumps([*made_by, *window, *moved])], 16)

    def reference(self, image: Pixels, config: DataConfig) -> tuple[Tensor, Tensor]:
        """One reference image: latents ``[C, H, W]`` of the padded image, tokens ``[N, Di]``."""
        padded = fit_and_pad(image, (config.height, config.width), config.pad)
        return self.video.encode(padded[None])[:, 0], self.image.encode(image)

    def sample(self, clip: Clip, config: DataConfig) -> Features:
        """Encode one decoded sample in all its variants."""
        variants = [
            self._variant(
                video,
                _changed(clip.references, config.augment_references, clip.sample.id, v),
                change(config.augment, clip.sample.id, v),
                config,
            )
            for v, video in enumerate(clip.videos)
        ]
        video, references, image = (torch.stack(parts) for parts in zip(*variants, strict=True))
        caption, refs = clip.meta.caption, clip.meta.refs[: len(clip.references)]
        text = self.text.encode(caption)
        subjects = binding.numbered([r.identity_id or r.subject_id for r in refs])
        return Features(
            video,
            references,
            image,
            text,
            binding.text_subject(self.text, caption, [r.span for r in refs], subjects, len(text)),
            torch.tensor(subjects, dtype=torch.long),
        )

    def _variant(
        self,
        video: Pixels,
        references: Sequence[Reference],
        move: Change | None,
        config: DataConfig,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of the video, latents and tokens of the references in every form."""
        if move is not None:
            video = move(video)
            references = [_moved(reference, move) for reference in references]
        z = self.video.encode(video)
        made = [forms(reference) for reference in references]
        coded = [[self.reference(m.get(f, m["crop"]), config) for f in FORMS] for m in made]
        if not coded:
            C, _, H, W = z.shape
            none = (0, len(FORMS))
            image = torch.zeros(*none, self.image.tokens, self.image.width)
            return z, torch.zeros(*none, C, H, W), image
        latents = torch.stack([torch.stack([z for z, _ in row]) for row in coded])
        return z, latents, torch.stack([torch.stack([i for _, i in row]) for row in coded])


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


class FeatureStore:
    """Features by sample, from memory, from disk, or made.

    Args:
        reader: reads what is not cached.
        encoders: encode it.
        folder: the cache; entries of other encoders live beside these and are not touched.
    """

    def __init__(self, reader: Reader, encoders: Encoders, folder: Path) -> None:
        self.encoders, self.config = encoders, reader.config
        self._reader = reader
        self.folder = folder / encoders.fingerprint(reader.config)
        self._memory: dict[str, Features] = {}
        self._bytes = 0

    def get(self, sample: Sample) -> Features:
        """Features of one sample.

        Raises:
            ModelError: it has to be read and cannot be.
        """
        if (found := self._memory.get(sample.id)) is not None:
            return found
        path = self.folder / f"{sample.id}-{_content(sample)}.safetensors"
        features = self._load(path)
        if features is None:
            features = self.encoders.sample(self._reader.read(sample), self.config)
            with replacing(path) as temporary:
                save_file({k: v.contiguous() for k, v in vars(features).items()}, temporary)
        self._keep(sample.id, features)
        return features

    def prepare(
        self,
        samples: Sequence[Sample],
        quarantine: Quarantine,
        title: str = "encode",
        track: Track = quiet,
    ) -> tuple[Sample, ...]:
        """Make and cache what is missing; unreadable samples are set aside, not fatal.

        Returns:
            The readable samples, in the order given.

        Raises:
            ModelError: the quarantine's fuse is spent, or no sample is readable.
        """
        readable = []
        with track(title, len(samples)) as step:
            for sample in samples:
                try:
                    self.get(sample)
                except ModelError as error:
                    quarantine.add(sample.id, error)
                else:
                    quarantine.good()
                    readable.append(sample)
                step(1, f"{len(quarantine.faults)} unreadable" if quarantine.faults else "")
        quarantine.close()
        return tuple(readable)

    def _keep(self, sample_id: str, features: Features) -> None:
        """Hold in memory; the oldest go when there are too many."""
        self._memory[sample_id] = features
        self._bytes += features.bytes
        while self._bytes > MEMORY_BYTES and len(self._memory) > 1:
            self._bytes -= self._memory.pop(next(iter(self._memory))).bytes

    @staticmethod
    def _load(path: Path) -> Features | None:
        if not path.is_file():
            return None
        try:
            return Features(**load_file(path))
        except (SafetensorError, TypeError):
            return None  # an entry is only ever a shortcut: make it again


def _content(sample: Sample) -> str:
    """8 hex over the members' digests: a caption may change while the sample keeps its id."""
    return stable_hash(f"{m['suffix']}:{m['sha256']}" for m in sample.row["members"])[:8]
