"""Closed-form arithmetic is what torch counts, at the real shapes, without their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from s2v.model.conditioning import Condition
from s2v.model.flops import Sizes, wan_flops
from s2v.model.wan import WanModel
from s2v.model.wan_config import PRESETS, WanConfig

SHORT_480P = {"frames": 81, "height": 480, "width": 832}


def condition_of(sizes: Sizes, channels: int, text: tuple[int, int], image: int) -> Condition:
    """On meta, with masks on the CPU: shapes are all that is counted."""
    there = torch.ones(1, sizes.references, dtype=torch.bool)
    return Condition(
        torch.empty(1, *text, device="meta"),
        torch.ones(1, text[0], dtype=torch.bool),
        torch.empty(1, channels, sizes.references, sizes.height, sizes.width, device="meta"),
        there,
        torch.empty(1, sizes.references, sizes.image_tokens, image, device="meta"),
        there.clone(),
    )


def counted(run: Callable[[], Tensor]) -> tuple[int, int]:
    """Operations of the forward, and of forward and backward."""
    with FlopCounterMode(display=False) as forward:
        out = run()
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def counted_wan(config: WanConfig, sizes: Sizes, text: int = 40) -> tuple[int, int]:
    with torch.device("meta"):
        net = WanModel(config)
        latents = torch.empty(1, config.in_channels, sizes.frames, sizes.height, sizes.width)
        t = torch.empty(1)
    told = condition_of(
        sizes, config.in_channels, (text, config.text_width), config.image_width or 8
    )
    return counted(lambda: net(latents, t, told))


@pytest.mark.parametrize("references", [0, 4])
@pytest.mark.parametrize("preset", ["wan-t2v-1.3b", "wan-t2v-14b", "wan-i2v-14b"])
def test_wan_at_its_released_shapes(preset: str, references: int) -> None:
    config = PRESETS[preset]
    sizes = Sizes.of_video(**SHORT_480P, references=references, image_tokens=257)
    flops = wan_flops(config, sizes)
    assert (flops.forward, flops.train) == counted_wan(config, sizes)


@pytest.mark.parametrize(
    "update",
    [
        {"reference_timestep": "zero"},
        {"image_width": 24, "reference_timestep": "zero"},
        {"text_tokens": 77, "frequencies": 64, "out_channels": 8, "patch": (1, 1, 2)},
    ],
)
def test_wan_in_its_options(update: dict[str, Any]) -> None:
    config = WanConfig(width=48, ffn=100, heads=2, layers=3, text_width=20)
    config = config.model_copy(update=update)
    sizes = Sizes(frames=3, height=6, width=10, references=2, image_tokens=5)
    flops = wan_flops(config, sizes)
    assert (flops.forward, flops.train) == counted_wan(config, sizes)


@pytest.mark.parametrize(
    ("preset", "frames", "references", "forward", "train"),
    [
        ("wan-t2v-1.3b", (81, 480, 832), 0, 283.0, 849),
        ("phantom-wan-1.3b", (81, 480, 832), 4, 381.7, 1145),
        ("wan-t2v-14b", (81, 480, 832), 0, 1678, 5035),
        ("wan-t2v-14b", (81, 720, 1280), 0, 6523, 19570),
    ],
)
def test_figures_that_others_count_too(
    preset: str, frames: tuple[int, int, int], references: int, forward: float, train: float
) -> None:
    """Teraflops per sample; four references cost a third more."""
    flops = wan_flops(PRESETS[preset], Sizes.of_video(*frames, references=references))
    assert flops.forward / 1e12 == pytest.approx(forward, rel=5e-4)
    assert flops.train / 1e12 == pytest.approx(train, rel=1e-3)


def test_a_size_is_what_the_paper_counts_it_as() -> None:
    """81 frames of 480 x 832 are 21 latent frames of 1560 tokens."""
    sizes = Sizes.of_video(**SHORT_480P, references=4)
    assert wan_flops(PRESETS["phantom-wan-1.3b"], sizes).tokens == 39_000
