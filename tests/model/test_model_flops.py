"""Closed-form arithmetic is what torch counts, at the real shapes, without their memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from s2v.model import config as configuration
from s2v.model import mmdit
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.flops import Sizes, mmdit_flops, wan_flops
from s2v.model.mmdit import MMDiT, Widths
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


@pytest.mark.parametrize(
    ("preset", "references"), [("phantom-wan-1.3b", 4), ("wan-t2v-14b", 0), ("wan-i2v-14b", 1)]
)
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


def on_meta(value: Any) -> Any:
    """The same layout without its numbers."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: on_meta(getattr(value, f.name)) for f in fields(value)})
    return value


def counted_mmdit(
    config: NetworkConfig, widths: Widths, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    laid_out = mmdit.layout
    monkeypatch.setattr(mmdit, "layout", lambda **kwargs: on_meta(laid_out(**kwargs)))
    with torch.device("meta"):
        net = MMDiT(config, widths)
        latents = torch.empty(1, widths.latent, sizes.frames, sizes.height, sizes.width)
        t = torch.empty(1)
    told = condition_of(sizes, widths.latent, (sizes.text, widths.text), widths.image)
    if config.pooled_text == "mean" or config.subject_ids:
        told = replace(
            told,
            text_mask=told.text_mask,
            text_subject=told.text_subject.to("meta"),
            reference_subject=told.reference_subject.to("meta"),
        )
    return counted(lambda: net(latents, t, told))


@pytest.mark.parametrize("references", [0, 4])
def test_the_mmdit_of_the_paper_at_480p(references: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recipe's sizes, windows of nine, umT5's and CLIP's widths."""
    config = configuration.load("phantom_mmdit_1b").network
    widths = Widths(16, 4096, 1280)
    sizes = Sizes.of_video(**SHORT_480P, references=references, image_tokens=257, text=512)
    flops = mmdit_flops(config, widths, sizes)
    assert (flops.forward, flops.train) == counted_mmdit(config, widths, sizes, monkeypatch)


@pytest.mark.parametrize(
    "update",
    [
        {},
        {"attention": "full"},
        {"attention": "full", "reference_timestep": "zero"},
        {"window": 4},
        {"window": 4, "shift_windows": True},
        {"single_layers": 0},
        {"double_layers": 0},
    ],
)
def test_the_mmdit_in_its_options(update: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = NetworkConfig(width=48, heads=2, double_layers=2, single_layers=3, mlp_ratio=3)
    config = config.model_copy(update=update)
    sizes = Sizes(frames=7, height=6, width=10, references=2, image_tokens=5, text=11)
    widths = Widths(16, 20, 12)
    flops = mmdit_flops(config, widths, sizes)
    assert (flops.forward, flops.train) == counted_mmdit(config, widths, sizes, monkeypatch)


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
