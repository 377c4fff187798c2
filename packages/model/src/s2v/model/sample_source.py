"""What videos are made with: a run's newest checkpoint, or a Wan network from anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from s2v.model import networks
from s2v.model.checkpoints import identify
from s2v.model.checkpoints.loading import find, load_wan
from s2v.model.checkpoints.weights import Weights
from s2v.model.checkpoints.writing import digests
from s2v.model.config import Config
from s2v.model.data.features import Encoders
from s2v.model.encoders import image_encoder, text_encoder
from s2v.model.errors import ModelError
from s2v.model.networks import Network
from s2v.model.progress import Track, shown
from s2v.model.run import Run, device_of
from s2v.model.wan_config import WanConfig

_CHANNELS: Final = 16  # of Wan2.1's latents
#: The recipe that weights without a run are sampled with, where no other is named.
RECIPE: Final = "phantom_wan_1_3b_480p"


@dataclass(frozen=True)
class Source:
    """All that sampling needs but the request.

    Attributes:
        model: in the host's memory, in ``sample.precision``: encoders go first on a GPU.
        encoders: what it was trained with.
        config: of the run, or the recipe with the network's own sizes.
        facts: which weights these are; JSON values, for the provenance.
    """

    model: Network
    encoders: Encoders
    config: Config
    facts: dict[str, Any]


def of_run(folder: str | Path, config: Config | None = None, track: Track = shown) -> Source:
    """A run's newest checkpoint.

    Args:
        folder: the run.
        config: only its ``sample`` section may differ from the run's own.
        track: where progress is shown.

    Raises:
        ModelError: no run, no checkpoint, or one of other encoders.
    """
    run = Run(folder)
    config = config or run.config()
    _there(config)
    with track("load", 2) as step:
        encoders = run.encoders(config)
        step(1)
        model, facts = run.network(config.sample.weights, torch.device("cpu"))
        if facts["features"] != encoders.fingerprint(config.data):
            raise ModelError(f"{folder}: its checkpoint was trained on features of other encoders")
        model = networks.in_precision(model, config.sample.precision)
        step(1)
    return Source(model, encoders, config, facts)


def of_weights(
    path: str | Path, config: Config, track: Track = shown, *, pass_over: Sequence[str] = ()
) -> Source:
    """A Wan network that no run of ours made: Phantom-Wan, Wan2.1-T2V, an export of ours.

    Args:
        path: a file, an index of shards or a folder, in any layout.
        config: names the encoders' weights; ``network.kind`` is ``wan``. Sizes of ``[wan]`` are
            read off the file, and so are its options where our own metadata states them.
        track: where progress is shown.
        pass_over: patterns of tensors that the file holds and the network has not.

    Raises:
        ModelError: another model, one whose latents are not the autoencoder's, or encoders
            that are missing or do not fit.
    """
    if config.network.kind != "wan":
        raise ModelError(
            f"{path}: weights without a run are Wan's, but the configuration asks for "
            f"network.kind = {config.network.kind!r}; use --recipe {RECIPE}"
        )
    if config.autoencoder.kind != "wan":
        raise ModelError(
            "autoencoder.kind = 'linear' is fitted by training and no part of such weights; set "
            "autoencoder.kind = 'wan' and autoencoder.weights"
        )
    _there(config)
    weights, identity = find(Path(path), identify.WAN)
    heads = None if config.wan.width % identify.HEAD == 0 else config.wan.heads
    wan, options = _sizes(weights, identity, config.wan, heads)
    config = config.model_copy(update={"wan": wan})
    device = device_of(config)
    half = config.sample.precision == "bfloat16"
    with track("load", 2) as step:
        encoders = _encoders(config, device)
        _check(weights.path, wan, encoders)
        step(1)
        model = load_wan(
            path, dtype=torch.bfloat16 if half else torch.float32, heads=heads, options=options,
            unexpected=pass_over,
        )  # fmt: skip
        model = model.eval().requires_grad_(False)
        step(1)
    return Source(model, encoders, config, _facts(weights, identity))


def _sizes(
    weights: Weights, identity: identify.Identity, asked: WanConfig, heads: int | None
) -> tuple[WanConfig, dict[str, Any]]:
    """The network's configuration, and what of it the file does not say."""
    found = identify.wan_config(weights, identity, heads)
    if (found.in_channels, found.out_channels) != (_CHANNELS, _CHANNELS):
        raise ModelError(
            f"{weights.path}: {identity.model} takes {found.in_channels} latent channels, Wan2.1's "
            f"autoencoder has {_CHANNELS}; give Phantom-Wan or Wan2.1-T2V"
        )
    options = {}
    if not identify.states_options(weights):
        options = {name: getattr(asked, name) for name in networks.OPTIONS}
        if options["image_width"] is None:  # the file has the branch, or it has not
            del options["image_width"]
    return WanConfig(**{**found.model_dump(), **options}), options


def _there(config: Config) -> None:
    """Whether all that will be read is there, before the first 11 GB of it are."""
    places = {
        "encoders.text_weights": config.encoders.text_weights,
        "encoders.text_tokenizer": config.encoders.text_tokenizer,
        "encoders.image_weights": config.encoders.image_weights,
        "autoencoder.weights": config.autoencoder.weights,
    }
    for name, place in places.items():
        if place is not None and not Path(place).exists():
            raise ModelError(f"{name} {place}: no such file or folder; set it to where it lies")


def _encoders(config: Config, device: torch.device) -> Encoders:
    from s2v.model.wan_encoders import WanVae

    return Encoders(
        text_encoder(config.encoders, device),
        image_encoder(config.encoders, device),
        WanVae.load(str(config.autoencoder.weights), device=device),
    )


def _check(path: Path, wan: WanConfig, encoders: Encoders) -> None:
    for name, has, wants in (
        ("text", encoders.text.width, wan.text_width),
        ("image", encoders.image.width, wan.image_width),
    ):
        if wants is not None and has != wants:
            raise ModelError(
                f"{path}: takes {name} features {wants} wide, those of encoders.{name} are {has}; "
                f"give the encoder that it was trained with (encoders.{name}_weights)"
            )


def _facts(weights: Weights, identity: identify.Identity) -> dict[str, Any]:
    files = digests(weights.files)
    one = next(iter(files.values()))
    if len(files) > 1:
        one = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return {
        "name": identity.model,
        "layout": identity.layout,
        "files": files,
        "sha256": one,
    }
