"""The network that a configuration asks for: the paper's or the release's."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from torch import Tensor

from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.wan import WanModel

Network = MMDiT | WanModel

#: Options of ``[wan]`` that no checkpoint states.
OPTIONS: Final = (
    "image_width", "text_tokens", "rope_theta", "rope_precision", "reference_position",
    "reference_offset", "reference_timestep",
)  # fmt: skip


def build(config: Config, widths: Widths) -> Network:
    """A fresh network.

    Args:
        config: of the run; ``network.kind`` chooses.
        widths: of what the encoders give.

    Raises:
        ModelError: ``[wan]`` states other widths than the encoders have.
    """
    if config.network.kind == "mmdit":
        return MMDiT(config.network, widths)
    _check(config, widths)
    return WanModel(config.wan)


def start(config: Config, widths: Widths) -> Network:
    """What a new run begins with: fresh weights, or those of ``train.start_from``.

    Raises:
        ModelError: as :func:`build`; the file holds something else or other sizes.
    """
    if config.train.start_from is None:
        return build(config, widths)
    path, heads, options = _source(config, widths)
    from s2v.model.checkpoints.loading import load_wan

    model = load_wan(
        path, dtype=torch.float32, heads=heads, options=options,
        unexpected=config.train.start_pass_over,
    )  # fmt: skip
    for p in model.parameters():
        p.data = p.data.clone()  # the file's own pages must not be written to
        p.requires_grad_(True)
    _same_sizes(model, config)
    return model


def stream(config: Config, widths: Widths) -> tuple[Network, dict[str, Callable[[], Tensor]]]:
    """As :func:`start` with ``train.start_from``, but nothing is read yet.

    Returns:
        The network without memory, and what reads each of its tensors when it is called; in the
        order of ``named_parameters``, each once.

    Raises:
        ModelError: as :func:`start`.
    """
    path, heads, options = _source(config, widths)
    from s2v.model.checkpoints.loading import stream_wan

    model, values = stream_wan(
        path, heads=heads, options=options, unexpected=config.train.start_pass_over
    )
    _same_sizes(model, config)
    return model.requires_grad_(True), values


def _source(config: Config, widths: Widths) -> tuple[str, int | None, dict[str, Any]]:
    """File, heads and options of the weights to start from."""
    path = str(config.train.start_from)
    if config.network.kind != "wan":
        raise ModelError(
            f"train.start_from {path}: released weights are Wan's; set network.kind = 'wan'"
        )
    _check(config, widths)
    wan = config.wan
    options = {name: getattr(wan, name) for name in OPTIONS}
    # Shapes do not tell the number of heads where heads are not the released 128 wide.
    return path, None if wan.width % 128 == 0 else wan.heads, options


def _same_sizes(model: WanModel, config: Config) -> None:
    other = {
        name: value
        for name, value in model.config.model_dump().items()
        if value != getattr(config.wan, name)
    }
    if other:
        said = ", ".join(f"wan.{name} = {value!r}" for name, value in other.items())
        path = config.train.start_from
        raise ModelError(f"{path}: has other sizes than the configuration; set {said}")


def in_precision(model: Network, precision: str) -> Network:
    """``model`` with its weights in ``float32`` or ``bfloat16``, changed in place.

    Of Wan's network the time vector's layers and the modulation stay float32, as when it is loaded
    so (:data:`s2v.model.checkpoints.loading.WIDE`).
    """
    from s2v.model.checkpoints.loading import WIDE

    wide = WIDE if isinstance(model, WanModel) else ()
    half = precision == "bfloat16"
    for name, p in model.named_parameters():
        lower = half and not any(fnmatchcase(name, pattern) for pattern in wide)
        p.data = p.data.to(torch.bfloat16 if lower else torch.float32)
    return model


def described(config: Config) -> dict[str, Any]:
    """What a checkpoint says of its network."""
    if config.network.kind == "mmdit":
        return config.network.model_dump(mode="json")
    return {"kind": "wan", **config.wan.model_dump(mode="json")}


def patch_of(config: Config) -> tuple[int, int, int]:
    """Latents per token in time, height and width."""
    return config.wan.patch if config.network.kind == "wan" else config.network.patch


def _check(config: Config, widths: Widths) -> None:
    wan = config.wan
    if config.network.subject_ids:
        raise ModelError(
            f"network.subject_ids {config.network.subject_ids}: Wan binds by words and looks "
            "alone; set it to 0"
        )
    wanted = {"in_channels": widths.latent, "out_channels": widths.latent}
    wanted["text_width"] = widths.text
    if wan.image_width is not None:
        wanted["image_width"] = widths.image
    other = {name: value for name, value in wanted.items() if getattr(wan, name) != value}
    if other:
        said = ", ".join(f"wan.{name} = {value}" for name, value in other.items())
        raise ModelError(f"the encoders' widths are not those of [wan]; set {said}")
    if config.encoders.text_tokens > wan.text_tokens:
        raise ModelError(
            f"encoders.text_tokens {config.encoders.text_tokens} exceeds wan.text_tokens "
            f"{wan.text_tokens}; lower the first or raise the second"
        )
