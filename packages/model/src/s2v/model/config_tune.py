"""Which parameters are trained: ``[tune]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2v.model.config_types import Positive, Size, Strict


class GroupConfig(Strict):
    """Parameters with a learning rate of their own."""

    match: str = Field(description="pattern of names, as `img_emb.*`; `*` matches dots too")
    lr: Positive = Field(default=1.0, description="factor of optim.lr")


class TuneConfig(Strict):
    """The whole network, its attention alone, or small matrices beside it (LoRA)."""

    kind: Literal["full", "attention", "lora"] = Field(
        default="full",
        description="attention: projections and norms of attention; lora: pairs of matrices",
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="patterns of parameters that keep their values, whatever `kind` says",
    )
    rank: Size = Field(default=16, description="lora: rows between the two matrices")
    alpha: Positive = Field(default=16.0, description="lora: W + (alpha / rank) B A")
    targets: tuple[str, ...] = Field(
        default=("*blocks.*",), description="lora: patterns of the linear layers that get a pair"
    )
    groups: tuple[GroupConfig, ...] = Field(
        default=(), description="learning rates of their own; the first pattern that matches counts"
    )
