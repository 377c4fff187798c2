"""One sample as pixels and text; pixels may be kept on disk, so that a clip is decoded once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from s2v.datapipe.base import shards
from s2v.datapipe.base.shards import MAX_REFERENCES, Sample, SampleMeta, ShardError
from s2v.model.config import DataConfig
from s2v.model.data.cached import keep
from s2v.model.data.decode import read_windows
from s2v.model.data.index import windows
from s2v.model.data.references import Reference, decode_image, decode_mask
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """A sample, decoded.

    Attributes:
        sample: its row.
        meta: its JSON.
        videos: per variant its window, ``[F, H, W, 3]``; not yet augmented.
        references: the crops with their masks, all candidates of the sample, at most six.
    """

    sample: Sample
    meta: SampleMeta
    videos: list[Pixels]
    references: list[Reference]


class Reader:
    """Reads samples of a shard folder.

    Args:
        config: window and references.
        pixels: folder to keep decoded windows in, or None. They are keyed by what they were
            made from: the clip's sha256 and the window's configuration.
    """

    def __init__(self, config: DataConfig, pixels: Path | None = None) -> None:
        self.config, self.pixels = config, pixels

    def read(self, sample: Sample, *, videos: bool = True, references: bool = True) -> Clip:
        """Read one sample, whole or in part.

        Args:
            sample: of a shard folder.
            videos: decode its windows.
            references: decode its references; else there are none, whatever it has.

        Raises:
            ModelError: anything in it is unreadable; the message names sample and member.
        """
        where = f"{sample.folder / str(sample.row['shard'])}: sample {sample.id}"
        try:
            meta = sample.meta()
            # All candidates: which of them a step sees is drawn anew every epoch (collate.shown).
            count = min(len(meta.refs), MAX_REFERENCES) if self.config.max_references else 0
            images = [
                replace(self._reference(sample, k, where), flips=_flips(meta.refs[k]))
                for k in range(count if references else 0)
            ]
            return Clip(sample, meta, self._videos(sample, where) if videos else [], images)
        except (ShardError, ModelError) as error:
            raise ModelError(str(error)) from None
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise ModelError(f"{where}, member json: {key}: {first['msg']}") from None
        except KeyError as error:
            raise ModelError(f"{where}: {error.args[0]}") from None

    def _reference(self, sample: Sample, k: int, where: str) -> Reference:
        name = f"ref{k}.jpg"
        here = f"{where}, member {name}"
        crop = decode_image(sample.read(name, verify=True), here)
        mask_name = f"ref{k}.mask.png"
        if mask_name not in sample.suffixes:
            return Reference(crop, None, here)
        data = sample.read(mask_name, verify=True)
        return Reference(crop, decode_mask(data, f"{where}, member {mask_name}"), here)

    def _videos(self, sample: Sample, where: str) -> list[Pixels]:
        data = sample.read("mp4", verify=True)
        if self.pixels is None:
            return self._decode(sample, data, where)
        path = self.pixels / f"{sample.id}-{self._key(data)}.safetensors"
        try:
            stored = load_file(path)["windows"] if path.is_file() else None
        except (SafetensorError, OSError, KeyError):
            stored = None  # a cache entry is only ever a shortcut: make it again
        if stored is not None:
            return list(stored.numpy())
        videos = self._decode(sample, data, where)
        keep(path, {"windows": torch.from_numpy(np.stack(videos))})
        return videos

    def _decode(self, sample: Sample, data: bytes, where: str) -> list[Pixels]:
        row, config = sample.row, self.config
        return read_windows(
            data,
            windows(row["frames"], row["fps"], config),
            frames=config.frames,
            size=(config.height, config.width),
            source=(row["height"], row["width"]),
            fps=row["fps"],
            where=f"{where}, member mp4",
        )

    def _key(self, data: bytes) -> str:
        c = self.config
        made_by = json.dumps([1, c.height, c.width, c.frames, c.fps, c.variants])
        return hashlib.sha256(made_by.encode() + hashlib.sha256(data).digest()).hexdigest()[:16]


def _flips(said: shards.Reference) -> bool:
    """Whether a mirrored image still shows the same subject; a person's face does not."""
    human = said.class_ == "person" or said.category == "human"
    return not human and said.scores.face_similarity is None
