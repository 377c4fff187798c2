"""Joint attention of vision and context tokens, in full or in windows of nine slots.

Paper, section 3.2: the video is cut into windows along latent time. The references' tokens are
appended at the end of *every* window; the frames they displace spill into the next window, so
that a window keeps its number of slots. Text and image tokens join every window as well. What
comes back several times (references and context) is averaged over the windows, so that shapes
do not change. The axis of the window, the position of references behind a last, shorter window
(they follow its frames) and averaging before the output projection are our readings: the paper
leaves them open. ``docs/network.md`` draws a window.

A mask is a bias of -1e30 on keys: after the softmax a masked key weighs exactly zero, and a row
without any key gives a plain mean instead of NaN. Packed, a row is cut to the tokens that are
there, and no mask is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.errors import ModelError
from s2v.model.moving import onto
from s2v.model.tokens import Placement

_HIDDEN = -1e30

QKV = tuple[Tensor, Tensor, Tensor]


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
            attention (N = B in full attention, B * n in windows, or 1 where all are alike).
        keys: ``[N, s*h*w + Sc]`` bool, the tokens that are there; None where all are.
        windows: None for full attention.
        packed: cut every row to its keys instead of masking.
    """

    cos: Tensor
    sin: Tensor
    keys: Tensor | None
    windows: Windows | None
    packed: bool = False

    def to(self, device: torch.device) -> Layout:
        """All tensors on ``device``."""
        w = self.windows
        windows = w and Windows(*(onto(x, device) for x in (w.frame, w.back, w.mean)))
        keys = None if self.keys is None else onto(self.keys, device)
        return Layout(onto(self.cos, device), onto(self.sin, device), keys, windows, self.packed)


def layout(
    *,
    frames: int,
    grid: tuple[int, int],
    reference_mask: Tensor,
    context_mask: Tensor,
    axes: tuple[int, int, int],
    theta: float,
    window: int | None,
    shifted: bool = False,
    place: Placement = Placement(),  # noqa: B008 - frozen
    packed: bool = False,
    tables_on: torch.device | None = None,
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
        shifted: the first window has half the frames.
        place: rotary positions of references.
        packed: cut every row to the tokens that are there instead of masking.
        tables_on: where the rotary tables are computed; by default where the masks are.

    Returns:
        The layout. Where one window holds every sample, windowed and full attention are the
        same thing and the cheaper full layout is returned.

    Raises:
        ModelError: a sample has so many references that a window holds no video frame.
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
            shifted=shifted,
            place=place,
            packed=packed,
            tables_on=tables_on,
        )
    h, w = grid
    B = reference_mask.shape[0]
    device = reference_mask.device
    video = torch.arange(frames, device=device).expand(B, frames)
    # Behind the video, counting only the references that are there: padding shifts nothing.
    ranks = (reference_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    slots = torch.cat([video, frames + ranks], dim=1)
    ranks = torch.cat([torch.full_like(video, -1), ranks], dim=1)
    present = torch.cat(
        [torch.ones(B, frames, dtype=torch.bool, device=device), reference_mask], dim=1
    )
    at = place.positions(slots, slots, ranks, frames, grid)
    cos, sin = rope.tables(onto(at, tables_on or device), axes, theta)
    keys = _keys(present.repeat_interleave(h * w, dim=1), context_mask)
    return Layout(cos[:, None], sin[:, None], keys, None, packed)


def windowed_layout(
    *,
    frames: int,
    grid: tuple[int, int],
    reference_mask: Tensor,
    context_mask: Tensor,
    axes: tuple[int, int, int],
    theta: float,
    window: int,
    shifted: bool = False,
    place: Placement = Placement(),  # noqa: B008 - frozen
    packed: bool = False,
    tables_on: torch.device | None = None,
) -> Layout:
    """As :func:`layout`, always with windows."""
    B, K = reference_mask.shape
    rows = [_sample_windows(frames, mask, window, shifted) for mask in reference_mask.tolist()]
    n = max(len(row) for row in rows)
    frame = torch.zeros(B, n, window, dtype=torch.long)
    ranks = torch.full((B, n, window), -1, dtype=torch.long)
    present = torch.zeros(B, n, window, dtype=torch.bool)
    back = torch.zeros(B, frames + K, n * window)
    mean = torch.zeros(B, n)
    for b, row in enumerate(rows):
        mean[b, : len(row)] = 1 / len(row)
        for i, seats in enumerate(row):
            rank = -1
            for slot, seat in enumerate(seats):
                frame[b, i, slot] = seat
                present[b, i, slot] = True
                back[b, seat, i * window + slot] = 1 if seat < frames else 1 / len(row)
                if seat >= frames:
                    rank += 1
                    ranks[b, i, slot] = rank
    device = reference_mask.device
    h, w = grid
    if place.kind == "slot":  # every window alike
        slots = torch.arange(window)[None]
        at = place.positions(slots, slots, slots, frames, grid)
    else:
        at = place.positions(frame, frame, ranks, frames, grid).flatten(0, 1)
    cos, sin = rope.tables(onto(at, tables_on or device), axes, theta)
    keys = _keys(
        present.to(device).flatten(0, 1).repeat_interleave(h * w, dim=1),
        context_mask.repeat_interleave(n, dim=0),
    )
    windows = Windows(frame.to(device), back.to(device), mean.to(device))
    return Layout(cos[:, None], sin[:, None], keys, windows, packed)


def _sample_windows(
    frames: int, references: list[bool], window: int, shifted: bool
) -> list[list[int]]:
    """Frame indices per window: a stretch of video, then every reference."""
    tail = [frames + k for k, there in enumerate(references) if there]
    room = window - len(tail)
    if room < 1:
        raise ModelError(
            f"{len(tail)} references fill a window of {window} slots; "
            "use fewer references or a larger network.window"
        )
    # One window that holds all is not cut in two by a shift.
    first = room // 2 if shifted and frames > room else 0
    starts = [*([0] if first else []), *range(first, frames, room)]
    stops = [*starts[1:], frames]
    return [[*range(a, b), *tail] for a, b in zip(starts, stops, strict=True)]


def _keys(vision: Tensor, context: Tensor) -> Tensor | None:
    """``[N, S]`` from the key masks ``[N, Sv]`` and ``[N, Sc]``; None if all are there."""
    keys = torch.cat([vision, context], dim=1)
    return None if bool(keys.all()) else keys


class Attend(nn.Module):
    """:func:`attend` as a part of a block: the seam where another way of computing it may stand."""

    def forward(self, vision: QKV, context: QKV, where: Layout) -> tuple[Tensor, Tensor]:
        """As :func:`attend`."""
        return attend(vision, context, where)


def attend(vision: QKV, context: QKV, where: Layout) -> tuple[Tensor, Tensor]:
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


def _joint(vision: QKV, context: QKV, where: Layout) -> Tensor:
    q = torch.cat([rope.rotate(vision[0], where.cos, where.sin), context[0]], dim=2)
    k = torch.cat([rope.rotate(vision[1], where.cos, where.sin), context[1]], dim=2)
    v = torch.cat([vision[2], context[2]], dim=2)
    if where.keys is None:
        return F.scaled_dot_product_attention(q, k, v)
    if where.packed:
        return _packed(q, k, v, where.keys)
    bias = torch.where(where.keys, 0.0, _HIDDEN)[:, None, None, :].to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _packed(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """Each row on the tokens that are there; the others come back as zeros."""
    rows = []
    for n, there in enumerate(keys):
        index = there.nonzero()[:, 0]
        own = [x[n : n + 1].index_select(2, index) for x in (q, k, v)]
        part = F.scaled_dot_product_attention(own[0], own[1], own[2])
        rows.append(torch.zeros_like(q[n]).index_copy(1, index, part[0]))
    return torch.stack(rows)


def _attend_windows(
    vision: QKV, context: QKV, where: Layout, windows: Windows
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
