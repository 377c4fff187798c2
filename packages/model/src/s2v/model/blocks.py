"""Double-stream and single-stream blocks with adaLN-zero, as in SD3, Flux and HunyuanVideo.

``block_maps.py`` says which of their weights is which of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2v.model.attention import QKV, Attend, Layout
from s2v.model.config import NetworkConfig


@dataclass(frozen=True)
class Clean:
    """Tokens ``start:stop`` of a stream (the references) are modulated by ``vec [B, d]``.

    They are free of noise whatever the video's level is (``reference_timestep = "zero"``).
    """

    vec: Tensor
    start: int
    stop: int


class Modulation(nn.Module):
    """adaLN-zero: shift, scale and gate from the time vector, all zero at first."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, vec: Tensor, length: int = 0, clean: Clean | None = None
    ) -> tuple[Tensor, ...]:
        """``[B, d]`` -> ``parts`` tensors ``[B, 1, d]``, or ``[B, length, d]`` with ``clean``."""
        parts: tuple[Tensor, ...] = self.linear(F.silu(vec))[:, None].chunk(self.parts, dim=-1)
        if clean is None:
            return parts
        others = self.linear(F.silu(clean.vec))[:, None].chunk(self.parts, dim=-1)
        index = torch.arange(length, device=vec.device)
        inside = ((index >= clean.start) & (index < clean.stop))[:, None]
        return tuple(torch.where(inside, o, p) for o, p in zip(others, parts, strict=True))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``LN(x) (1 + scale) + shift`` with a norm that has no weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class HeadNorm(nn.Module):
    """RMS norm of queries and keys, per head; ``none`` leaves them."""

    def __init__(self, head: int, kind: str) -> None:
        super().__init__()
        self.query = nn.RMSNorm(head, eps=1e-6) if kind == "rms" else nn.Identity()
        self.key = nn.RMSNorm(head, eps=1e-6) if kind == "rms" else nn.Identity()

    def forward(self, qkv: Tensor, heads: int) -> QKV:
        """``[B, S, 3d]`` -> normed q, k and plain v, each ``[B, H, S, D]``."""
        B, S, _ = qkv.shape
        q, k, v = qkv.reshape(B, S, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return self.query(q), self.key(k), v


def _mlp(width: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, ratio * width),
        nn.GELU(approximate="tanh"),
        nn.Linear(ratio * width, width),
    )


class Stream(nn.Module):
    """One stream's own weights in a double-stream block."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.width
        self.modulation = Modulation(d, 6)
        self.qkv = nn.Linear(d, 3 * d)
        self.norm = HeadNorm(d // config.heads, config.qk_norm)
        self.out = nn.Linear(d, d)
        self.mlp = _mlp(d, config.mlp_ratio)


class AskedStream(nn.Module):
    """A context stream that is attended to and ends here: it has no way out."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d = config.width
        self.modulation = Modulation(d, 2)
        self.qkv = nn.Linear(d, 3 * d)
        self.norm = HeadNorm(d // config.heads, config.qk_norm)


class DoubleBlock(nn.Module):
    """Each stream has its own weights; attention is joint.

    Args:
        config: sizes.
        ends: the last block of a network without single-stream blocks: nobody reads its
            context, which comes back as it went in (SD3's ``context_pre_only``).
    """

    def __init__(self, config: NetworkConfig, *, ends: bool = False) -> None:
        super().__init__()
        self.heads = config.heads
        self.attend: nn.Module = Attend()
        self.vision = Stream(config)
        self.context: Stream | AskedStream = AskedStream(config) if ends else Stream(config)

    def forward(
        self,
        vision: Tensor,
        context: Tensor,
        vec: Tensor,
        where: Layout,
        clean: Clean | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``[B, Sv, d]``, ``[B, Sc, d]``, ``[B, d]`` -> streams of the same shapes."""
        v, c = self.vision, self.context
        v_parts = v.modulation(vec, vision.shape[1], clean)
        v_shift, v_scale, v_gate, v_shift2, v_scale2, v_gate2 = v_parts
        c_shift, c_scale, *c_rest = c.modulation(vec)
        seen, told = self.attend(
            v.norm(v.qkv(modulate(vision, v_shift, v_scale)), self.heads),
            c.norm(c.qkv(modulate(context, c_shift, c_scale)), self.heads),
            where,
        )
        vision = vision + v_gate * v.out(seen)
        vision = vision + v_gate2 * v.mlp(modulate(vision, v_shift2, v_scale2))
        if isinstance(c, Stream):
            c_gate, c_shift2, c_scale2, c_gate2 = c_rest
            context = context + c_gate * c.out(told)
            context = context + c_gate2 * c.mlp(modulate(context, c_shift2, c_scale2))
        return vision, context


class SingleBlock(nn.Module):
    """Shared weights for both streams; attention and MLP side by side."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.mlp_ratio * config.width
        self.heads = config.heads
        self.attend: nn.Module = Attend()
        self.split = (3 * d, hidden)
        self.modulation = Modulation(d, 3)
        self.norm = HeadNorm(d // config.heads, config.qk_norm)
        self.into = nn.Linear(d, 3 * d + hidden)
        self.out = nn.Linear(d + hidden, d)

    def forward(
        self,
        vision: Tensor,
        context: Tensor,
        vec: Tensor,
        where: Layout,
        clean: Clean | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`DoubleBlock.forward`."""
        length = vision.shape[1]
        x = torch.cat([vision, context], dim=1)
        shift, scale, gate = self.modulation(vec, x.shape[1], clean)
        qkv, hidden = self.into(modulate(x, shift, scale)).split(self.split, dim=-1)
        q, k, v = self.norm(qkv, self.heads)
        seen, told = self.attend(
            (q[:, :, :length], k[:, :, :length], v[:, :, :length]),
            (q[:, :, length:], k[:, :, length:], v[:, :, length:]),
            where,
        )
        both = torch.cat([torch.cat([seen, told], dim=1), F.gelu(hidden, approximate="tanh")], -1)
        x = x + gate * self.out(both)
        return x[:, :length], x[:, length:]
