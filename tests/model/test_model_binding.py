"""The network learns which reference belongs to which video, when nothing else tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from s2v.model import flow, optim
from s2v.model.conditioning import Condition, draw, hide
from s2v.model.config import DropoutConfig, FlowConfig, NetworkConfig, OptimConfig, SampleConfig
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.rng import normal
from s2v.model.sample import generate

C, T, H, W = 8, 3, 4, 6
SUBJECTS = 2
STEPS = 600


def _condition(subjects: list[int], texts: list[int]) -> Condition:
    """References and image tokens of ``subjects``, sentences of ``texts``."""
    count = len(subjects)
    references = torch.stack([normal((C, 1, H, W), 1, "reference", s) for s in subjects])
    image = torch.stack([normal((1, 2, 12), 1, "image", s) for s in subjects])
    text = torch.stack([normal((3, 10), 1, "text", n) for n in texts])
    there = torch.ones(count, 1, dtype=torch.bool)
    return Condition(text, torch.ones(count, 3, dtype=torch.bool), references, there, image, there)


def _null() -> Tensor:
    return normal((1, 10), 1, "null")


def _trained(videos: Tensor, condition: Condition, dropout: DropoutConfig) -> tuple[MMDiT, float]:
    """Overfit one video per row; returns the network and its mean loss over the last 30 steps."""
    torch.manual_seed(0)
    config = NetworkConfig(width=64, heads=2, double_layers=1, single_layers=1)
    model = MMDiT(config, Widths(C, 10, 12))
    tuning = OptimConfig(lr=4e-3, warmup=10, weight_decay=0.0)
    optimiser = optim.adamw(model, tuning)
    rows = torch.arange(8) % len(videos)
    x0 = videos[rows]
    told = condition.rows(rows)
    losses = []
    for step in range(STEPS):
        keys = [(f"{i}", step) for i in range(len(rows))]
        hidden = [draw(dropout, 0, key, 1) for key in keys]
        t = flow.noise_levels(FlowConfig(), 0, keys)
        eps = flow.noise((C, T, H, W), 0, keys)
        out = model(flow.interpolate(x0, eps, t), t, hide(told, hidden, _null()))
        loss = flow.video_loss(out, x0, eps).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = optim.learning_rate(tuning, step, STEPS)
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), sum(losses[-30:]) / 30


def _sampled(model: MMDiT, condition: Condition, row: int, **scales: Any) -> Tensor:
    one = condition.rows(torch.tensor([row]))
    config = SampleConfig(steps=12, **{"image_scale": 1.0, "text_scale": 1.0, **scales})
    return generate(
        model, one, _null(), shape=(C, T, H, W), config=config, noise_key=(row, "binding")
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_a_video_follows_its_own_reference_and_not_the_other() -> None:
    videos = torch.stack([normal((C, T, H, W), 2, "video", s) for s in range(SUBJECTS)])
    condition = _condition([0, 1], texts=[0, 0])  # the same caption: only the reference tells
    # The paper's dropouts, with the VAE latents hidden often enough that image tokens must do.
    model, loss = _trained(videos, condition, DropoutConfig(vae=0.5))
    assert loss < 0.15
    for own, other in ((0, 1), (1, 0)):
        made = _sampled(model, condition, own)
        assert _cosine(made, videos[own]) > 0.95
        assert _cosine(made, videos[other]) < 0.2
    # Without the latents the image tokens bind; without either nothing can tell them apart.
    bare = Condition(**{**vars(condition), "references": torch.zeros_like(condition.references)})
    assert _cosine(_sampled(model, bare, 0), videos[0]) > 0.9
    # The other's reference in its place makes the other's video, from the same noise.
    flipped = {n: getattr(condition, n).flip(0) for n in ("references", "image")}
    swapped = Condition(**{**vars(condition), **flipped})
    assert _cosine(_sampled(model, swapped, 0), videos[1]) > 0.95
    # At image scale zero, text first, which one is given makes no difference, and binds nothing.
    zero = {"image_scale": 0.0, "order": "text-then-image"}
    blind = _sampled(model, condition, 0, **zero)
    assert torch.equal(blind, _sampled(model, swapped, 0, **zero))
    assert max(_cosine(blind, video) for video in videos) < 0.95


def test_text_binds_and_image_scale_zero_ignores_references() -> None:
    videos = torch.stack([normal((C, T, H, W), 2, "video", s) for s in range(SUBJECTS)])
    condition = _condition([0, 0], texts=[0, 1])  # the same reference: only the caption tells
    # Text without references is a branch of text-first guidance, so it must have been seen.
    model, _ = _trained(videos, condition, DropoutConfig(vae=0.0, references_only=0.1))
    for own, other in ((0, 1), (1, 0)):
        made = _sampled(model, condition, own)
        assert _cosine(made, videos[own]) > 0.95
        assert _cosine(made, videos[other]) < 0.2
    swapped = _condition([1, 1], texts=[0, 1])
    # It does look at its reference, so that what follows says something.
    assert not torch.allclose(_sampled(model, condition, 0), _sampled(model, swapped, 0), atol=1e-2)
    for own, other in ((0, 1), (1, 0)):
        zero = {"image_scale": 0.0, "order": "text-then-image"}
        made = _sampled(model, condition, own, **zero)
        assert torch.equal(made, _sampled(model, swapped, own, **zero))
        assert _cosine(made, videos[own]) > 0.95  # what is left is the text
        assert _cosine(made, videos[other]) < 0.2
    # In the other order only both scales at zero leave the branch that sees none.
    none = {"image_scale": 0.0, "text_scale": 0.0}
    assert torch.equal(_sampled(model, condition, 0, **none), _sampled(model, swapped, 0, **none))
