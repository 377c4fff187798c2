"""How samples are put together, how many of which kind, and where they go.

What the letters mean is in :mod:`.settings`.
"""

from __future__ import annotations

import difflib
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from s2v.datapipe.pair.clip_rules import Strict
from s2v.datapipe.pair.scenario import scenarios
from s2v.datapipe.roles import CLASSES


class ClassRules(Strict):
    """What class of subject a phrase names (:mod:`.classes`)."""

    drawn_origins: tuple[str, ...] = Field(
        default=("animation",),
        description="people and animals of sources that state such an origin are characters of "
        "them (ip_character); empty: they stay what they look like",
    )


class SampleRules(Strict):
    """How samples are put together."""

    max_references: int = Field(
        default=6, ge=1, le=6, description="O top 6; trainers draw at most 4"
    )
    max_uses: int = Field(
        default=4, ge=1, description="cross samples one reference subject may enter"
    )
    image_samples: bool = Field(
        default=False, description="photographs as one-frame targets (P); they need an mp4 each"
    )
    window: Literal["middle", "start"] = Field(
        default="middle",
        description="where the trained span lies; references of in-pairs are taken far from it. "
        "Our trainer takes the middle of a clip, HC its first seconds",
    )
    window_seconds: float = Field(
        default=5.0, ge=0, description="length of that span; 81 frames at 16 a second; HC 5"
    )


class Quota(Strict):
    """How many samples of one scenario or class are wanted."""

    min: int | None = Field(default=None, ge=0, description="so many at least, else a shortfall")
    max: int | None = Field(default=None, ge=0, description="so many at most; the best stay")
    share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="of the total: wanted and not exceeded; in place of min and max",
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.share is not None and (self.min is not None or self.max is not None):
            raise ValueError("give either a share or min and max, not both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is over max {self.max}")
        if self.share is None and self.min is None and self.max is None:
            raise ValueError("asks for nothing; give min, max or share")
        return self


class TypeQuotas(Strict):
    """Quotas on the samples of one pair type."""

    total: int | None = Field(
        default=None,
        ge=0,
        description="so many samples at most, and what shares are of; null: all that were made",
    )
    scenarios: dict[str, Quota] = Field(default={}, description="by scenario; a sample has one")
    classes: dict[str, Quota] = Field(
        default={}, description="by class; a sample counts for each class of its references"
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        for what, named, known in (
            ("scenario", self.scenarios, scenarios()),
            ("class", self.classes, CLASSES),
        ):
            for name in named:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {known}"
                    raise ValueError(f"{name!r} is no {what}{hint}")
        if (shares := sum(quota.share or 0.0 for quota in self.scenarios.values())) > 1 + 1e-9:
            raise ValueError(f"the shares of the scenarios add up to {shares:g}, over 1")
        return self

    def asked(self) -> bool:
        """Whether anything is asked for."""
        return self.total is not None or bool(self.scenarios or self.classes)


class QuotaSettings(Strict):
    """Quotas per pair type; nothing is asked for by default (P tops up missing types)."""

    in_: TypeQuotas = Field(default=TypeQuotas(), alias="in")
    cross: TypeQuotas = TypeQuotas()
    image: TypeQuotas = TypeQuotas()
    top_up_uses: int = Field(
        default=16,
        ge=1,
        description="cross samples one reference subject may enter while missing kinds are "
        "topped up; not below sample.max_uses",
    )

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    def of(self, pair_type: str) -> TypeQuotas:
        """Quotas of a pair type."""
        found: TypeQuotas = getattr(self, {"in": "in_"}.get(pair_type, pair_type))
        return found


class SplitSettings(Strict):
    """Splits. ``test`` is leak-safe; ``heldout`` are other scenes of training sources."""

    test_share: float = Field(default=0.0, ge=0, lt=1, description="of source groups")
    heldout_share: float = Field(
        default=0.1, ge=0, lt=1, description="of scenes of training sources"
    )
    scene_seconds: float = Field(default=30.0, gt=0, description="neighbours in time stay together")
    salt: str = Field(default="", description="another salt, another split")
    train_only: tuple[str, ...] = Field(
        default=(), description="long_video_ids never put into test"
    )
    test_only: tuple[str, ...] = Field(
        default=(), description="long_video_ids always put into test"
    )
    test_identities: str | None = Field(
        default=None,
        description="file of face embeddings of an evaluation set (.npz or .parquet, see "
        "docs/scenarios.md): people near to one of them are in no sample (CI)",
    )
    test_identity_cosine: float = Field(
        default=0.45, ge=-1, le=1, description="above it two faces may be one person; CI, ArcFace"
    )
