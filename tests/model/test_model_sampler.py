"""The sampler against the release's loop, its solver and diffusers' own scheduler."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor, nn

from s2v.model import config as configuration
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig, SampleConfig
from s2v.model.guidance import Guidance, guided, scales, whole
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.rng import normal
from s2v.model.sample import denoise
from s2v.model.solver import Euler, UniPC, sigmas, solver
from s2v.model.wan import WanModel
from s2v.model.wan_config import WanConfig

C, T, H, W = 3, 3, 4, 6


def _condition(count: int, words: int = 4) -> Condition:
    there = torch.ones(1, count, dtype=torch.bool)
    return Condition(
        text=normal((1, words, 6), 0, "t"),
        text_mask=torch.ones(1, words, dtype=torch.bool),
        references=normal((1, C, count, H, W), 0, "r"),
        reference_mask=there,
        image=normal((1, count, 2, 5), 0, "i"),
        image_mask=there,
    )


NULL = normal((2, 6), 0, "null")


def _network(kind: str = "mmdit") -> nn.Module:
    torch.manual_seed(3)
    model: nn.Module
    if kind == "wan":
        sizes = {"width": 24, "ffn": 32, "heads": 2, "layers": 2, "text_width": 6}
        channels = {"in_channels": C, "out_channels": C, "text_tokens": 8}
        model = WanModel(WanConfig(**sizes, **channels))
    else:
        model = MMDiT(NetworkConfig(width=24, heads=2), Widths(C, 6, 5))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model.double().eval()


def _wide(condition: Condition) -> Condition:
    """In float64."""
    given = vars(condition).items()
    return Condition(**{k: v.double() if v.is_floating_point() else v for k, v in given})


def test_levels_are_the_published_ones() -> None:
    """Wan's own grid; the plain one; both for 50 steps and shift 5."""
    wan = [round(1000 * t, 1) for t in sigmas(50, 5.0, first=0.999)]
    assert wan[:2] == [999.8, 995.7]
    assert wan[-3:] == [172.3, 92.5, 0.0]
    plain = [round(1000 * t, 1) for t in sigmas(50, 5.0)]
    assert (plain[0], plain[-3:]) == (1000.0, [172.4, 92.6, 0.0])
    assert len(wan) == len(plain) == 51
    told = [whole(t) for t in sigmas(50, 5.0, first=0.999)]
    assert told[:2] == [999, 995]  # what Wan's network is told
    assert all(a > b for a, b in pairwise(sigmas(7, 3.0)))
    for wrong in ((0, 1.0, 1.0), (3, 0.0, 1.0), (3, 1.0, 1.1)):
        with pytest.raises(ValueError, match="steps"):
            sigmas(*wrong)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
def test_the_network_is_told_wans_timesteps_at_every_number_of_steps(shift: float) -> None:
    """A literal restatement of FlowUniPC's ``set_timesteps``, float32 limits and all."""
    alphas = np.linspace(1, 1 / 1000, 1000)[::-1].copy()
    base = torch.from_numpy(1.0 - alphas).to(torch.float32)
    for steps in range(1, 101):
        theirs = np.linspace(base[0].item(), base[-1].item(), steps + 1)[:-1]
        theirs = shift * theirs / (1 + (shift - 1) * theirs)
        told = [whole(t) for t in sigmas(steps, shift, first=0.999)[:-1]]
        assert told == (theirs * 1000).astype(np.int64).tolist(), steps


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (2, 3.0), (7, 1.0), (50, 5.0)])
def test_unipc_is_diffusers_unipc_on_the_same_levels(order: int, steps: int, shift: float) -> None:
    levels = sigmas(steps, shift, first=0.999)
    theirs = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0,
        solver_order=order,
    )  # fmt: skip
    theirs.set_timesteps(sigmas=np.array(levels[:-1]))
    torch.testing.assert_close(
        theirs.sigmas.double(), torch.tensor(levels).double(), rtol=1e-6, atol=1e-7
    )
    ours = UniPC(levels, order)
    x = y = torch.randn(
        2, C, T, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )

    def velocity(z: Tensor, t: float) -> Tensor:
        return torch.tanh(1.3 * z) + 0.4 * z.roll(1, -1) * math.sin(3 * t) + 0.1

    for i, t in enumerate(levels[:-1]):
        x = theirs.step(velocity(x, t), theirs.timesteps[i], x, return_dict=False)[0]
        y = ours.step(velocity(y, t), y)
    assert float((x - y).norm() / x.norm()) < 2e-5  # their levels are float32


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_solvers_find_the_way_of_a_known_flow(name: str) -> None:
    """Data at one point m: x_t = (1 - t) m + t eps, so the end is m whatever the steps."""
    m, eps = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.3, 0.7]).double()
    for steps in (1, 3, 20):
        levels = sigmas(steps, 3.0)
        walk, x = solver(name, levels), eps
        for t in levels[:-1]:
            x = walk.step((x - m) / t, x)
        torch.testing.assert_close(x, m, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="euler, unipc"):
        solver("heun", [1.0, 0.0])


def test_unipc_needs_fewer_steps_than_euler() -> None:
    """Gaussian data of mean m and spread s: the flow is curved, and eps ends at m + s eps."""
    m, s, eps = (torch.tensor(x).double() for x in ([1.5, -1.0], [0.3, 0.6], [0.4, -1.2]))

    def velocity(x: Tensor, t: float) -> Tensor:
        gain = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
        clean = m + gain * (x - (1 - t) * m)
        return (x - clean) / t

    def error(name: str, steps: int) -> float:
        levels = sigmas(steps, 1.0)
        walk, x = solver(name, levels), eps
        for t in levels[:-1]:
            x = walk.step(velocity(x, t), x)
        return float((x - (m + s * eps)).norm())

    assert error("unipc", 20) < 0.2 * error("euler", 20)
    assert error("euler", 40) == pytest.approx(error("euler", 20) / 2, rel=0.2)  # first order
    assert error("unipc", 40) < 0.4 * error("unipc", 20)


def _stub(z: Tensor, t: Tensor, given: Condition) -> Tensor:
    """Looks at everything: latents, references where they stand, level and text."""
    x = torch.cat([z, given.references.to(z.dtype)], dim=2)
    words = (given.text * given.text_mask[..., None]).sum(dim=(1, 2))
    level = (t * 1.7 + 0.2 * words.tanh()).reshape(-1, 1, 1, 1, 1).to(z.dtype)
    return torch.tanh(x + 0.3 * x.mean(dim=2, keepdim=True)) * level + 0.1 * x.roll(1, dims=2)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("name", "shift"), [("unipc", 5.0), ("euler", 3.0)])
def test_it_is_the_releases_loop(count: int, name: str, shift: float) -> None:
    """A literal restatement: noise for all frames, the clean tail put in before every call, the
    whole stepped, three forwards, the tail cut off at the end."""
    steps, w_img, w_txt = 12, 5.0, 7.5
    c = _condition(count)
    noise = normal((1, C, T + count, H, W), 3, "noise").double()
    ref, ref_neg = c.references.double(), torch.zeros_like(c.references).double()
    u = np.linspace(0.999, 0, steps + 1)
    levels = shift * u / (1 + (shift - 1) * u)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    scheduler.set_timesteps(sigmas=levels[:-1].copy())

    def network(x: Tensor, t: int, text: Tensor) -> Tensor:
        there = torch.ones(text.shape[:2], dtype=torch.bool)
        seen = Condition(text, there, x[:, :, T:], c.reference_mask, c.image, c.image_mask)
        return _stub(x[:, :, :T], torch.tensor([t / 1000], dtype=torch.float32), seen)

    latents = noise
    for i, level in enumerate(levels[:-1]):
        t = int(1000 * level)
        pos_it = network(torch.cat([latents[:, :, :T], ref], dim=2), t, c.text)
        pos_i = network(torch.cat([latents[:, :, :T], ref], dim=2), t, NULL[None])
        neg = network(torch.cat([latents[:, :, :T], ref_neg], dim=2), t, NULL[None])
        pred = neg + w_img * (pos_i - neg) + w_txt * (pos_it - pos_i)
        if name == "unipc":
            latents = scheduler.step(pred, scheduler.timesteps[i], latents, return_dict=False)[0]
        else:
            latents = latents + (levels[i + 1] - level) * pred
    x0 = latents[:, :, :T]

    config = SampleConfig(preset="release", steps=steps, shift=shift, solver=name)
    made = denoise(_stub, c, NULL, noise[:, :, :T], config)
    assert float((made - x0).norm() / x0.norm()) < 2e-5


def test_presets_are_the_papers_and_the_releases() -> None:
    paper, release = SampleConfig(preset="paper"), SampleConfig(preset="release")
    assert (paper.image_scale, paper.text_scale, paper.solver) == (3.0, 7.5, "euler")
    assert (release.image_scale, release.text_scale, release.solver) == (5.0, 7.5, "unipc")
    assert (release.steps, release.shift, release.first_level) == (50, 5.0, 0.999)
    assert SampleConfig(preset="release", text_scale=4.0).text_scale == 4.0  # said wins
    stored = configuration.load("demo_tiny", ["sample.image_scale=1"])
    changed = configuration.override(stored, ["sample.preset=release", "sample.steps=7"])
    s = changed.sample
    assert (s.image_scale, s.steps, s.shift) == (5.0, 7, 5.0)  # a preset given later wins


@pytest.mark.parametrize("order", ["image-then-text", "text-then-image"])
@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("kind", ["mmdit", "wan"])
def test_batched_branches_are_the_sequential_ones(kind: str, order: str, count: int) -> None:
    model, c = _network(kind), _wide(_condition(count))
    z = normal((1, C, T, H, W), 0, "z").double()
    made = [
        denoise(model, c, NULL.double(), z, SampleConfig(steps=3, order=order, branches=b))
        for b in ("sequential", "batched")
    ]
    # Wan makes its modulation in float32, whatever the weights are.
    tolerance = 1e-9 if kind == "mmdit" else 1e-4
    torch.testing.assert_close(made[0], made[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("order", ["image-then-text", "text-then-image"])
def test_branches_see_what_their_names_say(order: str) -> None:
    c, seen = _condition(2), []

    def network(z: Tensor, t: Tensor, given: Condition) -> Tensor:
        told = torch.equal(given.text, c.text)
        assert told or torch.equal(given.text[0], NULL)
        shown = bool(given.references.any())
        assert shown == bool(given.image_mask.any())
        assert given.references.shape == c.references.shape  # zero latents, not none
        assert given.reference_mask.all()
        seen.append((told, shown))
        value = 1.0 + 10 * told + 100 * shown
        return torch.cat([torch.full_like(z, value), torch.full((1, C, 2, H, W), 1e9)], dim=2)

    config = SampleConfig(order=order, image_scale=3.0, text_scale=7.5)
    v = Guidance(network, c, NULL, config)(torch.zeros(1, C, T, H, W), 0.5)
    middle = (False, True) if order == "image-then-text" else (True, False)
    assert seen == [(False, False), middle, (True, True)]
    assert torch.equal(v, torch.full_like(v, 1 + 3.0 * 100 + 7.5 * 10))  # both orders, here


def test_without_references_two_calls_do() -> None:
    for order in ("image-then-text", "text-then-image"):
        calls = []

        def network(z: Tensor, t: Tensor, given: Condition, kept: list[Any] = calls) -> Tensor:
            kept.append(given)
            return z * (2.0 if given.text.shape[1] == 4 else 1.0)

        config = SampleConfig(order=order, image_scale=3.0, text_scale=7.5)
        z = torch.ones(1, C, T, H, W)
        v = Guidance(network, _condition(0), NULL, config)(z, 0.5)
        assert len(calls) == 2
        torch.testing.assert_close(v, 1 + 7.5 * z)


def test_image_scale_zero_ignores_references_when_text_comes_first() -> None:
    """In the other order it does not: pos_it - pos_i has seen them (docs/sampling.md)."""
    model = _network()
    one, two = _condition(2), _condition(2)
    two = replace(two, references=two.references.flip(2) * 3, image=two.image.flip(1) - 1)
    made = {}
    for order in ("text-then-image", "image-then-text"):
        config = SampleConfig(steps=2, order=order, image_scale=0.0, text_scale=7.5)
        made[order] = []
        for c in (one, two):
            z = normal((1, C, T, H, W), 0, "z").double()
            made[order].append(denoise(model, _wide(c), NULL.double(), z, config))
    assert torch.equal(*made["text-then-image"])
    assert not torch.allclose(*made["image-then-text"])


def test_guidance_identities() -> None:
    neg, i, it = (normal((2, 3), 0, n) for n in ("n", "i", "it"))
    torch.testing.assert_close(guided(neg, i, it, 1.0, 1.0), it)
    torch.testing.assert_close(guided(neg, i, it, 4.0, 4.0), neg + 4 * (it - neg))
    torch.testing.assert_close(guided(neg, i, it, 0.0, 0.0), neg)
    torch.testing.assert_close(guided(neg, i, it, 3.0, 0.0), neg + 3 * (i - neg))


def test_answers_in_half_precision_are_combined_in_the_latents_own() -> None:
    """Differences of bfloat16, times 7.5, in bfloat16 would be a few percent off."""
    config = SampleConfig(image_scale=5.0, text_scale=7.5)
    z = normal((1, C, T, H, W), 0, "z")
    said = [normal((1, C, T + 2, H, W), 0, name).bfloat16() for name in ("neg", "i", "it")]
    for branches in ("sequential", "batched"):
        answers = iter(said if branches == "sequential" else [torch.cat(said)])
        v = Guidance(
            lambda *_, left=answers: next(left),
            _condition(2), NULL, config.model_copy(update={"branches": branches}),
        )(z, 0.5)  # fmt: skip
        neg, i, it = (x[:, :, :T].float() for x in said)
        assert torch.equal(v, guided(neg, i, it, 5.0, 7.5))


def test_scales_follow_their_schedule() -> None:
    const = SampleConfig(image_scale=3.0, text_scale=7.5, image_scale_end=1.0)
    assert scales(const, 0.1) == (3.0, 7.5)
    linear = const.model_copy(update={"schedule": "linear"})
    assert scales(linear, 1.0) == (3.0, 7.5)
    assert scales(linear, 0.5) == (2.0, 7.5)
    assert scales(linear, 0.0) == (1.0, 7.5)
    switch = const.model_copy(
        update={"schedule": "switch", "switch_level": 0.9, "text_scale_end": 2.0}
    )
    assert scales(switch, 0.9) == (3.0, 7.5)
    assert scales(switch, 0.89) == (1.0, 2.0)


def test_whole_timesteps_are_what_wan_tells_its_network() -> None:
    told: list[float] = []

    def network(z: Tensor, t: Tensor, given: Condition) -> Tensor:
        told.append(float(t))
        return z

    config = SampleConfig(preset="release")
    Guidance(network, _condition(0), NULL, config)(torch.zeros(1, C, T, H, W), 0.9998)
    assert told[0] == pytest.approx(0.999)


def test_euler_is_euler() -> None:
    walk = Euler([1.0, 0.4, 0.0])
    x = walk.step(torch.tensor(2.0), torch.tensor(1.0))
    assert x.item() == pytest.approx(1 - 0.6 * 2)
    assert walk.step(torch.tensor(1.0), x).item() == pytest.approx(x.item() - 0.4)
