"""Where the tokens of one batch of the Wan network stand, and which of them are there.

A reference that a sample does not have is hidden by a bias on its keys, and those behind it move
up: what its slot holds changes nothing, and padding a batch moves nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s2v.model import rope
from s2v.model.conditioning import Condition
from s2v.model.moving import onto
from s2v.model.tokens import grid_positions
from s2v.model.wan_config import WanConfig

#: Added to the scores of keys that are not there: their weight after the softmax is exactly 0.
_HIDDEN = -1e30


@dataclass(frozen=True)
class Layout:
    """How the tokens of one batch sit; made once per forward.

    Attributes:
        cos: ``[B or 1, S, 1, D/2]`` rotary tables of the video's and references' tokens.
        sin: as ``cos``.
        bias: ``[B, 1, 1, S]`` added to self-attention's scores; None where nothing is absent.
        image_bias: the same over the image tokens ``[B, 1, 1, K*N]``.
        has_image: ``[B, 1, 1]`` 1 where a sample has any image token, else 0; None where all do.
        sizes: tokens of the video and of the references.
    """

    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    image_bias: Tensor | None
    has_image: Tensor | None
    sizes: tuple[int, int]

    def spread(self, e: Tensor) -> Tensor:
        """``[B, G, d]`` -> ``[B, 1 or S, d]``: two groups are the video's and the references'."""
        if e.shape[1] == 1:
            return e
        video, references = self.sizes
        parts = [e[:, :1].expand(-1, video, -1), e[:, 1:].expand(-1, references, -1)]
        return torch.cat(parts, dim=1)


def layout(
    config: WanConfig,
    frames: int,
    grid: tuple[int, int],
    condition: Condition,
    device: torch.device,
) -> Layout:
    """Lay out a batch.

    Args:
        config: options of positions.
        frames: T, latent frames of the video.
        grid: ``(h, w)`` tokens of a latent frame.
        condition: whose masks say what each sample has; masks that stay on the CPU spare a GPU
            the wait for them.
        device: where the tables are wanted.
    """
    there = condition.reference_mask
    area = grid[0] * grid[1]
    whole = bool(there.all())
    slots = _slots(config, frames, there[:1] if whole else there)  # one table may serve all
    # A place in time per frame travels; half a million angles are computed where they are wanted.
    cos, sin = rotary_tables(grid_positions(onto(slots, device), *grid), config)
    bias, image_bias, has_image = None, None, None
    if not whole:
        video = there.new_ones(there.shape[0], frames)
        bias = _bias(torch.cat([video, there], dim=1).repeat_interleave(area, dim=1))
    seen = condition.image_mask
    if config.image_width is not None and not (seen.numel() and bool(seen.all())):
        if seen.numel():
            image_bias = _bias(seen.repeat_interleave(condition.image.shape[2], dim=1))
        has_image = seen.any(dim=1)[:, None, None].to(cos.dtype)

    def moved(x: Tensor | None) -> Tensor | None:
        return None if x is None else onto(x, device)

    return Layout(
        cos[:, :, None],
        sin[:, :, None],
        moved(bias),
        moved(image_bias),
        moved(has_image),
        (frames * area, there.shape[1] * area),
    )


def _slots(config: WanConfig, frames: int, there: Tensor) -> Tensor:
    """``[B, T + K]`` places in time; only the references that are there are counted."""
    video = torch.arange(frames, device=there.device).expand(there.shape[0], frames)
    number = (there.long().cumsum(dim=1) - 1).clamp(min=0)
    if config.reference_position == "negative":
        return torch.cat([video, -1 - number], dim=1)
    return torch.cat([video, frames + config.reference_offset + number], dim=1)


def rotary_tables(positions: Tensor, config: WanConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[..., S, D/2]`` float32 of ``[..., S, 3]`` positions.

    ``rope_precision = "float32"`` follows Phantom's copy of the network, whose angles are
    float32 throughout.
    """
    axes = rope.default_axes(config.head)
    if config.rope_precision == "float64":
        return rope.tables(positions, axes, config.rope_theta)
    angles = []
    for axis, width in enumerate(axes):
        powers = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
        angles.append(positions[..., axis, None].float() * (1.0 / config.rope_theta**powers))
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def _bias(there: Tensor) -> Tensor:
    """``[B, S]`` bool -> ``[B, 1, 1, S]``."""
    return torch.where(there, 0.0, _HIDDEN)[:, None, None, :]
