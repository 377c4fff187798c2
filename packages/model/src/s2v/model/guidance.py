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
    start = (config.image_scale, config.text_scale)
    ends = (config.image_scale_end, config.text_scale_end)
    image, text = (a if b is None else b for a, b in zip(start, ends, strict=True))
    if config.schedule == "linear":
        return (image + (start[0] - image) * t, text + (start[1] - text) * t)
    if config.schedule == "switch" and t < config.switch_level:
        return (image, text)
    return start


def whole(t: float) -> int:
    """The timestep of a thousand that Wan's scheduler tells its network at level ``t``.

    It cuts, and its 0.999 is a float32 that lies just above: where a level is a whole number of
    thousandths (9 or 27 steps without shift), ours may lie just below.
    """
    return math.floor(1000 * t + 1e-5)


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
        self._branches, self._of = [nothing, middle, condition], (0, 1, 2)
        if condition.references.shape[2] == 0:  # the middle branch is one of its neighbours
            self._branches, self._of = [nothing, condition], (0, 0, 1) if image_first else (0, 1, 1)

    def __call__(self, z: Tensor, t: float) -> Tensor:
        """Velocity ``[B, C, T, H, W]`` at ``z``, a level for all."""
        told = whole(t) / 1000 if self.config.whole_timesteps else t
        at = torch.full((z.shape[0],), told, device=z.device, dtype=torch.float32)
        frames = z.shape[2]
        if self.config.branches == "batched":
            n = len(self._branches)
            every = self.network(z.repeat(n, 1, 1, 1, 1), at.repeat(n), concatenate(self._branches))
            said = list(every[:, :, :frames].chunk(n))
        else:
            said = [self.network(z, at, c)[:, :, :frames] for c in self._branches]
        # Differences of halves, times 7.5, would be noise: a network in half precision answers
        # in it, and what is made of its answers is not.
        said = [answer.to(z.dtype) for answer in said]
        neg, middle, both = (said[i] for i in self._of)
        image, text = scales(self.config, t)
        if self.config.order == "text-then-image":
            image, text = text, image
        return guided(neg, middle, both, image, text)
