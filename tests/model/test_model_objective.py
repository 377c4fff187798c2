"""Flow, loss, dropouts and guidance: the formulas and the frequencies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy import stats

from s2v.model import conditioning, flow
from s2v.model.conditioning import Condition
from s2v.model.config import DropoutConfig, SampleConfig
from s2v.model.guidance import guided
from s2v.model.rng import generator, normal
from s2v.model.sample import generate


def test_the_line_runs_from_data_to_noise_and_the_target_is_its_slope() -> None:
    x0, eps = normal((2, 3, 2, 2, 2), 0, "x"), normal((2, 3, 2, 2, 2), 0, "e")
    for end, t in ((x0, 0.0), (eps, 1.0)):
        torch.testing.assert_close(flow.interpolate(x0, eps, torch.full((2,), t)), end)
    h = 1e-3
    a, b = (flow.interpolate(x0, eps, torch.full((2,), t)) for t in (0.4, 0.4 + h))
    torch.testing.assert_close((b - a) / h, eps - x0, rtol=1e-2, atol=1e-2)
    assert flow.video_loss(eps - x0, x0, eps).abs().max() == 0


def test_references_are_out_of_the_loss() -> None:
    x0, eps = normal((2, 3, 4, 2, 2), 0, "x"), normal((2, 3, 4, 2, 2), 0, "e")
    velocity = normal((2, 3, 6, 2, 2), 0, "v").requires_grad_()
    loss = flow.video_loss(velocity, x0, eps)
    loss.sum().backward()
    assert velocity.grad is not None
    assert torch.count_nonzero(velocity.grad[:, :, 4:]) == 0
    assert torch.count_nonzero(velocity.grad[:, :, :4]) > 0
    tail = velocity.detach().clone()
    tail[:, :, 4:] = 1e6
    assert torch.equal(flow.video_loss(tail, x0, eps), loss)


def test_noise_depends_on_seed_sample_number_and_purpose_only() -> None:
    one = flow.noise((3, 4), 5, [("a", 9)])[0]
    assert torch.equal(flow.noise((3, 4), 5, [("b", 1), ("a", 9)])[1], one)
    for seed, key in ((6, ("a", 9)), (5, ("a", 10)), (5, ("b", 9))):
        assert not torch.equal(flow.noise((3, 4), seed, [key])[0], one)
    assert generator(1, "ab", "c").random() != generator(1, "a", "bc").random()
    big = normal((200_000,), 0, "x")
    assert abs(float(big.mean())) < 0.01
    assert abs(float(big.std()) - 1) < 0.01


def test_realised_dropout_is_what_was_configured() -> None:
    config = DropoutConfig(text_only=0.1, references_only=0.05, both=0.1, vae=0.7, image=0.2)
    n = 30_000
    draws = [conditioning.draw(config, 3, (f"s{i % 50}", i), 2) for i in range(n)]
    counts = conditioning.tally(draws)
    states = ("text+image", "image", "text", "neither")
    expected = [0.75 * n, 0.1 * n, 0.05 * n, 0.1 * n]
    assert stats.chisquare([counts[s] for s in states], expected).pvalue > 1e-3
    # Latents and image tokens are hidden apart: all four cells have their product.
    cells = Counter((d.vae[0], d.image[0]) for d in draws)
    order = [(v, i) for v in (True, False) for i in (True, False)]
    wanted = [n * (0.7 if v else 0.3) * (0.2 if i else 0.8) for v, i in order]
    assert stats.chisquare([cells[c] for c in order], wanted).pvalue > 1e-3
    rates = conditioning.rates(counts)
    assert rates["vae"] == pytest.approx(0.7, abs=0.015)
    assert rates["image_tokens"] == pytest.approx(0.2, abs=0.015)
    assert rates["neither"] == counts["neither"] / n


def test_hiding_image_tokens_changes_no_other_draw() -> None:
    """Else a run with it could not be compared with one without."""
    with_, without = DropoutConfig(image=0.5), DropoutConfig()
    for i in range(50):
        a, b = (conditioning.draw(c, 1, ("s", i), 3) for c in (with_, without))
        assert (a.text, a.references, a.vae) == (b.text, b.references, b.vae)
        assert b.image == (False,) * 3


def test_vae_dropout_can_be_drawn_per_reference() -> None:
    whole, each = DropoutConfig(vae=0.5), DropoutConfig(vae=0.5, vae_mode="per_reference")
    draws = [conditioning.draw(whole, 0, ("s", i), 3).vae for i in range(200)]
    assert {len(set(d)) for d in draws} == {1}
    draws = [conditioning.draw(each, 0, ("s", i), 3).vae for i in range(200)]
    assert {len(set(d)) for d in draws} == {1, 2}


def _condition(batch: int = 3, count: int = 2) -> Condition:
    return Condition(
        text=normal((batch, 4, 6), 0, "t"),
        text_mask=torch.ones(batch, 4, dtype=torch.bool),
        references=normal((batch, 2, count, 2, 2), 0, "r"),
        reference_mask=torch.ones(batch, count, dtype=torch.bool),
        image=normal((batch, count, 2, 5), 0, "i"),
        image_mask=torch.ones(batch, count, dtype=torch.bool),
    )


def test_hidden_means_null_text_zero_latents_and_unseen_image_tokens() -> None:
    c, null = _condition(batch=4), normal((2, 6), 0, "null")
    hidden = [
        conditioning.Hidden(text=True, references=False, vae=(False, True)),
        conditioning.Hidden(text=False, references=True, vae=(False, False)),
        conditioning.Hidden(text=False, references=False, vae=(False, False)),
        conditioning.Hidden(False, False, (False, False), image=(True, False)),
    ]
    out = conditioning.hide(c, hidden, null)
    assert torch.equal(out.text[0, :2], null)
    assert out.text_mask[0].tolist() == [True, True, False, False]
    # The VAE's latents go, CLIP's tokens stay: that is the point of this dropout.
    assert not out.references[0, :, 1].any()
    assert out.image_mask[0].tolist() == [True, True]
    assert torch.equal(out.references[0, :, 0], c.references[0, :, 0])
    assert not out.references[1].any()
    assert not out.image_mask[1].any()
    assert out.image_mask[3].tolist() == [False, True]  # tokens go, latents stay
    assert torch.equal(out.references[3], c.references[3])
    assert out.reference_mask.all()  # a hidden reference keeps its slot
    for name, value in vars(out).items():
        assert torch.equal(value[2], vars(c)[name][2])


def test_guidance_identities() -> None:
    neg, i, it = (normal((2, 3), 0, n) for n in ("n", "i", "it"))
    torch.testing.assert_close(guided(neg, i, it, 1.0, 1.0), it)
    torch.testing.assert_close(guided(neg, i, it, 4.0, 4.0), neg + 4 * (it - neg))
    torch.testing.assert_close(guided(neg, i, it, 0.0, 0.0), neg)
    torch.testing.assert_close(guided(neg, i, it, 3.0, 0.0), neg + 3 * (i - neg))


def test_the_sampler_is_the_papers_loop() -> None:
    """Against a literal restatement on a network whose output shows what it was given."""
    c = _condition(batch=1)
    null = normal((3, 6), 0, "null")
    calls: list[tuple[bool, bool, bool, float]] = []

    def network(z: torch.Tensor, t: torch.Tensor, given: Condition) -> torch.Tensor:
        told = torch.equal(given.text, c.text)
        assert told or torch.equal(given.text[0], null)
        calls.append((told, bool(given.references.any()), bool(given.image_mask.any()), float(t)))
        level = 0.3 * told + 0.5 * float(given.references.abs().mean()) + float(t)
        out = torch.cat([z * level, torch.full((1, 2, 2, 2, 2), 1e9)], dim=2)  # the tail is wild
        return out

    config = SampleConfig(steps=4, shift=2.0, image_scale=3.0, text_scale=7.5)
    made = generate(network, c, null, shape=(2, 3, 2, 2), config=config, noise_key=(4, "sample"))
    z = normal((2, 3, 2, 2), 4, "sample")
    r = 0.5 * float(c.references.abs().mean())
    levels = [2 * u / (1 + u) for u in (1.0, 0.75, 0.5, 0.25, 0.0)]
    for t, after in pairwise(levels):
        neg, i, it = z * t, z * (r + t), z * (0.3 + r + t)
        z = z + (after - t) * (neg + 3.0 * (i - neg) + 7.5 * (it - i))
    torch.testing.assert_close(made, z)
    assert [call[:3] for call in calls[:3]] == [
        (False, False, False),
        (False, True, True),
        (True, True, True),
    ]
    assert sorted({round(call[3], 6) for call in calls}) == sorted(round(t, 6) for t in levels[:-1])


def test_hidden_text_names_no_subject() -> None:
    """The null text's tokens stand where a phrase stood; they must not carry its number."""
    c = _condition(batch=2)
    c = replace(c, text_subject=torch.tensor([[0, 1, 2, 0]] * 2))
    null = normal((2, 6), 0, "null")
    hidden = [
        conditioning.Hidden(text=True, references=False, vae=(False, False)),
        conditioning.Hidden(text=False, references=False, vae=(False, False)),
    ]
    assert conditioning.hide(c, hidden, null).text_subject.tolist() == [[0] * 4, [0, 1, 2, 0]]
    assert c.without_text(null).text_subject.tolist() == [[0, 0]] * 2
