"""Measuring while training: losses on held-out samples, and samples of the averaged weights."""

from __future__ import annotations

from typing import Literal

from s2v.model.config_types import Count, Size, Strict


class ValidationConfig(Strict):
    """When and on what. Both use the averaged weights, and neither draws: two runs compare."""

    #: Steps between two measurements of the loss; 0: none.
    every: Count = 0
    #: Noise levels ``(i + 0.5) / n``; eight as torchtitan and MLPerf take.
    levels: Size = 8
    #: Held-out samples, pair types by turns.
    limit: Size = 64
    #: Forwards of so many (sample, level, branch) at once.
    batch: Size = 8
    #: What is shown: all; references alone; text alone; nothing. Guidance needs them all.
    branches: tuple[Literal["text+image", "image", "text", "neither"], ...] = ("text+image",)
    #: Steps between two sets of samples; 0: none.
    sample_every: Count = 0
    #: Samples of a set, of distinct held-out clips, cross-pairs first.
    samples: Size = 4
    seed: int = 0
