"""Binding proved at length (`make prove`): in windows, by numbers, and what cannot be bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v.model import flow, optim
from s2v.model.conditioning import Condition, draw, hide
from s2v.model.config import DropoutConfig, FlowConfig, NetworkConfig, OptimConfig
from s2v.model.config_sample import SampleConfig
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.rng import normal
from s2v.model.sample import generate

C, H, W = 8, 4, 6
NULL = normal((1, 10), 1, "null")


def _trained(
    videos: Tensor, told: Condition, steps: int, dropout: DropoutConfig, **options: Any
) -> tuple[MMDiT, float]:
    """Overfit one video per row; returns the network and its mean loss over the last 50 steps."""
    torch.manual_seed(0)
    sizes = {"width": 64, "heads": 2, "double_layers": 1, "single_layers": 1}
    model = MMDiT(NetworkConfig(**{**sizes, **options}), Widths(C, 10, 12))
    tuning = OptimConfig(lr=4e-3, warmup=10, weight_decay=0.0)
    optimiser = optim.adamw(model, tuning)
    rows = torch.arange(8) % len(videos)
    x0, told = videos[rows], told.rows(rows)
    losses = []
    for step in range(steps):
        keys = [(f"{i}", step) for i in range(len(rows))]
        hidden = [draw(dropout, 0, key, told.references.shape[2]) for key in keys]
        t = flow.noise_levels(FlowConfig(), 0, keys)
        eps = flow.noise(tuple(x0.shape[1:]), 0, keys)
        out = model(flow.interpolate(x0, eps, t), t, hide(told, hidden, NULL))
        loss = flow.video_loss(out, x0, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = optim.learning_rate(tuning, step, steps)
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), sum(losses[-50:]) / 50


def _sampled(model: MMDiT, told: Condition, row: int, frames: int, **scales: Any) -> Tensor:
    config = SampleConfig(steps=12, **{"image_scale": 1.0, "text_scale": 1.0, **scales})
    return generate(
        model,
        told.rows(torch.tensor([row])),
        NULL,
        shape=(C, frames, H, W),
        config=config,
        noise_key=(row, "binding"),
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _one_reference_each() -> Condition:
    """Two subjects, the same caption."""
    references = torch.stack([normal((C, 1, H, W), 1, "reference", s) for s in range(2)])
    there = torch.ones(2, 1, dtype=torch.bool)
    return Condition(
        text=normal((1, 3, 10), 1, "text").expand(2, -1, -1),
        text_mask=torch.ones(2, 3, dtype=torch.bool),
        references=references,
        reference_mask=there,
        image=torch.stack([normal((1, 2, 12), 1, "image", s) for s in range(2)]),
        image_mask=there,
    )


@pytest.mark.prove
@pytest.mark.parametrize("options", [{"window": 9}, {"window": 3, "shift_windows": True}])
def test_a_reference_binds_in_one_window_and_in_several(options: dict[str, Any]) -> None:
    frames, told = 4, _one_reference_each()
    videos = torch.stack([normal((C, frames, H, W), 2, "video", s) for s in range(2)])
    model, loss = _trained(videos, told, 1000, DropoutConfig(vae=0.5), **options)
    assert loss < 0.15
    for own, other in ((0, 1), (1, 0)):
        made = _sampled(model, told, own, frames)
        assert _cosine(made, videos[own]) > 0.95
        assert _cosine(made, videos[other]) < 0.2
    # Image scale zero, text first: which reference is given makes no difference at all.
    swapped = told.rows(torch.tensor([1, 0]))
    scales = {"image_scale": 0.0, "text_scale": 1.0, "order": "text-then-image"}
    a, b = (_sampled(model, c, 0, frames, **scales) for c in (told, swapped))
    assert torch.equal(a, b)
    # And what is then made is nobody's.
    assert max(_cosine(a, video) for video in videos) < 0.95


def _two_references(bound: bool) -> tuple[Tensor, Condition]:
    """Two references in either order, one word that says nothing of looks, and a video of one
    of the two: only the word's number can tell of which."""
    looks = [normal((C, 1, H, W), 1, "look", s) for s in range(2)]
    images = [normal((2, 12), 1, "image", s) for s in range(2)]
    cases = [(shown, order) for shown in (0, 1) for order in ((0, 1), (1, 0))]
    there = torch.ones(4, 2, dtype=torch.bool)
    told = Condition(
        text=normal((1, 1, 10), 1, "it").expand(4, -1, -1),
        text_mask=there[:, :1],
        references=torch.stack([torch.cat([looks[s] for s in o], dim=1) for _, o in cases]),
        reference_mask=there,
        image=torch.stack([torch.stack([images[s] for s in o]) for _, o in cases]),
        image_mask=there,
    )
    if bound:
        told = replace(
            told,
            text_subject=torch.tensor([[o.index(shown) + 1] for shown, o in cases]),
            reference_subject=torch.tensor([[1, 2]] * 4),
        )
    return torch.stack([looks[shown] for shown, _ in cases]), told


@pytest.mark.prove
def test_numbers_bind_what_words_cannot() -> None:
    dropout = DropoutConfig(vae=0.0, both=0.05, text_only=0.0)
    losses = {}
    for bound in (True, False):
        videos, told = _two_references(bound)
        model, losses[bound] = _trained(videos, told, 800, dropout, subject_ids=2, double_layers=2)
        for row in range(4 if bound else 0):
            made = _sampled(model, told, row, 1)
            assert _cosine(made, videos[row]) > 0.95
            assert _cosine(made, videos[3 - row]) < 0.2  # the other subject
    assert losses[True] < 0.7 * losses[False]
