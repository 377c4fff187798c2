"""The Wan network learns which reference belongs to which video, when nothing else tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from s2v.model import flow, optim
from s2v.model.conditioning import Condition, draw, hide
from s2v.model.config import DropoutConfig, FlowConfig, OptimConfig, SampleConfig
from s2v.model.rng import normal
from s2v.model.sample import generate
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

SHAPE = (8, 3, 4, 6)  # channels, frames, height, width of the latents
STEPS = 500
NULL = normal((1, 10), 1, "null")
# Latents are all that this network sees of a reference; hidden together with the text in one
# step of ten, as published.
DROPOUT = DropoutConfig(text_only=0.0, both=0.1, vae=0.0)


def videos() -> Tensor:
    return torch.stack([normal(SHAPE, 2, "video", s) for s in range(2)])


def told(subjects: list[int], texts: list[int]) -> Condition:
    """One reference each, of ``subjects``; sentences of ``texts``."""
    count = len(subjects)
    there = torch.ones(count, 1, dtype=torch.bool)
    return Condition(
        torch.stack([normal((3, 10), 1, "text", n) for n in texts]),
        torch.ones(count, 3, dtype=torch.bool),
        torch.stack([normal((8, 1, 4, 6), 1, "reference", s) for s in subjects]),
        there,
        torch.zeros(count, 1, 1, 4),
        there,
    )


def trained(condition: Condition, dropout: DropoutConfig = DROPOUT) -> tuple[WanModel, float]:
    """Overfit one video per row; returns the network and its mean loss over the last 50 steps."""
    torch.manual_seed(0)
    model = WanModel(
        WanConfig(
            width=64, ffn=256, heads=4, layers=2, in_channels=8, out_channels=8, text_width=10,
            text_tokens=4, frequencies=64,
        )
    )  # fmt: skip
    tuning = OptimConfig(lr=8e-3, warmup=10, weight_decay=0.0)
    optimiser = optim.adamw(model, tuning)
    rows = torch.arange(8) % 2
    x0, shown = videos()[rows], condition.rows(rows)
    losses = []
    for step in range(STEPS):
        keys = [(f"{i}", step) for i in range(len(rows))]
        hidden = [draw(dropout, 0, key, 1) for key in keys]
        t = flow.noise_levels(FlowConfig(), 0, keys)
        eps = flow.noise(SHAPE, 0, keys)
        out = model(flow.interpolate(x0, eps, t), t, hide(shown, hidden, NULL))
        loss = flow.video_loss(out, x0, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = optim.learning_rate(tuning, step, STEPS)
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), sum(losses[-50:]) / 50


def sampled(model: WanModel, condition: Condition, row: int, **scales: Any) -> Tensor:
    config = SampleConfig(steps=12, **{"image_scale": 1.0, "text_scale": 1.0, **scales})
    one = condition.rows(torch.tensor([row]))
    return generate(model, one, NULL, shape=SHAPE, config=config, noise_key=(row, "binding"))


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_a_video_follows_its_own_reference_and_not_the_other() -> None:
    condition = told([0, 1], texts=[0, 0])  # the same caption: only the reference tells
    model, loss = trained(condition)
    # One step in ten shows neither: there the loss cannot fall below that of a blind guess.
    assert loss < 0.15
    for own, other in ((0, 1), (1, 0)):
        made = sampled(model, condition, own)
        assert cosine(made, videos()[own]) > 0.95
        assert cosine(made, videos()[other]) < 0.2
    # The other's reference in its place makes the other's video, from the same noise.
    swapped = replace(condition, references=condition.references.flip(0))
    assert cosine(sampled(model, swapped, 0), videos()[1]) > 0.95
    # At image scale zero, text first, which one is given makes no difference, and binds nothing.
    zero = {"image_scale": 0.0, "order": "text-then-image"}
    blind = sampled(model, condition, 0, **zero)
    assert torch.equal(blind, sampled(model, swapped, 0, **zero))
    assert max(cosine(blind, video) for video in videos()) < 0.95


def test_text_binds_and_image_scale_zero_ignores_references() -> None:
    condition = told([0, 0], texts=[0, 1])  # the same reference: only the caption tells
    # Text without references is a branch of text-first guidance, so it must have been seen.
    model, _ = trained(
        condition, DropoutConfig(text_only=0.0, both=0.1, references_only=0.1, vae=0.0)
    )
    for own, other in ((0, 1), (1, 0)):
        made = sampled(model, condition, own)
        assert cosine(made, videos()[own]) > 0.95
        assert cosine(made, videos()[other]) < 0.2
    swapped = told([1, 1], texts=[0, 1])
    # It does look at its reference, so that what follows says something.
    assert not torch.allclose(sampled(model, condition, 0), sampled(model, swapped, 0), atol=1e-2)
    for own, other in ((0, 1), (1, 0)):
        zero = {"image_scale": 0.0, "order": "text-then-image"}
        made = sampled(model, condition, own, **zero)
        assert torch.equal(made, sampled(model, swapped, own, **zero))
        assert cosine(made, videos()[own]) > 0.95  # what is left is the text
        assert cosine(made, videos()[other]) < 0.2
    # In the other order only both scales at zero leave the branch that sees none.
    none = {"image_scale": 0.0, "text_scale": 0.0}
    assert torch.equal(sampled(model, condition, 0, **none), sampled(model, swapped, 0, **none))
