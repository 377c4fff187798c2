"""The MMDiT of the paper: double-stream blocks, then single-stream blocks (section 3.2).

The vision stream is the video's latents with the references' latents behind them in time; the
context stream is the text's tokens with the references' image tokens behind them. The two meet
in attention only. Nothing here knows of devices, processes or training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.attention import Layout, attend, layout
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.tokens import patchify, unpatchify

_TIME_FEATURES = 256


@dataclass(frozen=True)
class Widths:
    """What the network takes in: latent channels, text and image feature widths."""

    latent: int
    text: int
    image: int


def time_features(t: Tensor) -> Tensor:
    """Sinusoids of ``1000 t``: ``[B]`` -> ``[B, 256]``, cosines first."""
    half = _TIME_FEATURES // 2
    powers = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * powers)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Modulation(nn.Module):
    """adaLN-zero: shift, scale and gate from the time vector, all zero at first."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        """``[B, d]`` -> ``parts`` tensors ``[B, 1, d]``."""
        return self.linear(F.silu(vec))[:, None].chunk(self.parts, dim=-1)  # type: ignore[no-any-return]  # nn.Module calls are untyped


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``LN(x) (1 + scale) + shift`` with a norm that has no weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class HeadNorm(nn.Module):
    """RMS norm of queries and keys, per head."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.query = nn.RMSNorm(head, eps=1e-6)
        self.key = nn.RMSNorm(head, eps=1e-6)

    def forward(self, qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
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
        self.norm = HeadNorm(d // config.heads)
        self.out = nn.Linear(d, d)
        self.mlp = _mlp(d, config.mlp_ratio)


class DoubleBlock(nn.Module):
    """Each stream has its own weights; attention is joint."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.vision = Stream(config)
        self.context = Stream(config)

    def forward(
        self, vision: Tensor, context: Tensor, vec: Tensor, where: Layout
    ) -> tuple[Tensor, Tensor]:
        """``[B, Sv, d]``, ``[B, Sc, d]``, ``[B, d]`` -> streams of the same shapes."""
        v, c = self.vision, self.context
        v_shift, v_scale, v_gate, v_shift2, v_scale2, v_gate2 = v.modulation(vec)
        c_shift, c_scale, c_gate, c_shift2, c_scale2, c_gate2 = c.modulation(vec)
        seen, told = attend(
            v.norm(v.qkv(modulate(vision, v_shift, v_scale)), self.heads),
            c.norm(c.qkv(modulate(context, c_shift, c_scale)), self.heads),
            where,
        )
        vision = vision + v_gate * v.out(seen)
        vision = vision + v_gate2 * v.mlp(modulate(vision, v_shift2, v_scale2))
        context = context + c_gate * c.out(told)
        context = context + c_gate2 * c.mlp(modulate(context, c_shift2, c_scale2))
        return vision, context


class SingleBlock(nn.Module):
    """Shared weights for both streams; attention and MLP side by side."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d, hidden = config.width, config.mlp_ratio * config.width
        self.heads = config.heads
        self.split = (3 * d, hidden)
        self.modulation = Modulation(d, 3)
        self.norm = HeadNorm(d // config.heads)
        self.into = nn.Linear(d, 3 * d + hidden)
        self.out = nn.Linear(d + hidden, d)

    def forward(
        self, vision: Tensor, context: Tensor, vec: Tensor, where: Layout
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`DoubleBlock.forward`."""
        length = vision.shape[1]
        x = torch.cat([vision, context], dim=1)
        shift, scale, gate = self.modulation(vec)
        qkv, hidden = self.into(modulate(x, shift, scale)).split(self.split, dim=-1)
        q, k, v = self.norm(qkv, self.heads)
        seen, told = attend(
            (q[:, :, :length], k[:, :, :length], v[:, :, :length]),
            (q[:, :, length:], k[:, :, length:], v[:, :, length:]),
            where,
        )
        both = torch.cat([torch.cat([seen, told], dim=1), F.gelu(hidden, approximate="tanh")], -1)
        x = x + gate * self.out(both)
        return x[:, :length], x[:, length:]


class MMDiT(nn.Module):
    """Velocity of the video's latents, given text and references.

    Args:
        config: sizes and the kind of attention.
        widths: widths of what comes in.
    """

    def __init__(self, config: NetworkConfig, widths: Widths) -> None:
        super().__init__()
        self.config, self.widths = config, widths
        d = config.width
        self.axes = config.rope_axes or rope.default_axes(d // config.heads)
        token = math.prod(config.patch) * widths.latent
        self.vision_in = nn.Linear(token, d)
        self.text_in = nn.Linear(widths.text, d)
        self.image_in = nn.Sequential(
            nn.LayerNorm(widths.image), nn.Linear(widths.image, d), nn.GELU(), nn.Linear(d, d)
        )
        self.time_in = nn.Sequential(nn.Linear(_TIME_FEATURES, d), nn.SiLU(), nn.Linear(d, d))
        self.kind = nn.Parameter(torch.zeros(2, d))  # text, image
        if config.reference_embedding:
            self.reference = nn.Parameter(torch.zeros(d))
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_layers))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_layers))
        self.final = Modulation(d, 2)
        self.head = nn.Linear(d, token)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.normal_(self.kind, std=0.02)
        nn.init.zeros_(self.head.weight)

    def forward(self, latents: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict ``eps - x_0``.

        Args:
            latents: ``[B, C, T, H, W]`` noisy video.
            t: ``[B]`` noise levels in [0, 1]; references carry the same level (release).
            condition: text and references; ``K`` may be 0.

        Returns:
            ``[B, C, T + K, H, W]``; the tail belongs to the references and means nothing.

        Raises:
            ValueError: sizes that the patch does not divide, or too many references for a
                window.
        """
        T, K = latents.shape[2], condition.references.shape[2]
        _, ph, pw = self.config.patch
        if latents.shape[3] % ph or latents.shape[4] % pw:
            raise ValueError(
                f"latents {tuple(latents.shape)} do not divide into patches {self.config.patch}"
            )
        h, w = latents.shape[3] // ph, latents.shape[4] // pw
        frames = torch.cat([latents, condition.references.to(latents.dtype)], dim=2)
        vision = self.vision_in(patchify(frames, self.config.patch))
        if self.config.reference_embedding:
            n = T * h * w
            vision = torch.cat([vision[:, :n], vision[:, n:] + self.reference], dim=1)
        context, context_mask = self._context(condition)
        where = layout(
            frames=T,
            grid=(h, w),
            reference_mask=condition.reference_mask,
            context_mask=context_mask,
            axes=self.axes,
            theta=self.config.rope_theta,
            window=self.config.window if self.config.attention == "window" else None,
        )
        vec = self.time_in(time_features(t).to(vision.dtype))
        for block in (*self.double_blocks, *self.single_blocks):
            vision, context = block(vision, context, vec, where)
        shift, scale = self.final(vec)
        out = self.head(modulate(vision, shift, scale))
        return unpatchify(out, (T + K, h, w), self.config.patch)

    def _context(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Text tokens, then the image tokens of every reference: ``[B, L + K*N, d]``."""
        text = self.text_in(condition.text) + self.kind[0]
        image = self.image_in(condition.image) + self.kind[1]  # [B, K, N, d]
        N = image.shape[2]
        mask = torch.cat(
            [condition.text_mask, condition.image_mask.repeat_interleave(N, dim=1)], dim=1
        )
        return torch.cat([text, image.flatten(1, 2)], dim=1), mask
