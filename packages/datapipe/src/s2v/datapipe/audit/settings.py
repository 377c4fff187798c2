"""What an audit can be told, and the thresholds of its judges with where they come from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from s2v.datapipe.pair.clip_rules import Strict


class CopyRules(Strict):
    """When two pictures are near copies (:mod:`.copies`). Measured: docs/audit.md."""

    matches: int = Field(
        default=15,
        ge=4,
        description="keypoints that one shift, turn and scale explains; copies had 21 and more, "
        "other pictures at most 5, the same place from another camera up to 12",
    )
    correlation: float = Field(
        default=0.3,
        ge=-1,
        le=1,
        description="of grey values once laid over each other; copies had 0.36 and more, other "
        "pictures at most 0.2",
    )
    min_points: int = Field(
        default=30,
        ge=4,
        description="keypoints of the smoother picture: with fewer, nothing found means nothing",
    )


class FaceRules(Strict):
    """When two faces are of one person, by dlib's distance."""

    same: float = Field(
        default=0.5,
        gt=0,
        description="distance up to which it is the same person; between the two nobody knows",
    )
    different: float = Field(
        default=0.6, gt=0, description="from here on another person; dlib's author gives 0.6"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.same > self.different:
            raise ValueError(f"same {self.same} must not be above different {self.different}")
        return self


class AuditSettings(Strict):
    """One audit."""

    pairs: int = Field(default=200, ge=1, le=5000, description="pairs looked at, at most")
    seed: int = Field(default=0, description="another seed, another sample")
    population: Literal["samples", "accepted"] = Field(
        default="samples",
        description="what the shares are of: references of cross-paired samples, which is what a "
        "trainer sees, or all accepted candidate pairs",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the intervals")
    max_wrong: float | None = Field(
        default=None, ge=0, le=1, description="budget: share of wrong subjects, in every class"
    )
    max_copies: float | None = Field(
        default=None, ge=0, le=1, description="budget: share of near copies, in every class"
    )
    copy_rules: CopyRules = CopyRules()
    face: FaceRules = FaceRules()
