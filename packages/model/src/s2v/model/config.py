"""Typed configuration: TOML recipes, ``--set a.b=c`` overrides, no unknown keys.

Every value of a run stands in one :class:`Config`; the resolved one is written into the run
folder. A recipe states what differs from the defaults below.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.base import settings

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Strict):
    """The MMDiT. ``window`` counts latent frames and references together (paper: 9)."""

    width: Size = 128
    heads: Size = 4
    double_layers: Count = 2
    single_layers: Count = 2
    mlp_ratio: Size = 4
    patch: tuple[Size, Size, Size] = (1, 2, 2)
    attention: Literal["window", "full"] = "window"
    window: Size = 9
    #: Head dimensions for time, height, width; null shares them as (d - 4*(d//6), ...).
    rope_axes: tuple[Size, Size, Size] | None = None
    rope_theta: Positive = 10_000.0
    #: A learned vector added to reference tokens of the vision stream. Ours: a net of four
    #: layers finds its references sooner; the paper tells them apart by position alone.
    reference_embedding: bool = True

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        if self.patch[0] != 1:
            raise ValueError(
                f"patch {self.patch}: references are single latent frames, so 1 in time"
            )
        head = self.width // self.heads
        if head % 2:
            raise ValueError(f"head width {head} must be even: RoPE turns pairs")
        if self.rope_axes is not None and (
            sum(self.rope_axes) != head or any(a % 2 for a in self.rope_axes)
        ):
            raise ValueError(f"rope_axes {self.rope_axes} must be even and sum to {head}")
        return self


class EncodersConfig(_Strict):
    """Frozen encoders. ``hashed`` and ``pixels`` need no weights and know no meaning."""

    text: Literal["minilm", "hashed"] = "minilm"
    image: Literal["mobilenet", "pixels"] = "mobilenet"
    text_tokens: Size = 48


class AutoencoderConfig(_Strict):
    """The linear autoencoder fitted to the training frames."""

    channels: Size = 16
    #: ``channel``: every latent channel gets unit variance; ``global``: one scale for all,
    #: so that the loss weighs channels by the pixels they explain.
    normalise: Literal["channel", "global"] = "channel"
    #: At most this many training clips are looked at; a closed form needs no more.
    clips: Size = 256


class FlowConfig(_Strict):
    """Noise levels: ``t`` from ``distribution``, then ``s t / (1 + (s - 1) t)``."""

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: Positive = 1.0
    shift: Positive = 1.0


class DropoutConfig(_Strict):
    """What is hidden from the network while it trains.

    ``text_only``, ``references_only`` and ``both`` exclude one another; references are hidden
    at ``references_only + both`` (published: 0.1), text at ``text_only + both``. ``vae`` is
    drawn apart: it zeroes the reference latents and keeps the image tokens (paper: 0.7).
    """

    text_only: Rate = 0.1
    references_only: Rate = 0.0
    both: Rate = 0.1
    vae: Rate = 0.7
    #: Zero the latents of all references of a sample at once, or each on its own draw.
    vae_mode: Literal["all", "per_reference"] = "all"

    @model_validator(mode="after")
    def _sums(self) -> Self:
        if self.text_only + self.references_only + self.both > 1.0:
            raise ValueError("text_only + references_only + both exceed 1")
        return self


class AugmentConfig(_Strict):
    """How far a variant of a clip and its references is moved, both alike."""

    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1  # of a full turn
    saturation: Rate = 0.3
    contrast: Rate = 0.2
    brightness: Rate = 0.1
    mirror: Rate = 0.5  # how often


class DataConfig(_Strict):
    """The training window and the mixture."""

    height: Size = 96
    width: Size = 160
    frames: Size = 17
    fps: Positive = 8.0
    #: Variants cached per sample: windows spread over the clip, variants 1.. also augmented.
    variants: Size = 4
    augment: AugmentConfig = AugmentConfig()
    #: References of a sample that a step sees at most; of more candidates every epoch takes the
    #: next, so that all are seen (paper: up to four).
    max_references: Count = 4
    #: Share of samples per pair type; those that the shards lack are left out.
    mix: dict[Literal["in", "cross", "image", "t2v"], Positive] = {"in": 0.7, "cross": 0.3}
    #: Odds of the reference forms: box crop, subject on white, subject cut tight on white.
    forms: dict[Literal["crop", "white", "masked"], Positive] = {
        "crop": 1.0,
        "white": 1.0,
        "masked": 1.0,
    }
    pad: Literal["white", "grey", "black"] = "white"
    #: This many unreadable samples in a row stop the run: the shards are broken, not a sample.
    fuse: Size = 20

    @model_validator(mode="after")
    def _whole_latents(self) -> Self:
        if (self.frames - 1) % 4:
            raise ValueError(f"frames {self.frames} must be 4n+1 (1, 5, 9, 13, 17, ...)")
        if not self.mix or not self.forms:
            raise ValueError("mix and forms need at least one entry")
        return self


class OptimConfig(_Strict):
    """AdamW with warm-up; weight decay on matrices only."""

    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    final_lr: Rate = 0.1  # share of lr at the last step of the cosine
    warmup: Count = 20
    betas: tuple[Rate, Rate] = (0.9, 0.99)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    clip: Positive = 1.0
    ema: Rate = 0.99


class TrainConfig(_Strict):
    """The loop."""

    steps: Size = 400
    batch: Size = 8
    seed: int = 0
    threads: Size = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: Size = 10
    checkpoint_every: Size = 100
    keep: Size = 2
    #: Steps in a row with a non-finite loss that are skipped before the run stops.
    patience: Count = 3


class HeldoutConfig(_Strict):
    """Loss with the right against another subject's reference, on clips never trained on."""

    levels: Size = 8
    partners: Size = 3
    batch: Size = 8
    limit: Size = 64  # clips
    seed: int = 0


class SampleConfig(_Strict):
    """Euler and two guidance scales (paper: 50 steps, image 3, text 7.5)."""

    steps: Size = 50
    shift: Positive = 1.0
    image_scale: float = 3.0
    text_scale: float = 7.5
    negative_prompt: str = ""
    weights: Literal["ema", "model"] = "ema"
    seed: int = 0


class Config(_Strict):
    """All of a run."""

    network: NetworkConfig = NetworkConfig()
    encoders: EncodersConfig = EncodersConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    flow: FlowConfig = FlowConfig()
    dropout: DropoutConfig = DropoutConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    heldout: HeldoutConfig = HeldoutConfig()
    sample: SampleConfig = SampleConfig()

    def to_toml(self) -> str:
        """The resolved configuration as TOML, readable by :func:`load`."""
        lines: list[str] = []
        for section, values in self.model_dump(mode="json").items():
            lines.append(f"[{section}]")
            lines += [
                f"{key} = {_toml(value)}" for key, value in values.items() if value is not None
            ]
            lines.append("")
        return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)  # strings, numbers and booleans are written alike in both


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("s2v.model") / "recipes"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load(recipe: str | Path = "demo_tiny", overrides: Sequence[str] = ()) -> Config:
    """Read a recipe by name or a TOML file, then apply ``a.b=value`` overrides.

    Args:
        recipe: a name of :func:`recipes`, or the path of a ``.toml`` file.
        overrides: ``section.key=value``; the value is TOML, a bare word is a string.

    Raises:
        SettingsError: no such recipe or file, broken TOML, an unknown key (the nearest known
            one is named) or a value out of range.
    """
    name = str(recipe)
    if name in recipes():
        with resources.as_file(resources.files("s2v.model") / "recipes" / f"{name}.toml") as path:
            return settings.load(Config, path, overrides)
    if not Path(name).is_file():
        near = difflib.get_close_matches(name, recipes(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"recipes: {', '.join(recipes())}"
        raise settings.SettingsError(f"{name}: no such recipe or file; {hint}")
    return settings.load(Config, Path(name), overrides)


def parse(data: Mapping[str, Any], where: str) -> Config:
    """Validate the nested mapping of a stored run; ``where`` names it in errors."""
    return settings.parse(Config, dict(data), where)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """``config`` with ``a.b=value`` overrides; raises as :func:`load`."""
    if not overrides:
        return config
    changed = settings.load(Config, None, overrides).model_dump(exclude_unset=True)
    return parse(_merged(config.model_dump(), changed), "--set")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        inner = out.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        out[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]  # both checked
    return out
