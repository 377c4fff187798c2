"""Typed configuration: TOML recipes, ``--set a.b=c`` overrides, no unknown keys.

Every value of a run stands in one :class:`Config`; the resolved one is written into the run
folder. A recipe states what differs from the defaults below, or from another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.base import settings
from s2v.model import config_recipes
from s2v.model.config_data import AugmentConfig as AugmentConfig  # noqa: PLC0414 - offered here
from s2v.model.config_data import DataConfig as DataConfig  # noqa: PLC0414 - offered here
from s2v.model.config_data import (
    ReferenceAugmentConfig as ReferenceAugmentConfig,  # noqa: PLC0414 - offered here
)
from s2v.model.config_encoders import AutoencoderConfig, EncodersConfig
from s2v.model.config_latents import LatentsConfig
from s2v.model.config_parallel import ParallelConfig
from s2v.model.config_plan import PlanConfig
from s2v.model.config_sample import SampleConfig
from s2v.model.config_tune import TuneConfig
from s2v.model.config_types import Count, Positive, Rate, Size
from s2v.model.config_validation import ValidationConfig
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
    #: Patterns of tensors that its file holds and the network has not, to be passed over.
    start_pass_over: tuple[str, ...] = ()
    steps: Size = 400
    #: Micro-batches of a step, whatever the number of GPUs; ranks share them evenly.
    slots: Size = 1
    #: Samples of a micro-batch of the dearest size; cheaper sizes get more where
    #: ``data.max_tokens`` allows it.
    batch: Size = 8
    seed: int = 0
    threads: Size = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: Size = 10
    #: Where metrics go besides ``metrics.jsonl``.
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()
    checkpoint_every: Size = 100
    #: Minutes between two checkpoints at most, whatever ``checkpoint_every`` says; null: no bound.
    checkpoint_minutes: Positive | None = None
    #: Write while training goes on, from a copy in host memory; false: stand still, and no copy.
    checkpoint_async: bool = True
    keep: Size = 2
    #: Steps in a row with a non-finite loss that are skipped before the run stops.
    patience: Count = 3


class HeldoutConfig(_Strict):
    """Loss with the right against another subject's reference, on clips never trained on."""

    levels: Size = 8
    #: ``training``: the quantiles of the levels that training draws, weighted as there: the mean
    #: is the expected training loss. ``uniform``: ``(i + 0.5) / levels``, to compare recipes.
    spread: Literal["training", "uniform"] = "training"
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
    tune: TuneConfig = TuneConfig()
    parallel: ParallelConfig = ParallelConfig()
    heldout: HeldoutConfig = HeldoutConfig()
    sample: SampleConfig = SampleConfig()
    validation: ValidationConfig = ValidationConfig()
    plan: PlanConfig = PlanConfig()

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
        asked = [("data.height", self.data.height, ph), ("data.width", self.data.width, pw)]
        for n, phase in enumerate(self.data.stages()):
            named = f"data.phases[{n - 1}].sizes" if n else "data.sizes"
            for frames, height, width in phase.sizes if self.data.sizes or n else ():
                where = f"{named} [{frames}, {height}, {width}]"
                asked += [(f"{where}: height", height, ph), (f"{where}: width", width, pw)]
        for name, size, patch in asked:
            unit = 8 * patch
            if size % unit:
                below = size // unit * unit
                near = f"{below} or {below + unit}" if below else str(unit)
                raise ValueError(
                    f"{name} {size} does not divide by {unit} (8 pixels a latent, "
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
        said = {k: v for k, v in value.items() if v is not None}  # TOML has no null
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in said.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value)  # strings, numbers and booleans are written alike in both


def recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return config_recipes.names()


def load(recipe: str | Path = "demo_tiny", overrides: Sequence[str] = ()) -> Config:
    """Read a recipe by name or a TOML file, then apply ``a.b=value`` overrides.

    Args:
        recipe: a name of :func:`recipes`, the path of a ``.toml`` file, or several joined by
            ``+``: each is laid over those before it.
        overrides: ``section.key=value``; the value is TOML, a bare word is a string.

    Raises:
        SettingsError: no such recipe or file, broken TOML, an unknown key (the nearest known
            one is named) or a value out of range.
    """
    data, where = config_recipes.gather(str(recipe), Config)
    settings.apply(data, overrides)
    return parse(data, where)


def parse(data: Mapping[str, Any], where: str) -> Config:
    """Validate the nested mapping of a stored run; ``where`` names it in errors."""
    return settings.parse(Config, dict(data), where)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """``config`` with ``a.b=value`` overrides; raises as :func:`load`."""
    if not overrides:
        return config
    # As a model first: a preset among them brings values of its own.
    changed = settings.load(Config, None, overrides).model_dump(exclude_unset=True)
    return parse(config_recipes.merged(Config, config.model_dump(), changed), "--set")
