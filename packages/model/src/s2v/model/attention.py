"""Joint attention of vision and context tokens, in full or in windows of nine slots.

Paper, section 3.2: the video is cut into windows along latent time. The references' tokens are
appended at the end of *every* window; the frames they displace spill into the next window, so
that a window keeps its number of slots. Text and image tokens join every window as well. What
comes back several times (references and context) is averaged over the windows, so that shapes
do not change. The axis of the window, the position of references behind a last, shorter window
(they follow its frames) and averaging before the output projection are our readings: the paper
leaves them open.

A mask is a bias of -1e30 on keys: after the softmax a masked key weighs exactly zero, and a row
without any key gives a plain mean instead of NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from s2v.model import rope
from s2v.model.tokens import grid_positions

_HIDDEN = -1e30


@dataclass(frozen=True)
class Windows:
    """Which latent frame sits in which slot of which window.

    Attributes:
        frame: ``[B, n, s]`` index into the T + K frames; 0 where the slot is empty.
        back: ``[B, T + K, n*s]`` weights that carry slots back to frames: 1 for a video frame,
            1 / (windows of the sample) for each copy of a reference.
        mean: ``[B, n]`` weights of the windows' context copies, summing to 1.
    """

    frame: Tensor
    back: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Layout:
    """How the tokens of one batch sit and who may be looked at; made once per forward.

    Attributes:
        cos, sin: ``[N, 1, s*h*w, D/2]`` rotary tables of the vision tokens as they sit in
            attention (N = B in full attention, B * n in windows).
        bias: ``[N, 1, 1, s*h*w + Sc]`` added to the scores, or None where nothing is masked.
        windows: None for full attention.
    """

    cos: Tensor
    sin: Tensor
    bias: Tensor | None
    windows: Windows | None


def layout(
    *,
    frames: int,
    grid: tuple[int, int],
    reference_mask: Tensor,
    context_mask: Tensor,
    axes: tuple[int, int, int],
    theta: float,
    window: int | None,
) -> Layout:
    """Lay out a batch.

    Args:
        frames: T, latent frames of the video.
        grid: ``(h, w)`` tokens of a latent frame.
        reference_mask: ``[B, K]`` bool, the references a sample has.
        context_mask: ``[B, Sc]`` bool, the context tokens a sample has.
        axes: rotary widths.
        theta: rotary base.
        window: slots per window; None for full attention.

    Returns:
        The layout. Where one window holds every sample, windowed and full attention are the
        same thing and the cheaper full layout is returned.

    Raises:
        ValueError: a sample has so many references that a window holds no video frame.
    """
    counts = [int(n) for n in reference_mask.sum(dim=1).tolist()]
    if window is not None and any(frames > window - n for n in counts):
        return windowed_layout(
            frames=frames,
            grid=grid,
            reference_mask=reference_mask,
            context_mask=context_mask,
            axes=axes,
            theta=theta,
            window=window,
        )
    h, w = grid
    B = reference_mask.shape[0]
    device = reference_mask.device
    video = torch.arange(frames, device=device).expand(B, frames)
    # Behind the video, counting only the references that are there: padding shifts nothing.
    behind = frames + (reference_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    slots = torch.cat([video, behind], dim=1)
    present = torch.cat(
        [torch.ones(B, frames, dtype=torch.bool, device=device), reference_mask], dim=1
    )
    cos, sin = rope.tables(grid_positions(slots, h, w), axes, theta)
    bias = _bias(present.repeat_interleave(h * w, dim=1), context_mask)
    return Layout(cos[:, None], sin[:, None], bias, None)


def windowed_layout(
    *,
    frames: int,
    grid: tuple[int, int],
    reference_mask: Tensor,
    context_mask: Tensor,
    axes: tuple[int, int, int],
    theta: float,
    window: int,
) -> Layout:
    """As :func:`layout`, always with windows."""
    B, K = reference_mask.shape
    rows = [_sample_windows(frames, mask, window) for mask in reference_mask.tolist()]
    n = max(len(row) for row in rows)
    frame = torch.zeros(B, n, window, dtype=torch.long)
    present = torch.zeros(B, n, window, dtype=torch.bool)
    back = torch.zeros(B, frames + K, n * window)
    mean = torch.zeros(B, n)
    for b, row in enumerate(rows):
        mean[b, : len(row)] = 1 / len(row)
        for i, seats in enumerate(row):
            for slot, seat in enumerate(seats):
                frame[b, i, slot] = seat
                present[b, i, slot] = True
                back[b, seat, i * window + slot] = 1 if seat < frames else 1 / len(row)
    device = reference_mask.device
    h, w = grid
    slots = torch.arange(window, device=device)
    cos, sin = rope.tables(grid_positions(slots, h, w), axes, theta)
    bias = _bias(
        present.to(device).flatten(0, 1).repeat_interleave(h * w, dim=1),
        context_mask.repeat_interleave(n, dim=0),
    )
    windows = Windows(frame.to(device), back.to(device), mean.to(device))
    return Layout(cos[None, None], sin[None, None], bias, windows)


def _sample_windows(frames: int, references: list[bool], window: int) -> list[list[int]]:
    """Frame indices per window: a stretch of video, then every reference."""
    tail = [frames + k for k, there in enumerate(references) if there]
    room = window - len(tail)
    if room < 1:
        raise ValueError(
            f"{len(tail)} references fill a window of {window} slots; "
            "use fewer references or a larger network.window"
        )
    starts = range(0, frames, room)
    return [[*range(start, min(start + room, frames)), *tail] for start in starts]


def _bias(vision: Tensor, context: Tensor) -> Tensor | None:
    """``[N, 1, 1, S]`` from the key masks ``[N, Sv]`` and ``[N, Sc]``; None if all are seen."""
    keys = torch.cat([vision, context], dim=1)
    if bool(keys.all()):
        return None
    return torch.where(keys, 0.0, _HIDDEN)[:, None, None, :]


def attend(
    vision: tuple[Tensor, Tensor, Tensor],
    context: tuple[Tensor, Tensor, Tensor],
    where: Layout,
) -> tuple[Tensor, Tensor]:
    """Joint attention; only vision tokens carry rotary positions.

    Args:
        vision: q, k, v, each ``[B, H, (T+K)*h*w, D]``, before rotation.
        context: q, k, v, each ``[B, H, Sc, D]``.
        where: the batch's layout.

    Returns:
        ``([B, (T+K)*h*w, H*D], [B, Sc, H*D])``.
    """
    if where.windows is not None:
        return _attend_windows(vision, context, where, where.windows)
    length = vision[0].shape[2]
    out = _joint(vision, context, where)
    B, H, S, D = out.shape
    out = out.transpose(1, 2).reshape(B, S, H * D)
    return out[:, :length], out[:, length:]


def _joint(
    vision: tuple[Tensor, Tensor, Tensor], context: tuple[Tensor, Tensor, Tensor], where: Layout
) -> Tensor:
    q = torch.cat([rope.rotate(vision[0], where.cos, where.sin), context[0]], dim=2)
    k = torch.cat([rope.rotate(vision[1], where.cos, where.sin), context[1]], dim=2)
    v = torch.cat([vision[2], context[2]], dim=2)
    bias = None if where.bias is None else where.bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _attend_windows(
    vision: tuple[Tensor, Tensor, Tensor],
    context: tuple[Tensor, Tensor, Tensor],
    where: Layout,
    windows: Windows,
) -> tuple[Tensor, Tensor]:
    B, n, s = windows.frame.shape
    H, D = vision[0].shape[1], vision[0].shape[3]
    total = windows.back.shape[1]
    area = vision[0].shape[2] // total
    batch = torch.arange(B, device=windows.frame.device)[:, None, None]

    def into(x: Tensor) -> Tensor:
        """``[B, H, (T+K)*area, D]`` -> ``[B*n, H, s*area, D]``."""
        by_frame = x.reshape(B, H, total, area, D).permute(0, 2, 3, 1, 4)
        seated = by_frame[batch, windows.frame]  # [B, n, s, area, H, D]
        return seated.reshape(B * n, s * area, H, D).transpose(1, 2)

    def everywhere(x: Tensor) -> Tensor:
        return x.repeat_interleave(n, dim=0)

    q, k, v = vision
    cq, ck, cv = context
    out = _joint(
        (into(q), into(k), into(v)), (everywhere(cq), everywhere(ck), everywhere(cv)), where
    )
    out = out.transpose(1, 2)  # [B*n, s*area + Sc, H, D]
    seats = out[:, : s * area].reshape(B, n * s, area * H * D)
    frames = windows.back.to(seats.dtype) @ seats
    copies = out[:, s * area :].reshape(B, n, -1, H * D)
    mean = torch.einsum("bn,bnsd->bsd", windows.mean.to(copies.dtype), copies)
    return frames.reshape(B, total * area, H * D), mean
