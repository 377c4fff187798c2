"""What is trained on: sizes, the mixture and how both change over the steps, references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from s2v.model.config_types import Count, Positive, Rate, Size
from s2v.model.config_types import Strict as _Strict

PairType = Literal["in", "cross", "image", "t2v"]
#: Frames, height, width.
VideoSize = tuple[Size, Size, Size]


@dataclass(frozen=True)
class Stage:
    """What holds from one step on, all inherited values filled in."""

    from_step: int
    mix: dict[PairType, float]
    sizes: tuple[VideoSize, ...]


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


class PhaseConfig(_Strict):
    """From a step on, another mixture or other sizes; what is not said stays as before.

    The papers train in stages: in-pairs before cross-pairs, 256p and 480p before 720p.
    """

    #: Finished steps after which it holds.
    from_step: Size
    mix: dict[PairType, Positive] | None = None
    sizes: tuple[VideoSize, ...] | None = None


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
    mix: dict[PairType, Positive] = {"in": 0.7, "cross": 0.3}  # noqa: RUF012 - frozen
    #: Sizes [frames, height, width] to train in; each sample gets the one nearest in aspect, of
    #: those the longest it affords. None: the one of ``frames``, ``height`` and ``width``.
    #: Images take the same heights and widths at one frame, or sizes of one frame if there are.
    sizes: tuple[VideoSize, ...] = ()
    #: A clip may grow by this factor to cover its size; null: as far as needed.
    max_enlarge: Positive | None = None
    #: Other mixtures or sizes later on.
    phases: tuple[PhaseConfig, ...] = ()
    #: Only samples with as many references share a micro-batch, so that nothing is padded.
    group_references: bool = False
    #: Tokens of video and references that a micro-batch may have (memory). Null: those of
    #: ``train.batch`` samples of the dearest size.
    max_tokens: Size | None = None
    #: Cost of a sample as ``tokens ** cost_exponent``, e.g. fitted to measured step times; null:
    #: the operations of its forward and backward in closed form.
    cost_exponent: Annotated[float, Field(ge=1.0, le=2.0)] | None = None
    #: How much dearer than the mean the dearest micro-batch of a step may be.
    imbalance: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    #: Samples drawn and not yet trained on, at most; null: eight steps' worth.
    max_pending: Size | None = None
    #: Exclusion and takedown lists (JSONL of ``{key_type, key, reason, by, when}``).
    exclusions: tuple[str, ...] = ()
    #: Encode what was not encoded before the first step; false: when a step needs it.
    prepare: bool = True
    #: Processes that read and decode; 0: the training process does.
    workers: Count = 0
    #: Memory that batches read ahead may take, MB.
    prefetch_mb: Size = 2048
    #: A worker that needs longer than this for one sample is taken to hang.
    worker_timeout_s: Positive = 300.0
    #: Odds of the reference forms: box crop, subject on white, subject cut tight on white.
    forms: dict[Literal["crop", "white", "masked"], Positive] = {  # noqa: RUF012 - frozen
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

    @model_validator(mode="after")
    def _phases_follow(self) -> Self:
        starts = [phase.from_step for phase in self.phases]
        if starts != sorted(set(starts)):
            raise ValueError(f"phases begin at steps {starts}; each must begin after the last")
        for n, phase in enumerate(self.phases):
            if phase.mix == {} or phase.sizes == ():
                raise ValueError(
                    f"phases[{n}]: mix and sizes need at least one entry, or be left out"
                )
        for frames, *_ in (size for stage in self.stages() for size in stage.sizes):
            if (frames - 1) % 4:
                raise ValueError(f"sizes: frames {frames} must be 4n+1 (1, 5, 9, 13, 17, ...)")
        return self

    def stages(self) -> tuple[Stage, ...]:
        """What holds when, in order; the first from step 0 on."""
        one = (self.frames, self.height, self.width)
        found = [Stage(0, dict(self.mix), self.sizes or (one,))]
        for phase in self.phases:
            last = found[-1]
            mix = last.mix if phase.mix is None else dict(phase.mix)
            found.append(Stage(phase.from_step, mix, phase.sizes or last.sizes))
        return tuple(found)
