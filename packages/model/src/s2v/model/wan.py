"""Wan2.1's network with Phantom's references: the released variant.

Every parameter has its name in the original checkpoints, so they load as they are. References
are latent frames appended behind the video in time; all tokens attend to all, and the text joins
by cross-attention. What the release does and is easily missed is kept: text is padded with zeros
*after* its encoder and the padding is attended to; norms, modulation and residual sums are made
in float32; the head takes the time vector from before its projection. Nothing here knows of
devices, processes or training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.conditioning import Condition
from s2v.model.errors import ModelError
from s2v.model.moving import onto
from s2v.model.tokens import unpatchify
from s2v.model.wan_config import WanConfig
from s2v.model.wan_layout import Layout, layout


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions become float32; float32 and float64 stay."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def time_features(t: Tensor, width: int) -> Tensor:
    """Sinusoids of ``1000 t``: ``[...]`` -> ``[..., width]``, cosines first, from float64."""
    half = width // 2
    powers = torch.arange(half, dtype=torch.float64, device=t.device) / half
    angle = (1000 * t).double()[..., None] * 10_000.0**-powers
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``LN(x) (1 + scale) + shift`` in float32, back in the type of ``x``."""
    normed = F.layer_norm(at_least_float32(x), x.shape[-1:], eps=eps)
    return (normed * (1 + scale) + shift).to(x.dtype)


def add_gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """``x + gate y`` in float32, back in the type of ``x``."""
    return (at_least_float32(x) + y * gate).to(x.dtype)


class LayerNorm32(nn.LayerNorm):
    """A layer norm with weights, computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., d]`` of the same type."""
        weight, bias = at_least_float32(self.weight), at_least_float32(self.bias)
        out = F.layer_norm(at_least_float32(x), self.normalized_shape, weight, bias, self.eps)
        return out.to(x.dtype)


class Attention(nn.Module):
    """Projections with RMS norms of queries and keys over the full width.

    Args:
        config: sizes.
        image: whether there are keys and values of image tokens beside those of the text.
    """

    def __init__(self, config: WanConfig, *, image: bool = False) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.o = nn.Linear(d, d)
        self.norm_q = nn.RMSNorm(d, eps=config.eps)
        self.norm_k = nn.RMSNorm(d, eps=config.eps)
        if image:
            self.k_img = nn.Linear(d, d)
            self.v_img = nn.Linear(d, d)
            self.norm_k_img = nn.RMSNorm(d, eps=config.eps)

    def split(self, x: Tensor) -> Tensor:
        """``[B, S, d]`` -> ``[B, S, H, D]``."""
        return x.view(*x.shape[:2], self.heads, -1)


class Attend(nn.Module):
    """Self-attention's own part: the seam where another way of computing it may stand."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, where: Layout) -> Tensor:
        """``[B, S, H, D]`` each, rotated -> ``[B, S, H*D]``."""
        return _attend(q, k, v, where.bias)


class SelfAttention(Attention):
    """All tokens of video and references look at one another."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        self.attend: nn.Module = Attend()

    def forward(self, x: Tensor, where: Layout) -> Tensor:
        """``[B, S, d]`` -> ``[B, S, d]``."""
        q = rope.rotate(self.split(self.norm_q(self.q(x))), where.cos, where.sin)
        k = rope.rotate(self.split(self.norm_k(self.k(x))), where.cos, where.sin)
        out: Tensor = self.o(self.attend(q, k, self.split(self.v(x)), where))
        return out


class CrossAttention(Attention):
    """Video and references look at the text and, apart from it, at the image tokens."""

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None, where: Layout) -> Tensor:
        """``[B, S, d], [B, L, d], [B, K*N, d]`` -> ``[B, S, d]``."""
        q = self.split(self.norm_q(self.q(x)))
        seen = _attend(q, self.split(self.norm_k(self.k(text))), self.split(self.v(text)), None)
        if image is not None:
            k, v = self.norm_k_img(self.k_img(image)), self.v_img(image)
            shown = _attend(q, self.split(k), self.split(v), where.image_bias)
            if where.has_image is not None:
                shown = shown * where.has_image.to(shown.dtype)
            seen = seen + shown
        out: Tensor = self.o(seen)
        return out


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """``[B, S, H, D]`` each, keys of any length -> ``[B, S, H*D]``."""
    bias = None if bias is None else bias.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias
    )
    return out.transpose(1, 2).flatten(2)


class Block(nn.Module):
    """Self-attention, cross-attention, MLP; the first and last are modulated by the time.

    ``norm3`` is the affine norm before cross-attention: the original names it so.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        d = config.width
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = LayerNorm32(d, eps=config.eps)
        self.cross_attn = CrossAttention(config, image=config.image_width is not None)
        self.ffn = nn.Sequential(
            nn.Linear(d, config.ffn), nn.GELU(approximate="tanh"), nn.Linear(config.ffn, d)
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, d))

    def forward(
        self, x: Tensor, text: Tensor, image: Tensor | None, e: Tensor, where: Layout
    ) -> Tensor:
        """One block.

        Args:
            x: ``[B, S, d]`` video, then references.
            text: ``[B, L, d]``.
            image: ``[B, K*N, d]`` or None.
            e: ``[B, G, 6, d]`` float32 projected time vector, per group of tokens.
            where: the batch's layout.
        """
        parts = (self.modulation[:, None] + e).unbind(2)
        shift, scale, gate, shift2, scale2, gate2 = (where.spread(part) for part in parts)
        x = add_gated(x, self.self_attn(modulate(x, shift, scale, self.eps), where), gate)
        x = x + self.cross_attn(self.norm3(x), text, image, where)
        return add_gated(x, self.ffn(modulate(x, shift2, scale2, self.eps)), gate2)


class Head(nn.Module):
    """Tokens to patches of velocity."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.width, math.prod(config.patch) * config.out_channels)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.width))

    def forward(self, x: Tensor, e: Tensor, where: Layout) -> Tensor:
        """``[B, S, d]``, time vector ``[B, G, d]`` -> ``[B, S, patch values]``."""
        parts = (self.modulation[:, None] + e[:, :, None]).unbind(2)
        shift, scale = (where.spread(part) for part in parts)
        out: Tensor = self.head(modulate(x, shift, scale, self.eps))
        return out


class ImageEmbedding(nn.Module):
    """CLIP's tokens to the network's width (the I2V weights' ``img_emb``)."""

    def __init__(self, config: WanConfig, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            LayerNorm32(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, config.width),
            LayerNorm32(config.width),
        )
        if config.image_positions is not None:
            self.emb_pos = nn.Parameter(torch.zeros(1, config.image_positions, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, K*N, Di]`` -> ``[B, K*N, d]``."""
        if hasattr(self, "emb_pos"):
            if tokens.shape[1] > self.emb_pos.shape[1]:
                raise ModelError(
                    f"{tokens.shape[1]} image tokens, but this network has positions for "
                    f"{self.emb_pos.shape[1]}; give fewer references"
                )
            tokens = tokens + self.emb_pos[:, : tokens.shape[1]]
        out: Tensor = self.proj(tokens)
        return out


class WanModel(nn.Module):
    """Velocity of the video's latents, given text and references.

    Args:
        config: sizes and options.

    Under ``torch.device("meta")`` nothing is allocated; call :meth:`initialise` after
    ``to_empty``, or load a checkpoint.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        d, patch = config.width, config.patch
        self.patch_embedding = nn.Conv3d(config.in_channels, d, patch, stride=patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_width, d), nn.GELU(approximate="tanh"), nn.Linear(d, d)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.frequencies, d), nn.SiLU(), nn.Linear(d, d)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        if config.image_width is not None:
            self.img_emb = ImageEmbedding(config, config.image_width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        self.initialise()

    def initialise(self) -> None:
        """Fresh weights, as the original initialises them: the output is zero at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
            elif isinstance(module, Block | Head):
                nn.init.normal_(module.modulation, std=self.config.width**-0.5)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        if self.patch_embedding.bias is not None:
            nn.init.zeros_(self.patch_embedding.bias)
        for module in (*self.text_embedding, *self.time_embedding):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        if self.config.image_positions is not None:
            nn.init.zeros_(self.img_emb.emb_pos)
        nn.init.zeros_(self.head.head.weight)

    def forward(self, latents: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict ``eps - x_0``.

        Args:
            latents: ``[B, C, T, H, W]`` noisy video.
            t: ``[B]`` noise levels in [0, 1]; the network is told ``1000 t``.
            condition: text and references; ``K`` may be 0. An absent reference
                (``reference_mask``) changes nothing; one with zero latents is the release's null.

        Returns:
            ``[B, Co, T + K, H, W]``; the tail belongs to the references and means nothing.

        Raises:
            ModelError: sizes or widths that do not fit the network.
        """
        self._check(latents, condition)
        c, weight = self.config, self.patch_embedding.weight
        T, K = latents.shape[2], condition.references.shape[2]
        _, ph, pw = c.patch
        grid = latents.shape[3] // ph, latents.shape[4] // pw
        frames = torch.cat([latents, condition.references.to(latents.dtype)], dim=2)
        x = self.patch_embedding(frames.to(weight.dtype)).flatten(2).transpose(1, 2).contiguous()
        where = layout(c, T, grid, condition, x.device)
        text = self._text(condition).to(weight.dtype)
        text = self.text_embedding(text)
        image = self._image(condition, weight)
        times = t[:, None]
        if c.reference_timestep == "zero" and K:
            times = torch.stack([t, torch.zeros_like(t)], dim=1)
        # The release makes the time vector in float32 even where all else is halved, so these
        # layers may be wider than the others (`checkpoints.loading.WIDE`).
        features = time_features(times, c.frequencies).to(_dtype(self.time_embedding))
        e = at_least_float32(self.time_embedding(features))  # [B, G, d]
        e0 = at_least_float32(self.time_projection(e.to(_dtype(self.time_projection))))
        e0 = e0.view(*e0.shape[:2], 6, -1)
        for block in self.blocks:
            x = block(x, text, image, e0, where)
        return unpatchify(self.head(x, e, where), (T + K, *grid), c.patch)

    def _image(self, condition: Condition, weight: Tensor) -> Tensor | None:
        """``[B, K, N, Di]`` -> ``[B, K*N, d]``; None where there is nothing to look at.

        A network that learns looks at one hidden token then: its image branch has gradients of
        zero instead of none. Processes hand gradients on by their order, so that all must have
        those of the same parameters, whatever samples they were given.
        """
        if self.config.image_width is None:
            return None
        tokens = condition.image.flatten(1, 2)
        if not tokens.shape[1]:
            if not torch.is_grad_enabled():
                return None
            tokens = weight.new_zeros(tokens.shape[0], 1, self.config.image_width)
        image: Tensor = self.img_emb(tokens.to(weight.dtype))
        return image

    def _text(self, condition: Condition) -> Tensor:
        """``[B, L, Dt]`` -> ``[B, text_tokens, Dt]``; all behind a text's end is zero."""
        hidden = onto(~condition.text_mask, condition.text.device)
        told = condition.text.masked_fill(hidden[..., None], 0)
        return F.pad(told, (0, 0, 0, self.config.text_tokens - told.shape[1]))

    def _check(self, latents: Tensor, condition: Condition) -> None:
        c = self.config
        _, C, _, H, W = latents.shape
        if c.in_channels != C:
            raise ModelError(
                f"latents have {C} channels, this network takes {c.in_channels}"
                + ("; I2V weights take noise, mask and first frame" if c.in_channels == 36 else "")
            )
        if H % c.patch[1] or W % c.patch[2]:
            raise ModelError(f"latents {tuple(latents.shape)} do not divide into patches {c.patch}")
        if condition.references.shape[2] and condition.references.shape[3:] != (H, W):
            raise ModelError(
                f"references are {tuple(condition.references.shape[3:])} latents, the video {H, W}"
            )
        _, L, width = condition.text.shape
        if width != c.text_width or c.text_tokens < L:
            raise ModelError(
                f"text of {L} x {width} features, this network takes at most {c.text_tokens} x "
                f"{c.text_width}"
            )
        _, K, _, width = condition.image.shape
        if c.image_width is not None and K and width != c.image_width:
            raise ModelError(f"image tokens are {width} wide, this network takes {c.image_width}")
