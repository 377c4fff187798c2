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
from s2v.model.config_encoders import AutoencoderConfig, EncodersConfig
from s2v.model.config_latents import LatentsConfig
from s2v.model.config_sample import SampleConfig
from s2v.model.config_types import Count, Positive, Rate, Size
from s2v.model.wan_config import WanConfig


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Strict):
    """The MMDiT. ``window`` counts latent frames and references together (paper: 9).

    Where the paper is silent, or the release does otherwise, the other readings are options;
    ``docs/network.md`` says which is whose.
    """

    #: ``mmdit``: the paper's, whose sizes stand here; ``wan``: the release's, of ``[wan]``.
    kind: Literal["mmdit", "wan"] = "mmdit"
    width: Size = 128
    heads: Size = 4
    double_layers: Count = 2
    single_layers: Count = 2
    mlp_ratio: Size = 4
    patch: tuple[Size, Size, Size] = (1, 2, 2)
    attention: Literal["window", "full"] = "window"
    window: Size = 9
    #: Every second block starts its windows half a window later (SeedVR's blocks, which the
    #: paper cites; itself it mentions no shift).
    shift_windows: bool = False
    #: ``bias``: absent keys are masked in one call; ``packed``: a call per row on what is
    #: there. The same numbers; the seam for kernels of variable length.
    masking: Literal["bias", "packed"] = "bias"
    #: Rotary positions of references: ``slot`` of their window (paper), ``tail``: time goes on
    #: behind the video (release), ``offset``: the same ``reference_offset`` later, ``negative``:
    #: times -1, -2, ...; ``spatial-offset``: time -1, one grid further down and right each.
    reference_position: Literal["slot", "tail", "offset", "negative", "spatial-offset"] = "slot"
    reference_offset: Count = 0
    #: Noise level that modulates reference tokens: the video's (release), or zero: they are clean.
    reference_timestep: Literal["same", "zero"] = "same"
    #: ``rms`` per head (SD3.5, HunyuanVideo), or none (SD3).
    qk_norm: Literal["rms", "none"] = "rms"
    #: Learned vectors that a phrase's words share with its reference's tokens, one per subject;
    #: 0: none, as in the paper, where words and looks alone bind.
    subject_ids: Count = 0
    #: ``mean``: the mean text feature joins the time vector (SD3 and HunyuanVideo add a pooled
    #: CLIP text there; the paper names none).
    pooled_text: Literal["none", "mean"] = "none"
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
        if self.double_layers + self.single_layers == 0:
            raise ValueError("double_layers + single_layers is 0: a network needs a block")
        if self.rope_axes is not None and (
            sum(self.rope_axes) != head or any(a % 2 for a in self.rope_axes)
        ):
            raise ValueError(f"rope_axes {self.rope_axes} must be even and sum to {head}")
        return self


class FlowConfig(_Strict):
    """Noise levels and weights of the loss.

    ``u`` from ``distribution``, then ``t = s u / (1 + (s - 1) u)``. The paper says "after SD3";
    its numbers are not published.
    """

    distribution: Literal["logit_normal", "uniform", "mode"] = "logit_normal"
    mean: float = 0.0
    std: Positive = 1.0
    #: ``mode`` of SD3: ``1 - u - m (cos^2(pi u / 2) - 1 + u)``; monotone for these values.
    mode_scale: Annotated[float, Field(ge=-1.0, le=1.7519)] = 1.29
    #: How ``s`` follows the number S of video tokens: ``const``: ``shift``; ``sqrt``: ``shift *
    #: sqrt(S / base_tokens)`` (SD3); ``exp``: ``exp(mu)``, mu linear in S (Flux).
    shift_rule: Literal["const", "sqrt", "exp"] = "const"
    shift: Positive = 1.0
    base_tokens: Size = 4096
    #: Two points of Flux's line: tokens and mu.
    exp_tokens: tuple[Size, Size] = (256, 4096)
    exp_mu: tuple[float, float] = (0.5, 1.15)
    #: Weight of a level: ``none``; ``cosmap`` (SD3); ``linear``: ``1 + shift t``; ``bell``:
    #: ``exp(-2 (t - 1/2)^2)`` of mean 1.
    weighting: Literal["none", "cosmap", "linear", "bell"] = "none"
    #: ``sample``: every sample counts alike; ``token``: every token does, so large clips count
    #: more where sizes differ.
    reduction: Literal["sample", "token"] = "sample"

    @model_validator(mode="after")
    def _line(self) -> Self:
        if self.exp_tokens[0] == self.exp_tokens[1]:
            raise ValueError(f"exp_tokens {self.exp_tokens}: two different counts make a line")
        return self


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
    #: Hides image tokens and keeps the latents, drawn apart from all others, in ``image_mode``.
    #: The paper has none.
    image: Rate = 0.0
    image_mode: Literal["all", "per_reference"] = "all"

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


class ReferenceAugmentConfig(_Strict):
    """Changes of references alone, which keep a network from pasting them (Video Alchemist;
    noise: Concat-ID). Each with its odds; off by default: Phantom publishes none.

    Variant 0 of a sample stays as it is. Faces are never flipped: a mirrored face is another
    one, and the network would learn to mirror it.
    """

    odds: Rate = 0.0
    downscale: Annotated[float, Field(ge=1.0, le=16.0)] = 4.0  # at most, of each side
    blur: Annotated[float, Field(ge=0.0, le=0.1)] = 0.01  # sigma at most, of the short side
    jitter: Rate = 0.2  # factor of each colour channel
    brightness: Rate = 0.2
    flip: bool = True  # half of the time; never a person or a face
    shear: Annotated[float, Field(ge=0.0, le=45.0)] = 10.0  # degrees at most
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0  # degrees at most
    noise: Rate = 0.05  # standard deviation at most, of white


class DataConfig(_Strict):
    """The training window and the mixture."""

    height: Size = 96
    width: Size = 160
    frames: Size = 17
    fps: Positive = 8.0
    #: Variants cached per sample: windows spread over the clip, variants 1.. also augmented.
    variants: Size = 4
    augment: AugmentConfig = AugmentConfig()
    augment_references: ReferenceAugmentConfig = ReferenceAugmentConfig()
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

    #: Weights to start from (``network.kind = "wan"``): a released checkpoint of any layout.
    start_from: str | None = None
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


class Config(_Strict):
    """All of a run."""

    network: NetworkConfig = NetworkConfig()
    wan: WanConfig = WanConfig()
    encoders: EncodersConfig = EncodersConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    flow: FlowConfig = FlowConfig()
    dropout: DropoutConfig = DropoutConfig()
    data: DataConfig = DataConfig()
    latents: LatentsConfig = LatentsConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    heldout: HeldoutConfig = HeldoutConfig()
    sample: SampleConfig = SampleConfig()

    @model_validator(mode="after")
    def _enough_ids(self) -> Self:
        ids, most = self.network.subject_ids, self.data.max_references
        if 0 < ids < most:
            raise ValueError(
                f"network.subject_ids {ids} does not cover data.max_references {most}; "
                "raise it, or 0 for none"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Self:
        _, ph, pw = (self.wan if self.network.kind == "wan" else self.network).patch
        for name, patch in (("height", ph), ("width", pw)):
            size, unit = getattr(self.data, name), 8 * patch
            if size % unit:
                below = size // unit * unit
                near = f"{below} or {below + unit}" if below else str(unit)
                raise ValueError(
                    f"data.{name} {size} does not divide by {unit} (8 pixels a latent, "
                    f"{patch} latents a token); take {near}"
                )
        return self

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
