"""The MMDiT of the paper: double-stream blocks, then single-stream blocks (section 3.2).

The vision stream is the video's latents with the references' latents behind them in time; the
context stream is the text's tokens with the references' image tokens behind them. The two meet
in attention only. Nothing here knows of devices, processes or training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.attention import Layout, layout
from s2v.model.blocks import Clean, DoubleBlock, Modulation, SingleBlock, modulate
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.errors import ModelError
from s2v.model.moving import onto
from s2v.model.tokens import Placement, patchify, unpatchify

_TIME_FEATURES = 256


@dataclass(frozen=True)
class Widths:
    """What the network takes in: latent channels, text and image feature widths.

    Image tokens may be CLIP's (257 of 1280), SigLIP's (256 or 729 of 1152) or any others.
    """

    latent: int
    text: int
    image: int


def time_features(t: Tensor) -> Tensor:
    """Sinusoids of ``1000 t``: ``[B]`` -> ``[B, 256]``, cosines first."""
    half = _TIME_FEATURES // 2
    powers = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * powers)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class MMDiT(nn.Module):
    """Velocity of the video's latents, given text and references.

    Args:
        config: sizes, the kind of attention, and the readings of what the paper leaves open.
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
        if config.pooled_text == "mean":
            self.pooled_in = nn.Sequential(nn.Linear(widths.text, d), nn.SiLU(), nn.Linear(d, d))
        self.kind = nn.Parameter(torch.zeros(2, d))  # text, image
        if config.reference_embedding:
            self.reference = nn.Parameter(torch.zeros(d))
        if config.subject_ids:
            self.subject = nn.Embedding(config.subject_ids + 1, d, padding_idx=0)
        # Without single-stream blocks nobody reads the last context.
        last = config.double_layers - 1 if config.single_layers == 0 else -1
        self.double_blocks = nn.ModuleList(
            DoubleBlock(config, ends=i == last) for i in range(config.double_layers)
        )
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
        if self.config.subject_ids:
            # As large as the tokens they join: fifty times smaller, words and references were
            # not matched in 1400 steps of a task that takes 800 so.
            nn.init.normal_(self.subject.weight, std=1.0)
            nn.init.zeros_(self.subject.weight[0])

    def forward(self, latents: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict ``eps - x_0``.

        Args:
            latents: ``[B, C, T, H, W]`` noisy video.
            t: ``[B]`` noise levels in [0, 1].
            condition: text and references; ``K`` may be 0.

        Returns:
            ``[B, C, T + K, H, W]``; the tail belongs to the references and means nothing.

        Raises:
            ModelError: sizes or widths that do not fit the network, or too many references for a
                window.
        """
        self._check(latents, condition)
        T, K = latents.shape[2], condition.references.shape[2]
        _, ph, pw = self.config.patch
        h, w = latents.shape[3] // ph, latents.shape[4] // pw
        vision = self._vision(latents, condition, h * w)
        context, context_mask = self._context(condition)
        vec = self._vec(t, condition, vision.dtype)
        clean = None
        if self.config.reference_timestep == "zero" and K:
            at_zero = self._vec(torch.zeros_like(t), condition, vision.dtype)
            clean = Clean(at_zero, T * h * w, (T + K) * h * w)
        masks = condition.reference_mask, context_mask
        wheres = self._layouts(T, (h, w), *masks, vision.device)
        blocks = chain(self.double_blocks, self.single_blocks)
        for block, where in zip(blocks, wheres, strict=False):
            vision, context = block(vision, context, vec, where, clean)
        shift, scale = self.final(vec)
        out = self.head(modulate(vision, shift, scale))
        return unpatchify(out, (T + K, h, w), self.config.patch)

    def _check(self, latents: Tensor, condition: Condition) -> None:
        _, C, _, H, W = latents.shape
        _, ph, pw = self.config.patch
        if H % ph or W % pw:
            raise ModelError(
                f"latents {tuple(latents.shape)} do not divide into patches {self.config.patch}"
            )
        references = condition.references
        if references.shape[2] and references.shape[3:] != (H, W):
            raise ModelError(
                f"references are {tuple(references.shape[3:])} latents, the video {(H, W)}"
            )
        said = Widths(C, condition.text.shape[-1], condition.image.shape[-1])
        if said != self.widths:
            raise ModelError(f"inputs are of {said}, this network was made for {self.widths}")

    def _layouts(
        self,
        frames: int,
        grid: tuple[int, int],
        reference_mask: Tensor,
        context_mask: Tensor,
        device: torch.device,
    ) -> Iterator[Layout]:
        """The layout of every block in turn: all alike, or every second one shifted.

        Masks that stay on the CPU spare a GPU the wait for them.
        """
        c = self.config
        window = c.window if c.attention == "window" else None
        made = [
            layout(
                frames=frames,
                grid=grid,
                reference_mask=reference_mask,
                context_mask=context_mask,
                axes=self.axes,
                theta=c.rope_theta,
                window=window,
                shifted=shifted,
                place=Placement(c.reference_position, c.reference_offset),
                packed=c.masking == "packed",
                tables_on=device,
            ).to(device)
            for shifted in ((False, True) if c.shift_windows and window else (False,))
        ]
        while True:
            yield from made

    def _vision(self, latents: Tensor, condition: Condition, area: int) -> Tensor:
        """Video tokens, then the tokens of every reference: ``[B, (T + K)*h*w, d]``."""
        frames = torch.cat([latents, condition.references.to(latents.dtype)], dim=2)
        weight = self.vision_in.weight
        tokens: Tensor = self.vision_in(patchify(frames.to(weight.dtype), self.config.patch))
        n = latents.shape[2] * area
        tail = tokens[:, n:]
        if self.config.reference_embedding:
            tail = tail + self.reference
        if self.config.subject_ids:
            ids = condition.reference_subject.repeat_interleave(area, dim=1)
            tail = tail + self.subject(ids)
        return torch.cat([tokens[:, :n], tail], dim=1)

    def _context(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Text tokens, then the image tokens of every reference: ``[B, L + K*N, d]``."""
        dtype = self.text_in.weight.dtype
        text = self.text_in(condition.text.to(dtype)) + self.kind[0]
        image = self.image_in(condition.image.to(dtype)) + self.kind[1]  # [B, K, N, d]
        if self.config.subject_ids:
            text = text + self.subject(condition.text_subject)
            image = image + self.subject(condition.reference_subject)[:, :, None]
        N = image.shape[2]
        mask = torch.cat(
            [condition.text_mask, condition.image_mask.repeat_interleave(N, dim=1)], dim=1
        )
        return torch.cat([text, image.flatten(1, 2)], dim=1), mask

    def _vec(self, t: Tensor, condition: Condition, dtype: torch.dtype) -> Tensor:
        """What modulates every block: ``[B, d]``."""
        vec: Tensor = self.time_in(time_features(t).to(dtype))
        if self.config.pooled_text == "mean":
            there = onto(condition.text_mask[..., None], t.device).to(condition.text.dtype)
            mean = (condition.text * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
            vec = vec + self.pooled_in(mean.to(dtype))
        return vec
