"""One sample as latents and tokens, made once and cached under what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.shards import Sample
from s2v.model.config import DataConfig
from s2v.model.data.quarantine import Quarantine
from s2v.model.data.reader import Clip, Pixels, Reader
from s2v.model.data.references import FORMS, fit_and_pad
from s2v.model.encoders import ImageEncoder, TextEncoder, VideoAutoencoder
from s2v.model.errors import ModelError
from s2v.model.progress import Track, quiet

_VERSION: Final = 1


@dataclass(frozen=True)
class Features:
    """What the network needs of a sample.

    Attributes:
        video: ``[windows, C, T, H, W]`` latents.
        references: ``[K, forms, C, H, W]`` latents; a form that could not be made repeats the
            crop.
        image: ``[K, forms, N, Di]`` image tokens.
        text: ``[L, Dt]`` text tokens.
    """

    video: Tensor
    references: Tensor
    image: Tensor
    text: Tensor


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
        window = [c.height, c.width, c.frames, c.fps, c.windows, c.max_references, c.pad]
        return stable_hash([json.dumps([*made_by, *window])], 16)

    def reference(self, image: Pixels, config: DataConfig) -> tuple[Tensor, Tensor]:
        """One reference image: latents ``[C, H, W]`` of the padded image, tokens ``[N, Di]``."""
        padded = fit_and_pad(image, (config.height, config.width), config.pad)
        return self.video.encode(padded[None])[:, 0], self.image.encode(image)

    def sample(self, clip: Clip, config: DataConfig) -> Features:
        """Encode one decoded sample."""
        made = [
            [self.reference(forms.get(form, forms["crop"]), config) for form in FORMS]
            for forms in clip.references
        ]
        video = torch.stack([self.video.encode(v) for v in clip.videos])
        text = self.text.encode(clip.meta.caption)
        if not made:
            C, _, H, W = video.shape[1:]
            none = (0, len(FORMS))
            image = torch.zeros(*none, self.image.tokens, self.image.width)
            return Features(video, torch.zeros(*none, C, H, W), image, text)
        return Features(
            video=video,
            references=torch.stack([torch.stack([z for z, _ in forms]) for forms in made]),
            image=torch.stack([torch.stack([i for _, i in forms]) for forms in made]),
            text=text,
        )


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
        if len(self._memory) >= 4096:  # about 1 GB at the demo's size
            self._memory.pop(next(iter(self._memory)))
        self._memory[sample.id] = features
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
