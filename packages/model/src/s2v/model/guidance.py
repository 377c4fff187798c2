"""Two guidance scales, one for the references and one for the text, over three branches.

``v = neg + w_img (pos_i - neg) + w_txt (pos_it - pos_i)`` (paper, section 3.4): *neg* sees the
negative prompt and zero latents in the references' slots, *pos_i* the negative prompt and the
references, *pos_it* both. In the other order (HuMo) the middle branch is *pos_t*, text without
references. Scales may change with the noise level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from s2v.model.conditioning import Condition, concatenate
from s2v.model.config_sample import SampleConfig

Network = Callable[[Tensor, Tensor, Condition], Tensor]


def guided(
    neg: Tensor, pos_i: Tensor, pos_it: Tensor, image_scale: float, text_scale: float
) -> Tensor:
    """``neg + w_img (pos_i - neg) + w_txt (pos_it - pos_i)``.

    For the other order give *pos_t* in the middle and the scales swapped.
    """
    return neg + image_scale * (pos_i - neg) + text_scale * (pos_it - pos_i)


def scales(config: SampleConfig, t: float) -> tuple[float, float]:
    """``(w_img, w_txt)`` at noise level ``t``, by ``sample.schedule``."""
    first = (config.image_scale, config.text_scale)
    ends = (config.image_scale_end, config.text_scale_end)
    a, b = (
        (x, x if end is None else end) for x, end in zip(first, ends, strict=True)
    )  # (start, end) of image, of text
    if config.schedule == "linear":
        return (a[1] + (a[0] - a[1]) * t, b[1] + (b[0] - b[1]) * t)
    if config.schedule == "switch" and t < config.switch_level:
        return (a[1], b[1])
    return (a[0], b[0])


class Guidance:
    """The guided velocity of one condition.

    Args:
        network: ``(latents [B, C, T, H, W], t [B], condition) -> [B, C, T + K, H, W]``; it puts
            the clean references behind the latents at every call, and its tail is dropped here.
        condition: text and references.
        null_text: ``[Ln, Dt]`` features of the negative prompt.
        config: scales, order, branches.
    """

    def __init__(
        self, network: Network, condition: Condition, null_text: Tensor, config: SampleConfig
    ) -> None:
        self.network, self.config = network, config
        image_only = condition.without_text(null_text)
        nothing = image_only.without_references()
        image_first = config.order == "image-then-text"
        middle = image_only if image_first else condition.without_references()
        self._branches = [nothing, middle, condition]
        # Without references the middle branch is one of its neighbours.
        self._same: tuple[int, int] | None = None
        if condition.references.shape[2] == 0:
            self._same = (1, 0) if image_first else (1, 2)
            del self._branches[1]

    def __call__(self, z: Tensor, t: float) -> Tensor:
        """Velocity ``[B, C, T, H, W]`` at ``z``, a level for all."""
        told = math.floor(1000 * t) / 1000 if self.config.whole_timesteps else t
        at = torch.full((z.shape[0],), told, device=z.device, dtype=torch.float32)
        frames = z.shape[2]
        if self.config.branches == "batched":
            n = len(self._branches)
            whole = self.network(z.repeat(n, 1, 1, 1, 1), at.repeat(n), concatenate(self._branches))
            said = list(whole[:, :, :frames].chunk(n))
        else:
            said = [self.network(z, at, c)[:, :, :frames] for c in self._branches]
        if self._same is not None:
            said = [said[0], said[0] if self._same[1] == 0 else said[1], said[1]]
        image, text = scales(self.config, t)
        if self.config.order == "image-then-text":
            return guided(said[0], said[1], said[2], image, text)
        return guided(said[0], said[1], said[2], text, image)
