"""What the Wan network promises of its inputs: references, masks, text, sizes, precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from s2v.model.conditioning import Condition
from s2v.model.errors import ModelError
from s2v.model.tokens import grid_positions
from s2v.model.wan import WanModel, time_features
from s2v.model.wan_config import PRESETS, WanConfig
from s2v.model.wan_layout import _slots, rotary_tables

SMALL = WanConfig(width=48, ffn=96, heads=2, layers=2, text_width=20, text_tokens=16)
CLIP = SMALL.model_copy(update={"image_width": 12})
FRAMES, SIZE = 3, (6, 10)


def network(config: WanConfig, dtype: torch.dtype = torch.float64) -> WanModel:
    """Random weights, a head that is not zero."""
    torch.manual_seed(0)
    made = WanModel(config)
    torch.nn.init.normal_(made.head.head.weight, std=0.1)
    for block in made.blocks:
        torch.nn.init.normal_(block.modulation)
    return made.to(dtype)


def told(references: int, batch: int = 2, seed: int = 0, words: int = 9) -> Condition:
    g = torch.Generator().manual_seed(seed)
    there = torch.ones(batch, references, dtype=torch.bool)
    return Condition(
        torch.randn(batch, words, 20, generator=g),
        torch.ones(batch, words, dtype=torch.bool),
        torch.randn(batch, 16, references, *SIZE, generator=g),
        there,
        torch.randn(batch, references, 5, 12, generator=g),
        there.clone(),
    )


def video(batch: int = 2) -> Tensor:
    g = torch.Generator().manual_seed(99)
    return torch.randn(batch, 16, FRAMES, *SIZE, generator=g)


def levels(batch: int = 2) -> Tensor:
    return torch.linspace(0.2, 0.8, batch)


def seen(net: WanModel, condition: Condition, batch: int = 2) -> Tensor:
    """The video's part of the output."""
    with torch.no_grad():
        out: Tensor = net(video(batch), levels(batch), condition)[:, :, :FRAMES]
    return out


@pytest.mark.parametrize(
    ("preset", "parameters", "tensors"),
    [
        ("wan-t2v-1.3b", 1_418_996_800, 825),
        ("wan-t2v-14b", 14_288_491_584, 1095),
        ("wan-i2v-14b", 16_394_878_784, 1303),
        ("phantom-wan-1.3b", 1_418_996_800, 825),
        ("phantom-wan-14b", 14_288_491_584, 1095),
    ],
)
def test_released_sizes_are_the_published_ones(preset: str, parameters: int, tensors: int) -> None:
    with torch.device("meta"):
        net = WanModel(PRESETS[preset])
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


def test_a_network_made_on_meta_can_be_filled_and_trained() -> None:
    with torch.device("meta"):
        net = WanModel(CLIP)
    net.to_empty(device="cpu")
    torch.manual_seed(3)
    net.initialise()
    torch.manual_seed(3)
    same = WanModel(CLIP)
    torch.manual_seed(3)
    same.initialise()
    for name, tensor in same.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_fresh_weights_predict_zero() -> None:
    net = WanModel(CLIP)
    assert torch.count_nonzero(net(video(), levels(), told(2))) == 0


def test_fresh_weights_are_spread_as_the_original_spreads_them() -> None:
    torch.manual_seed(0)
    net = WanModel(WanConfig(width=256, ffn=64, heads=2, layers=2, text_width=20))
    of = dict(net.named_parameters())
    for name in ("blocks.0.modulation", "head.modulation"):
        assert of[name].std().item() == pytest.approx(256**-0.5, rel=0.15)
    for name in ("text_embedding.0.weight", "time_embedding.2.weight"):
        assert of[name].std().item() == pytest.approx(0.02, rel=0.1)
    xavier = (6 / (256 + 256)) ** 0.5
    assert of["blocks.1.self_attn.q.weight"].abs().max().item() == pytest.approx(xavier, rel=0.01)
    assert not of["blocks.1.self_attn.q.bias"].any()


@pytest.mark.parametrize("config", [SMALL, CLIP], ids=["t2v", "clip"])
def test_no_reference_is_plain_text_to_video(config: WanConfig) -> None:
    net = network(config)
    nothing = told(2)
    nothing = replace(
        nothing,
        reference_mask=torch.zeros_like(nothing.reference_mask),
        image_mask=torch.zeros_like(nothing.image_mask),
    )
    plain = told(0, seed=0)
    plain = replace(plain, text=nothing.text)
    assert torch.allclose(seen(net, nothing), seen(net, plain), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [SMALL, CLIP], ids=["t2v", "clip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_an_absent_reference_holds_changes_nothing(
    config: WanConfig, dtype: torch.dtype
) -> None:
    net = network(config, dtype)
    full = told(3)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    one = replace(full, reference_mask=mask, image_mask=mask)
    other = told(3, seed=5)
    references, image = full.references.clone(), full.image.clone()
    for b, k in (~mask).nonzero().tolist():
        references[b, :, k] = 1e3 * other.references[b, :, k]
        image[b, k] = 1e3 * other.image[b, k]
    assert torch.equal(seen(net, one), seen(net, replace(one, references=references, image=image)))


@pytest.mark.parametrize("position", ["tail", "offset", "negative"])
@pytest.mark.parametrize("timestep", ["same", "zero"])
def test_a_padded_batch_is_its_samples_one_by_one(position: str, timestep: str) -> None:
    """Gaps too: the second reference of the first sample moves up to where it would stand."""
    config = CLIP.model_copy(
        update={
            "reference_position": position,
            "reference_offset": 4 if position == "offset" else 0,
            "reference_timestep": timestep,
        }
    )
    net = network(config)
    full = told(4, batch=3)
    mask = torch.tensor([[False, True, False, True], [False] * 4, [True] * 4])
    text_mask = full.text_mask.clone()
    text_mask[1, 4:] = False
    padded = seen(
        net, replace(full, reference_mask=mask, image_mask=mask, text_mask=text_mask), batch=3
    )
    for b in range(3):
        words = int(text_mask[b].sum())
        keep = mask[b].nonzero()[:, 0]
        there = torch.ones(1, len(keep), dtype=torch.bool)
        alone = Condition(
            full.text[b : b + 1, :words],
            torch.ones(1, words, dtype=torch.bool),
            full.references[b : b + 1, :, keep],
            there,
            full.image[b : b + 1, keep],
            there.clone(),
        )
        with torch.no_grad():
            out = net(video(3)[b : b + 1], levels(3)[b : b + 1], alone)[:, :, :FRAMES]
        assert torch.allclose(out[0], padded[b], rtol=0, atol=1e-10)


def test_padding_of_text_is_zero_and_attended_to() -> None:
    """The released weights know their text so; a network that skips the padding is another."""
    net = network(SMALL)
    few = told(1, words=4)
    rows = torch.zeros(2, 16, 20)
    rows[:, :4] = few.text
    full = replace(few, text=rows, text_mask=torch.ones(2, 16, dtype=torch.bool))
    assert torch.equal(seen(net, few), seen(net, full))
    shorter = network(SMALL.model_copy(update={"text_tokens": 4}))
    assert not torch.allclose(seen(net, few), seen(shorter, few), atol=1e-3)


def test_a_reference_with_zero_latents_is_not_an_absent_one() -> None:
    net = network(SMALL)
    null = told(2).without_references()
    absent = replace(null, reference_mask=torch.zeros_like(null.reference_mask))
    assert not torch.allclose(seen(net, null), seen(net, absent), atol=1e-3)


def test_the_order_of_references_is_their_place_in_time() -> None:
    """Latents and places permuted alike change nothing; the release tells them by place alone."""
    net = network(CLIP)
    one = told(3)
    order = torch.tensor([2, 0, 1])
    moved = replace(one, references=one.references[:, :, order], image=one.image[:, order])
    assert not torch.allclose(seen(net, one), seen(net, moved), atol=1e-4)
    # Image tokens alone carry no place.
    tokens = replace(one, image=one.image[:, order])
    assert torch.allclose(seen(net, one), seen(net, tokens), rtol=0, atol=1e-12)


def test_options_of_references_are_different_networks() -> None:
    one = told(2)
    outputs = [
        seen(network(SMALL.model_copy(update=update)), one)
        for update in (
            {},
            {"reference_position": "offset", "reference_offset": 5},
            {"reference_position": "negative"},
            {"reference_timestep": "zero"},
        )
    ]
    for i, a in enumerate(outputs):
        for b in outputs[i + 1 :]:
            assert not torch.allclose(a, b, atol=1e-4)


def test_a_reference_at_timestep_zero_sees_its_own_level_only() -> None:
    """At t = 0 video and references are told the same, whichever way it is set."""
    one, still = told(2), torch.zeros(2)
    nets = [
        network(SMALL.model_copy(update={"reference_timestep": kind})) for kind in ("same", "zero")
    ]
    with torch.no_grad():
        a, b = (net(video(), still, one) for net in nets)
    assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_both_precisions_of_positions_agree_where_they_should() -> None:
    """Phantom's float32 angles leave Wan's float64 ones only in the last digits."""
    slots = torch.tensor([[0, 1, 30, 35]])
    positions = grid_positions(slots, 30, 52)
    wan = PRESETS["wan-t2v-1.3b"]
    exact = rotary_tables(positions, wan)
    phantom = rotary_tables(positions, PRESETS["phantom-wan-1.3b"])
    for a, b in zip(exact, phantom, strict=True):
        gap = float((a - b).abs().max())
        assert 0 < gap < 1e-5
    angle = 35 / 10_000 ** (torch.arange(0, 44, 2, dtype=torch.float64) / 44)  # of the last frame
    assert torch.equal(exact[0][0, -1, :22], angle.cos().float())  # float64 is Wan's
    assert torch.equal(exact[1][0, -1, :22], angle.sin().float())


def test_references_stand_in_time_where_they_are_said_to() -> None:
    there = torch.tensor([[True, False, True]])
    places = {
        ("tail", 0): [3, 3, 4],  # what an absent one has is not used
        ("offset", 5): [8, 8, 9],
        ("negative", 0): [-1, -1, -2],
    }
    for (position, offset), expected in places.items():
        update = {"reference_position": position, "reference_offset": offset}
        assert _slots(SMALL.model_copy(update=update), 3, there).tolist() == [[0, 1, 2, *expected]]


def test_the_level_is_told_in_thousandths_cosines_first() -> None:
    features = time_features(torch.tensor([0.25]), 256)
    powers = 10_000.0 ** -(torch.arange(128, dtype=torch.float64) / 128)
    expected = torch.cat([(250 * powers).cos(), (250 * powers).sin()])
    assert torch.allclose(features[0], expected, rtol=0, atol=1e-12)


def test_half_precision_keeps_sums_and_norms_in_float32() -> None:
    """A bfloat16 network stays near the float32 one: modulation in bfloat16 would not."""
    exact, half = network(CLIP, torch.float32), network(CLIP, torch.bfloat16)
    with torch.no_grad():
        for p, q in zip(exact.parameters(), half.parameters(), strict=True):
            p.copy_(q.float())  # the same weights, so that only arithmetic differs
    a, b = seen(exact, told(2)), seen(half, told(2))
    assert b.dtype == torch.bfloat16
    assert float((a - b.float()).norm() / a.norm()) < 2e-2


def test_gradients_are_those_of_finite_differences() -> None:
    config = WanConfig(
        width=12, ffn=8, heads=2, layers=1, text_width=4, text_tokens=3, image_width=4,
        in_channels=2, out_channels=2, frequencies=8, reference_timestep="zero",
    )  # fmt: skip
    net = network(config)
    g = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()

    mask = torch.tensor([[True, False]])

    def run(latents: Tensor, text: Tensor, references: Tensor, image: Tensor) -> Tensor:
        words = torch.ones(1, 2, dtype=torch.bool)
        condition = Condition(text, words, references, mask, image, mask)
        out: Tensor = net(latents, torch.tensor([0.3], dtype=torch.float64), condition)
        return out[:, :, :1]

    inputs = random(1, 2, 1, 4, 2), random(1, 2, 4), random(1, 2, 2, 4, 2), random(1, 2, 2, 4)
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latents": torch.zeros(2, 8, 3, 6, 10)}, "8 channels"),
        ({"latents": torch.zeros(2, 16, 3, 5, 10)}, "do not divide"),
        ({"latents": torch.zeros(2, 16, 3, 6, 12)}, "references are"),
        ({"text": torch.zeros(2, 9, 21)}, "text of 9 x 21"),
        ({"text": torch.zeros(2, 17, 20)}, "text of 17 x 20"),
        ({"image": torch.zeros(2, 2, 5, 13)}, "image tokens are 13 wide"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor], said: str) -> None:
    latents = change.pop("latents", video())
    one = replace(told(2), **change)
    with pytest.raises(ModelError, match=said):
        network(CLIP, torch.float32)(latents, levels(), one)


@pytest.mark.parametrize(
    "values",
    [
        {"width": 50, "heads": 3},
        {"width": 6, "heads": 2},
        {"patch": (2, 2, 2)},
        {"frequencies": 255},
        {"reference_offset": 3},
        {"image_positions": 514},
        {"widht": 48},
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WanConfig.model_validate(values)
