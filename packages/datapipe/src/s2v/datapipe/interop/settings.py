"""How foreign samples are taken over."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from s2v.datapipe.base.shards import MAX_REFERENCES
from s2v.datapipe.pair.sample_rules import SplitSettings
from s2v.datapipe.write.settings import WriteSettings


class Part(BaseModel):
    """One of several imports of the same files, by a hash of the long video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(default=0, ge=0, description="this one, from 0")
    of: int = Field(default=1, ge=1, le=100_000, description="how many there are")

    @model_validator(mode="after")
    def _inside(self) -> Part:
        if self.number >= self.of:
            raise ValueError(f"part {self.number} of {self.of}; parts are counted from 0")
        return self


class ImportSettings(BaseModel):
    """Settings of ``s2v-data import`` for formats that hold samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pair_types: tuple[Literal["in", "cross"], ...] = Field(
        default=("in", "cross"), min_length=1, description="samples to make"
    )
    max_references: int = Field(
        default=MAX_REFERENCES, ge=1, le=MAX_REFERENCES, description="of one sample"
    )
    max_similarity: float = Field(
        default=0.97,
        gt=0,
        description="above it a pair is a near copy; OpenS2V-5M publishes pairs without a bound",
    )
    min_share: float = Field(
        default=1 / 32, ge=0, lt=1, description="of the frame that an OpenS2V-5M mask covers"
    )
    max_share: float = Field(
        default=0.9, gt=0, le=1, description="of the frame that an OpenS2V-5M object's box covers"
    )
    same_mask: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="masks of one frame that overlap more are one object",
    )
    licence: str = Field(default="unverified", description="of the videos, as you know it")
    consent: str = Field(default="unverified", description="of the people shown")
    exclusions: tuple[str, ...] = Field(
        default=(), description="takedown lists, JSONL; by video, long video, clip, sha256, sample"
    )
    part: Part = Field(default=Part(), description="for several machines")
    workers: int = Field(default=1, ge=1, le=256, description="clips worked on at once")
    split: SplitSettings = SplitSettings()
    samples_per_shard: int = Field(
        default=300, ge=1, description="on average; the clips of a long video lie in one shard"
    )
    write: WriteSettings = WriteSettings()
