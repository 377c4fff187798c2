"""Sizes that samples are trained in: which one a sample gets, what it costs, how many a batch has.

Two bounds decide how many samples a micro-batch has. Memory grows with tokens, compute grows
faster: attention looks at every pair of them. Equal tokens are therefore not equal work
(AdaptiveLoad, arXiv 2605.17923), and both bounds are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from s2v.model.config import Config
from s2v.model.config_data import VideoSize
from s2v.model.errors import ModelError
from s2v.model.flops import Sizes, mmdit_flops, wan_flops
from s2v.model.mmdit import Widths
from s2v.model.networks import patch_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Bucket:
    """What all samples of a micro-batch share.

    Attributes:
        frames: of the window.
        height: in pixels.
        width: in pixels.
        references: as many as each sample shows (``data.group_references``), or at most.
    """

    frames: int
    height: int
    width: int
    references: int

    @property
    def size(self) -> VideoSize:
        """Frames, height, width."""
        return self.frames, self.height, self.width

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width} with {self.references} references"


@dataclass(frozen=True)
class Sizing:
    """What a sample of each bucket costs, and how many a micro-batch takes.

    Attributes:
        cost: operations of a training step of one sample, or any number proportional to its time.
        tokens: of video and references.
        video_tokens: of the video, which the loss is over.
        batch: samples of a full micro-batch.
    """

    cost: Mapping[Bucket, float]
    tokens: Mapping[Bucket, int]
    video_tokens: Mapping[Bucket, int]
    batch: Mapping[Bucket, int]


def sizing(
    config: Config, buckets: Sequence[Bucket], widths: Widths, image_tokens: int = 0
) -> Sizing:
    """Costs and batch sizes of ``buckets``.

    ``train.batch`` samples of the dearest bucket set the bound in compute, and in memory unless
    ``data.max_tokens`` does.

    Args:
        config: of the run.
        buckets: all that the run will ever use; the bounds follow from them.
        widths: of what the encoders give.
        image_tokens: per reference.

    Raises:
        ModelError: ``data.max_tokens`` is less than one sample of a bucket has.
    """
    data = config.data
    patch = patch_of(config)

    def sizes(bucket: Bucket) -> Sizes:
        return Sizes.of_video(*bucket.size, bucket.references, image_tokens, _text(config))

    video = {b: sizes(b).frames * sizes(b).area(patch) for b in buckets}
    tokens = {b: (sizes(b).frames + b.references) * sizes(b).area(patch) for b in buckets}

    def cost(bucket: Bucket) -> float:
        if data.cost_exponent is not None:
            return math.pow(tokens[bucket], data.cost_exponent)
        if config.network.kind == "wan":
            return float(wan_flops(config.wan, sizes(bucket)).train)
        return float(mmdit_flops(config.network, widths, sizes(bucket)).train)

    costs = {b: cost(b) for b in buckets}
    most = config.train.batch * max(costs.values())
    room = data.max_tokens or config.train.batch * max(tokens.values())
    for bucket in buckets:
        if tokens[bucket] > room:
            raise ModelError(
                f"data.max_tokens {room}: one sample of {bucket} has {tokens[bucket]} tokens; "
                "raise it, or take that size out"
            )
    batch = {b: max(1, min(int(most / costs[b] + 1e-9), room // tokens[b])) for b in buckets}
    return Sizing(costs, tokens, video, batch)


def _text(config: Config) -> int:
    """Rows of text that a sample is taken to have: as many as its encoder gives at most."""
    return config.encoders.text_tokens


def strides(
    frames: npt.NDArray[np.integer], fps: npt.NDArray[np.floating], window: int, rate: float
) -> Ints:
    """Source frames per training frame, 0 where the clip is too short.

    The stride nearest to ``fps / rate``; a clip that cannot afford it may use a smaller one,
    down to half (the motion then plays at most twice as slow).

    Args:
        frames: ``[n]`` of the clips.
        fps: ``[n]`` of the clips.
        window: training frames.
        rate: training frames per second.
    """
    wanted = np.maximum(1, np.rint(fps / rate)).astype(np.int64)
    if window == 1:
        return np.where(frames >= 1, wanted, 0)
    chosen = np.minimum(wanted, (frames.astype(np.int64) - 1) // (window - 1))
    return np.where(chosen >= np.maximum(1, -(-wanted // 2)), chosen, 0)


@dataclass(frozen=True)
class Shapes:
    """Clips as their sizes are chosen by: ``[n]`` frames, frames per second, pixels."""

    frames: Ints
    fps: npt.NDArray[np.float64]
    height: Ints
    width: Ints

    def __len__(self) -> int:
        return len(self.frames)

    def of(self, rows: npt.NDArray[np.intp]) -> Shapes:
        """Some of them."""
        return Shapes(self.frames[rows], self.fps[rows], self.height[rows], self.width[rows])


@dataclass(frozen=True)
class Fits:
    """Which size each clip gets.

    Attributes:
        size: ``[n]`` place in ``sizes``, -1 where none fits.
        reasons: ``[n]`` place in :data:`REASONS`, of those that none fits.
        sizes: the configured ones, and those of images.
    """

    size: Ints
    reasons: Ints
    sizes: tuple[VideoSize, ...]


#: Aspect ratios this near to the nearest (in logarithms) count as equal to it: 480 x 832 and
#: 272 x 480 are two sizes of one shape.
ASPECT_TOLERANCE: Final = 0.05
REASONS: Final = ("", "clip shorter than the window", "smaller than every size")


def fit(
    clips: Shapes,
    sizes: Sequence[VideoSize],
    *,
    rate: float,
    max_enlarge: float | None = None,
) -> Fits:
    """Give each clip the best of ``sizes``.

    Best is nearest in aspect ratio, within a tolerance; of those the longest that the clip
    affords; of those the largest that the clip covers without growing, else the one it grows
    least for. A clip of one frame is an image: it gets a size of one frame, at the heights and
    widths of ``sizes`` where none of them has one frame itself. Videos get one frame only where
    nothing longer is asked for.

    Args:
        clips: n of them.
        sizes: frames, height, width.
        rate: training frames per second.
        max_enlarge: most that a clip may grow; None: as far as needed.
    """
    stills = [s for s in sizes if s[0] == 1] or [(1, h, w) for _, h, w in sizes]
    moving = [s for s in sizes if s[0] > 1] or stills
    everything = tuple(dict.fromkeys([*moving, *stills]))
    still = clips.frames == 1
    found, reasons = np.full(len(clips), -1, np.int64), np.zeros(len(clips), np.int64)
    for rows, offered in ((np.flatnonzero(~still), moving), (np.flatnonzero(still), stills)):
        if len(rows):
            distinct = tuple(dict.fromkeys(offered))
            chosen, why = _best(clips.of(rows), distinct, rate, max_enlarge)
            places = np.array([everything.index(s) for s in distinct], np.int64)
            found[rows] = np.where(chosen >= 0, places[chosen], -1)
            reasons[rows] = why
    return Fits(found, reasons, everything)


def _best(
    clips: Shapes, sizes: Sequence[VideoSize], rate: float, max_enlarge: float | None
) -> tuple[Ints, Ints]:
    """Place of the best size per clip or -1, and then the reason."""
    n, height, width = len(clips), clips.height, clips.width
    affords = np.stack([strides(clips.frames, clips.fps, F, rate) > 0 for F, _, _ in sizes])
    scale = np.stack([np.maximum(H / height, W / width) for _, H, W in sizes])
    allowed = affords & (scale <= (np.inf if max_enlarge is None else max_enlarge + 1e-6))
    aspect = np.stack([np.abs(np.log((width / height) / (W / H))) for _, H, W in sizes])
    nearest = np.where(allowed, aspect, np.inf).min(axis=0)
    allowed &= aspect <= nearest + ASPECT_TOLERANCE
    best = np.full(n, -1, np.int64)
    # Keys to be minimised one after the other, rounded so that equal ratios are equal.
    keys = np.full((4, n), np.inf)
    for place, (F, H, W) in enumerate(sizes):
        grows = np.round(np.maximum(scale[place], 1.0), 3)
        mine = np.stack([np.full(n, -F), grows, np.full(n, -H * W), np.round(aspect[place], 3)])
        better = allowed[place] & _less(mine, keys)
        best[better] = place
        keys[:, better] = mine[:, better]
    return best, np.where(best >= 0, 0, np.where(affords.any(axis=0), 2, 1))


def _less(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which columns of ``a`` stand before those of ``b`` in lexical order."""
    found = np.zeros(a.shape[1], np.bool_)
    tied = np.ones(a.shape[1], np.bool_)
    for x, y in zip(a, b, strict=True):
        found |= tied & (x < y)
        tied &= x == y
    return found
