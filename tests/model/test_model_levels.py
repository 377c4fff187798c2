"""Noise levels, weights and reductions against their closed forms; gradients in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from s2v.model import flow
from s2v.model.blocks import Clean, Modulation, modulate
from s2v.model.config import FlowConfig
from s2v.model.solver import shifted

KEYS = [(f"s{i % 7}", i) for i in range(4000)]


def _logit_normal(mean: float, std: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: stats.norm.cdf(special.logit(u), mean, std)


def _mode(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    """P(f(v) < u) with f falling: 1 - f^-1(u)."""

    def f(v: float) -> float:
        return 1 - v - scale * (math.cos(math.pi * v / 2) ** 2 - 1 + v)

    def cdf(u: np.ndarray) -> np.ndarray:
        found = [optimize.brentq(lambda v, x=x: f(v) - x, 0, 1) for x in np.clip(u, 1e-9, 1 - 1e-9)]
        return 1 - np.array(found)

    return cdf


@pytest.mark.parametrize(
    ("config", "cdf"),
    [
        (FlowConfig(distribution="uniform"), lambda u: u),
        (FlowConfig(mean=0.3, std=0.8), _logit_normal(0.3, 0.8)),
        (FlowConfig(distribution="mode"), _mode(1.29)),
        (FlowConfig(distribution="mode", mode_scale=-0.5), _mode(-0.5)),
    ],
)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_follow_their_distribution(
    config: FlowConfig, cdf: Callable[[np.ndarray], np.ndarray], shift: float
) -> None:
    config = config.model_copy(update={"shift": shift})
    t = flow.noise_levels(config, 11, KEYS).double().numpy()
    assert t.min() >= 0
    assert t.max() <= 1
    unshifted = t / (shift - (shift - 1) * t)  # the shift's inverse
    assert stats.kstest(unshifted, cdf).pvalue > 1e-3
    again = flow.noise_levels(config, 11, KEYS[100:101])
    assert again.item() == pytest.approx(t[100], abs=1e-7)  # whatever was drawn before


@pytest.mark.parametrize(
    "config",
    [
        FlowConfig(distribution="uniform", shift=2.0),
        FlowConfig(mean=0.3, std=1.5, shift=12.0),
        FlowConfig(distribution="mode", shift=0.5),
        FlowConfig(shift_rule="sqrt", base_tokens=64),
    ],
)
def test_quantiles_are_those_of_the_levels_that_training_draws(config: FlowConfig) -> None:
    drawn = flow.noise_levels(config, 11, KEYS, 300).double()
    told = flow.quantiles(config, 8, 300)
    assert told == sorted(told)
    below = [(drawn < level).double().mean().item() for level in told]
    assert below == pytest.approx(flow.evenly(8), abs=0.03)  # 4000 draws: 4 sigma
    # Hence the mean over many of them is the expectation over the drawn ones.
    many = torch.tensor(flow.quantiles(config, 400, 300), dtype=torch.float64)
    assert many.square().mean().item() == pytest.approx(drawn.square().mean().item(), abs=0.02)


def test_quantiles_need_the_tokens_that_their_rule_looks_at() -> None:
    with pytest.raises(ValueError, match="needs the number of tokens"):
        flow.quantiles(FlowConfig(shift_rule="exp"), 4)


def test_another_distribution_would_be_found_out() -> None:
    """Else the test above could not fail."""
    t = flow.noise_levels(FlowConfig(mean=0.3, std=0.8), 11, KEYS).numpy()
    assert stats.kstest(t, _logit_normal(0.3, 1.0)).pvalue < 1e-3
    assert stats.kstest(t, lambda u: u).pvalue < 1e-3


def test_shifts_follow_the_published_rules() -> None:
    assert flow.shift_of(FlowConfig(shift=3.0), 99) == 3.0
    sd3 = FlowConfig(shift_rule="sqrt", base_tokens=1024)
    assert flow.shift_of(sd3, 4096) == 2.0  # sqrt(m / n)
    flux = FlowConfig(shift_rule="exp")
    assert flow.shift_of(flux, 256) == pytest.approx(math.exp(0.5))
    assert flow.shift_of(flux, 4096) == pytest.approx(math.exp(1.15))
    assert flow.shift_of(flux, 2176) == pytest.approx(math.exp(0.825))
    t = torch.linspace(0.1, 0.9, 5)
    torch.testing.assert_close(shifted(t, 4.0), 4 / (4 + (1 / t - 1)))
    with pytest.raises(ValueError, match="needs the number of tokens"):
        flow.noise_levels(sd3, 0, KEYS[:1])
    a, b = (flow.noise_levels(sd3, 0, KEYS[:5], tokens) for tokens in (1024, 4096))
    torch.testing.assert_close(shifted(a, 2.0), b)


def test_weights_have_their_published_shape() -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    none, cosmap, linear, bell = (
        flow.level_weights(FlowConfig(weighting=w, shift=3.0), t)
        for w in ("none", "cosmap", "linear", "bell")
    )
    assert torch.equal(none, torch.ones_like(t))
    assert cosmap.mean().item() == pytest.approx(1, abs=1e-4)  # a density on [0, 1]
    assert cosmap[50_000].item() == pytest.approx(4 / math.pi)
    assert linear[[0, -1]].tolist() == [1.0, 4.0]
    assert bell.mean().item() == pytest.approx(1, abs=1e-4)
    assert (bell[0] / bell[50_000]).item() == pytest.approx(math.exp(-0.5))


def test_reductions_count_samples_or_tokens() -> None:
    losses, weights = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])
    tokens = torch.tensor([300, 100])
    assert flow.reduce(losses, weights, tokens, "sample").item() == 3.5
    assert flow.reduce(losses, weights, tokens, "token").item() == pytest.approx(2.25)


def test_a_network_that_says_nothing_loses_the_distance_of_noise_and_data() -> None:
    """The first loss of a zero-initialised network: E|eps - x0|^2 = 1 + E x0^2."""
    torch.manual_seed(0)
    x0, eps = 0.7 * torch.randn(8, 4, 5, 8, 8), torch.randn(8, 4, 5, 8, 8)
    loss = flow.video_loss(torch.zeros(8, 4, 7, 8, 8), x0, eps)
    assert loss.mean().item() == pytest.approx(1.49, abs=0.03)
    torch.testing.assert_close(loss, (eps - x0).square().mean(dim=(1, 2, 3, 4)))


def test_frames_a_clip_does_not_have_are_out_of_the_loss() -> None:
    torch.manual_seed(0)
    x0, eps, velocity = (torch.randn(2, 3, 4, 2, 2) for _ in range(3))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    loss = flow.video_loss(velocity, x0, eps, mask)
    torch.testing.assert_close(loss[:1], flow.video_loss(velocity, x0, eps)[:1])
    cut = flow.video_loss(velocity[1:, :, :2], x0[1:, :, :2], eps[1:, :, :2])
    torch.testing.assert_close(loss[1:], cut)
    velocity[1, :, 2:] = float("nan")
    assert torch.equal(flow.video_loss(velocity, x0, eps, mask), loss)


def test_gradients_of_the_masked_loss_are_exact() -> None:
    torch.manual_seed(0)
    x0, eps = (torch.randn(2, 2, 3, 1, 2, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    weights, tokens = torch.tensor([0.5, 2.0]).double(), torch.tensor([6, 2])
    velocity = torch.randn(2, 2, 4, 1, 2, dtype=torch.float64, requires_grad=True)
    for reduction in ("sample", "token"):
        assert torch.autograd.gradcheck(
            lambda v, r=reduction: flow.reduce(
                flow.video_loss(v, x0, eps, mask), weights, tokens, r
            ),
            (velocity,),
        )
    flow.video_loss(velocity, x0, eps, mask).sum().backward()
    assert velocity.grad is not None
    assert not velocity.grad[1, :, 1:].any()
    assert not velocity.grad[:, :, 3:].any()


@pytest.mark.parametrize("clean", [False, True])
def test_gradients_of_the_modulation_are_exact(clean: bool) -> None:
    torch.manual_seed(0)
    modulation = Modulation(4, 2).double()
    for parameter in modulation.parameters():
        torch.nn.init.normal_(parameter)
    x, vec, zero = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, 4), (2, 4), (2, 4))
    )

    def run(x: torch.Tensor, vec: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        return modulate(x, *modulation(vec, 3, Clean(zero, 1, 2) if clean else None))

    assert torch.autograd.gradcheck(run, (x, vec, zero))
    if clean:  # the middle token knows only the clean vector
        a = run(x, vec, zero)
        b = run(x, vec + 1, zero)
        assert torch.equal(a[:, 1], b[:, 1])
        assert not torch.equal(a[:, 0], b[:, 0])
