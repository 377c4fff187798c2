"""A training run's folder, and what all commands that touch one share.

``config.json config.toml``  resolved configuration
``autoencoder.safetensors autoencoder.json``  the latent space and its report
``cache/``                   pixels and features; may be deleted
``checkpoints/``             see :mod:`s2v.model.checkpoint`
``metrics.jsonl``            one line per step
``quarantine.jsonl``         samples that could not be read
``lora.safetensors``         pairs of a LoRA (``tune.kind = "lora"``)
``samples/step-*/``          of the averaged weights (``validation.sample_every``)
``result.json``              written at the end
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2v.datapipe.base.atomic import write_bytes, write_json
from s2v.datapipe.base.shards import ShardIndex
from s2v.model import autoencoder, checkpoint, tune
from s2v.model import config as configuration
from s2v.model.config import Config
from s2v.model.config_parallel import ParallelConfig
from s2v.model.config_plan import PlanConfig
from s2v.model.config_sample import SampleConfig
from s2v.model.config_validation import ValidationConfig
from s2v.model.data.features import Encoders, FeatureStore
from s2v.model.data.index import select
from s2v.model.data.plan import permuted
from s2v.model.data.quarantine import Fault, Quarantine
from s2v.model.data.reader import Pixels, Reader
from s2v.model.data.references import fit_and_pad
from s2v.model.encoders import VideoAutoencoder, image_encoder, text_encoder, wan_vae
from s2v.model.errors import ModelError
from s2v.model.networks import Network, build
from s2v.model.progress import Track, quiet

#: What may change between two starts of one run without changing a step that was done.
_FREE: dict[str, set[str]] = {
    "train": {
        "steps",
        "threads",
        "device",
        "log_every",
        "log",
        "checkpoint_every",
        "checkpoint_minutes",
        "checkpoint_async",
        "keep",
        "patience",
    },
    "parallel": set(ParallelConfig.model_fields),
    # How samples are read; and lists, which pass samples over and move no others.
    "data": {"exclusions", "fuse", "prepare", "workers", "prefetch_mb", "worker_timeout_s"},
    "heldout": set(configuration.HeldoutConfig.model_fields),
    "sample": set(SampleConfig.model_fields),
    "plan": set(PlanConfig.model_fields),
    "validation": set(ValidationConfig.model_fields),
    # Where weights lie; what they are stands in the features' fingerprint.
    "encoders": {"text_weights", "text_tokenizer", "image_weights"},
    "autoencoder": {"weights"},
    "latents": {"use", "folder"},
}


class Run:
    """Paths of a run folder."""

    def __init__(self, folder: str | Path, cache: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.cache = Path(cache) if cache is not None else self.folder / "cache"
        self.autoencoder = self.folder / "autoencoder.safetensors"
        self.checkpoints = self.folder / "checkpoints"
        self.metrics = self.folder / "metrics.jsonl"
        self.quarantine = self.folder / "quarantine.jsonl"
        self.lora = self.folder / "lora.safetensors"
        self.samples = self.folder / "samples"
        self.result = self.folder / "result.json"

    def begin(self, config: Config) -> None:
        """Write the configuration, or check that the run there was started with the same.

        Raises:
            ModelError: the folder holds a run of another configuration.
        """
        path = self.folder / "config.json"
        if path.is_file() and (changed := _changes(self.config(), config)):
            raise ModelError(
                f"{self.folder}: holds a run of another configuration ({changed}); "
                "give another --out, or the old values to go on"
            )
        write_json(path, config.model_dump(mode="json"))
        write_bytes(self.folder / "config.toml", config.to_toml().encode())

    @staticmethod
    def digest(config: Config) -> str:
        """16 hex over all values of a configuration."""
        said = json.dumps(config.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The stored configuration, with overrides of what a run is not bound to.

        Raises:
            ModelError: not a run folder, or an override of what its weights were trained with.
        """
        path = self.folder / "config.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelError(f"{self.folder}: not a run folder (no config.json)") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelError(
                f"{path}: broken ({error}); restore it, or give another --out"
            ) from None
        stored = configuration.parse(data, str(path))
        changed = configuration.override(stored, overrides)
        if bound := _changes(stored, changed):
            raise ModelError(
                f"--set: {bound}: the run's weights were trained with it; free are "
                f"{', '.join(sorted(_FREE))} (of train only {', '.join(sorted(_FREE['train']))}; "
                f"of data only {', '.join(sorted(_FREE['data']))})"
            )
        return changed

    def encoders(self, config: Config) -> Encoders:
        """The frozen encoders; a linear autoencoder must have been fitted."""
        return Encoders(
            text_encoder(config.encoders, device_of(config)),
            image_encoder(config.encoders, device_of(config)),
            self._latent_space(config),
            getattr(torch, config.latents.dtype),
        )

    def _latent_space(self, config: Config) -> VideoAutoencoder:
        if config.autoencoder.kind == "linear":
            return autoencoder.LinearAutoencoder.load(self.autoencoder)
        return wan_vae(config.autoencoder, device_of(config))

    def reader(self, config: Config) -> Reader:
        """A reader that keeps decoded windows in the cache."""
        return Reader(config.data, self.cache / "pixels")

    def store(self, config: Config, variants: int | None = None) -> FeatureStore:
        """The cached features; ``variants=1`` for samples that are measured, not trained on."""
        if variants is not None:
            data = config.data.model_copy(update={"variants": variants})
            config = config.model_copy(update={"data": data})
        return FeatureStore(
            self.reader(config), self.encoders(config), self.cache / "features", config.latents
        )

    def network(self, which: str, device: torch.device) -> tuple[Network, dict[str, Any]]:
        """The newest checkpoint's network and ``{"step", "weights", "sha256", ...}``.

        Raises:
            ModelError: the run has no checkpoint yet.
        """
        path = checkpoint.latest(self.checkpoints)
        if path is None:
            raise ModelError(f"{self.checkpoints}: no checkpoint yet; train first")
        weights, about, digest = checkpoint.load_weights(path, which)
        config = self.config()
        model = build(config, checkpoint.widths_of(about))
        model.load_state_dict(tune.plain(weights, config.tune))
        step = checkpoint.describe(path).step
        facts = {"step": step, "weights": which, "sha256": digest, "features": about["features"]}
        return model.to(device).eval(), facts


@dataclass(frozen=True)
class AutoencoderReport:
    """What the fitted latent space keeps.

    Attributes:
        fingerprint: of the stored numbers.
        explained: share of the variance of training patches.
        train_samples: fitted to.
        train_psnr_db: mean over their videos.
        heldout_samples: never fitted to; 0 where the shards hold none out.
        heldout_psnr_db: mean over those, None without any.
        faults: unreadable training samples.
    """

    fingerprint: str
    explained: float
    train_samples: int
    train_psnr_db: float
    heldout_samples: int
    heldout_psnr_db: float | None
    faults: tuple[Fault, ...]


def fit_autoencoder(
    config: Config, shards: str | Path, run: Run, track: Track = quiet
) -> AutoencoderReport:
    """Fit the latent space to training clips and measure it on held-out ones.

    Writes ``autoencoder.safetensors`` and ``autoencoder.json`` into the run. References of
    training samples are fitted as stills, since they are coded in the same space.

    Raises:
        ModelError: no readable training sample.
    """
    torch.set_num_threads(config.train.threads)
    index = ShardIndex.open(shards)
    reader = run.reader(config)
    samples = select(index, config.data, "train").samples
    if len(samples) > config.autoencoder.clips:
        order = range(config.autoencoder.clips)
        samples = tuple(samples[permuted(i, len(samples), "autoencoder")] for i in order)
    quarantine = Quarantine(config.data.fuse)
    videos: list[Pixels] = []
    stills: list[Pixels] = []
    with track("decode", len(samples)) as step:
        for sample in samples:
            try:
                clip = reader.read(sample)
            except ModelError as error:
                quarantine.add(sample.id, error)
            else:
                quarantine.good()
                videos.append(clip.videos[0])
                stills += [_padded(reference.crop, config)[None] for reference in clip.references]
            step()
    quarantine.close()
    made = autoencoder.fit(
        [*videos, *stills],
        channels=config.autoencoder.channels,
        normalise=config.autoencoder.normalise,
    )
    heldout = _heldout_videos(index, config, reader)
    report = AutoencoderReport(
        fingerprint=made.fingerprint,
        explained=made.explained,
        train_samples=len(videos),
        train_psnr_db=_mean_psnr(made, videos),
        heldout_samples=len(heldout),
        heldout_psnr_db=_mean_psnr(made, heldout) if heldout else None,
        faults=tuple(quarantine.faults),
    )
    write_json(run.folder / "autoencoder.json", asdict(report))
    made.save(run.autoencoder)  # last: its presence says that fitting is done
    return report


def _padded(image: Pixels, config: Config) -> Pixels:
    return fit_and_pad(image, (config.data.height, config.data.width), config.data.pad)


def _heldout_videos(index: ShardIndex, config: Config, reader: Reader) -> list[Pixels]:
    try:
        samples = select(index, config.data, "heldout").samples
    except ModelError:
        return []
    single = Reader(reader.config.model_copy(update={"variants": 1}), reader.pixels)
    videos = []
    for sample in samples[: config.heldout.limit]:
        try:
            videos.append(single.read(sample).videos[0])
        except ModelError:
            continue  # the held-out measure quarantines it by name
    return videos


def _mean_psnr(made: autoencoder.LinearAutoencoder, videos: list[Pixels]) -> float:
    return round(float(np.mean([made.psnr(video) for video in videos])), 3)


def device_of(config: Config) -> torch.device:
    """``auto`` is the first GPU where there is one."""
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.train.device)


def _changes(before: Config, now: Config) -> str:
    """What differs of the values that a run is bound to, as ``key: old -> new``."""
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    return ", ".join(
        f"{section}.{key}: {old[section][key]!r} -> {value!r}"
        for section, values in new.items()
        for key, value in values.items()
        if key not in _FREE.get(section, ()) and old[section][key] != value
    )
