"""What must hold of every reading of the network: packing, shifting, subjects, gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v.model.attention import attend, layout, windowed_layout
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.tokens import Placement

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from network_kit import (
    POSITIONS,
    C,
    H,
    W,
    drawn_condition,
    drawn_network,
    drawn_video,
    in_double,
)


@pytest.mark.parametrize("options", [{"attention": "full"}, {"window": 5}, {"window": 9}])
def test_packed_is_padded_in_values_and_gradients(options: dict[str, Any]) -> None:
    video, t = drawn_video(3, 6)
    condition = drawn_condition(3, 3, present=[1, 3, 0])
    found = []
    for masking in ("bias", "packed"):
        model = drawn_network(masking=masking, **options)
        given = video.clone().requires_grad_()
        out = model(given, t, condition)[:, :, :6]
        out.square().sum().backward()
        found.append([out, given.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_padded_sample_is_the_sample_alone() -> None:
    """Positions, windows and averages count what is there, not how the batch was padded."""
    video, t = drawn_video(3, 11)
    condition = drawn_condition(3, 3, present=[1, 3, 0])
    model = drawn_network()
    with torch.no_grad():
        together = model(video, t, condition)
        for b, n in enumerate((1, 3, 0)):
            one = condition.rows(torch.tensor([b]))
            words = int(one.text_mask.sum())
            alone = Condition(
                one.text[:, :words], one.text_mask[:, :words],
                one.references[:, :, :n], one.reference_mask[:, :n],
                one.image[:, :n], one.image_mask[:, :n],
            )  # fmt: skip
            out = model(video[b : b + 1], t[b : b + 1], alone)
            torch.testing.assert_close(out, together[b : b + 1, :, : 11 + n])


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("shifted", [False, True])
def test_one_window_that_holds_all_is_full_attention(kind: str, shifted: bool) -> None:
    where: dict[str, Any] = {
        "frames": 5,
        "grid": (2, 3),
        "reference_mask": torch.tensor([[True, True, False], [True, True, True]]),
        "context_mask": torch.tensor([[True] * 4, [True, True, False, False]]),
        "axes": (4, 4, 4),
        "theta": 100.0,
        "place": Placement(kind, 3),
    }
    torch.manual_seed(1)
    vision = tuple(torch.randn(2, 2, 8 * 6, 12).double() for _ in range(3))
    context = tuple(torch.randn(2, 2, 4, 12).double() for _ in range(3))
    full = attend(vision, context, in_double(layout(**where, window=None)))
    windowed = windowed_layout(**where, window=9, shifted=shifted)
    assert windowed.windows is not None
    assert windowed.windows.frame.shape == (2, 1, 9)
    seen, told = attend(vision, context, in_double(windowed))
    present = [b * 48 + i for b, n in ((0, 7), (1, 8)) for i in range(n * 6)]
    torch.testing.assert_close(full[0].flatten(0, 1)[present], seen.flatten(0, 1)[present])
    torch.testing.assert_close(full[1], told)


def test_shifted_windows_start_half_a_window_later() -> None:
    def seats(shifted: bool) -> list[list[int]]:
        made = windowed_layout(
            frames=10, grid=(1, 1), reference_mask=torch.tensor([[True]]),
            context_mask=torch.ones(1, 2, dtype=torch.bool), axes=(4, 4, 4), theta=100.0,
            window=5, shifted=shifted,
        )  # fmt: skip
        assert made.windows is not None
        n = made.windows.frame.shape[1]
        there = torch.ones(n, 5, dtype=torch.bool) if made.keys is None else made.keys[:, :5]
        return [row[mask].tolist() for row, mask in zip(made.windows.frame[0], there, strict=True)]

    # Four frames and the reference (10) a window.
    assert seats(False) == [[0, 1, 2, 3, 10], [4, 5, 6, 7, 10], [8, 9, 10]]
    assert seats(True) == [[0, 1, 10], [2, 3, 4, 5, 10], [6, 7, 8, 9, 10]]


def test_shifting_lets_frames_of_two_windows_meet() -> None:
    """Windows 0-4 and 5-9; with the text masked out only vision can carry a change."""
    video, t = drawn_video(1, 10)
    other = video.clone()
    other[:, :, 4] += 1
    condition = drawn_condition(1, 0)
    condition = replace(condition, text_mask=torch.zeros_like(condition.text_mask))
    moved = {}
    for shift in (False, True):
        model = drawn_network(window=5, shift_windows=shift, double_layers=0, single_layers=3)
        with torch.no_grad():
            difference = (model(other, t, condition) - model(video, t, condition)).abs()
        moved[shift] = [bool(difference[:, :, f].max() > 0) for f in range(10)]
    assert moved[False] == [True] * 5 + [False] * 5
    assert moved[True] == [True] * 10


@pytest.mark.parametrize("attention", ["full", "window"])
def test_samples_do_not_know_their_place_in_the_batch(attention: str) -> None:
    model = drawn_network(attention=attention, window=5)
    video, t = drawn_video(3, 6)
    condition = drawn_condition(3, 2, present=[2, 0, 1])
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        a = model(video, t, condition)[order]
        b = model(video[order], t[order], condition.rows(order))
    torch.testing.assert_close(a, b)


def test_clean_references_do_not_know_the_noise_level() -> None:
    """With ``reference_timestep = "zero"`` a reference is modulated as at t = 0."""
    video, _ = drawn_video(1, 3)
    condition = drawn_condition(1, 2)
    seen: dict[str, list[Tensor]] = {}
    for kind in ("same", "zero"):
        model = drawn_network(reference_timestep=kind, attention="full")
        # Block 1's modulation of every vision token, through what it adds to a plain stream.
        block = model.double_blocks[0]
        seen[kind] = []
        for level in (0.2, 0.9):
            t = torch.tensor([level]).double()
            captured: list[Tensor] = []
            handle = block.vision.qkv.register_forward_pre_hook(
                lambda _m, args, kept=captured: kept.append(args[0])
            )
            with torch.no_grad():
                model(video, t, condition)
            handle.remove()
            seen[kind].append(captured[0])
    tail = slice(3 * 6, None)
    a, b = seen["zero"]
    assert torch.equal(a[:, tail], b[:, tail])
    assert not torch.allclose(a[:, :18], b[:, :18])
    a, b = seen["same"]
    assert not torch.allclose(a[:, tail], b[:, tail])
    zero = drawn_network(reference_timestep="zero")
    same = drawn_network(reference_timestep="same")
    t = torch.zeros(1).double()
    with torch.no_grad():  # at t = 0 the two are one
        torch.testing.assert_close(zero(video, t, condition), same(video, t, condition))


def test_clip_and_siglip_tokens_fit() -> None:
    for tokens, width in ((257, 1280), (729, 1152)):
        model = drawn_network(Widths(C, 10, width))
        condition = replace(drawn_condition(1, 2), image=torch.randn(1, 2, tokens, width).double())
        video, t = drawn_video(1, 2)
        with torch.no_grad():
            out = model(video, t, condition)
            assert out.shape == (1, C, 4, H, W)
            other = replace(condition, image=condition.image * 2 + 1)
            assert not torch.allclose(out, model(video, t, other))


def test_pooled_text_is_the_mean_of_the_words_that_are_there() -> None:
    model, video = drawn_network(pooled_text="mean"), drawn_video(2, 2)
    condition = drawn_condition(2, 0)
    other = replace(condition, text=condition.text.clone())
    other.text[0, 3:] = 99.0  # padding
    with torch.no_grad():
        assert torch.equal(model(*video, condition), model(*video, other))
        mean = condition.text[0, :3].mean(0)
        vec = model._vec(video[1], condition, torch.float64)[0]
        plain = drawn_network(pooled_text="none")._vec(video[1], condition, torch.float64)[0]
    bare = drawn_network(pooled_text="mean")
    torch.testing.assert_close(
        vec - bare.time_in(_features(video[1]))[0], bare.pooled_in(mean), rtol=1e-6, atol=1e-6
    )
    assert plain.shape == vec.shape


def _features(t: Tensor) -> Tensor:
    from s2v.model.mmdit import time_features

    return time_features(t).double()


def _ids(condition: Condition, words: list[int], references: list[int]) -> Condition:
    n = len(condition.text)
    return replace(
        condition,
        text_subject=torch.tensor([words] * n),
        reference_subject=torch.tensor([references] * n),
    )


def test_ids_bind_and_without_the_option_say_nothing() -> None:
    video, t = drawn_video(1, 3)
    plain = drawn_condition(1, 2)
    bound = _ids(plain, [0, 1, 2, 0, 0], [1, 2])
    crossed = _ids(plain, [0, 2, 1, 0, 0], [1, 2])
    with torch.no_grad():
        off, on = drawn_network(), drawn_network(subject_ids=4)
        assert torch.equal(off(video, t, plain), off(video, t, bound))
        a, b, c = (on(video, t, x)[:, :, :3] for x in (plain, bound, crossed))
        assert not torch.allclose(a, b)
        assert not torch.allclose(b, c)  # which word goes with which reference is felt
    fresh = MMDiT(NetworkConfig(width=24, heads=2, subject_ids=4), Widths(C, 10, 12))
    assert not fresh.subject.weight[0].any()  # 0 is nobody


def test_every_option_leaves_no_parameter_without_a_gradient() -> None:
    video, t = drawn_video(2, 11)
    condition = _ids(drawn_condition(2, 2), [0, 1, 2, 0, 0], [1, 2])
    model = drawn_network(
        shift_windows=True, reference_timestep="zero", subject_ids=2, pooled_text="mean",
        reference_position="spatial-offset", masking="packed",
    )  # fmt: skip
    model(video, t, condition)[:, :, :11].square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_of_attention_are_exact(window: int | None, packed: bool) -> None:
    where = in_double(
        layout(
            frames=3,
            grid=(1, 1),
            reference_mask=torch.tensor([[True, False]]),
            context_mask=torch.tensor([[True, False]]),
            axes=(2, 2, 2),
            theta=10.0,
            window=window,
            packed=packed,
        )
    )
    torch.manual_seed(0)
    tensors = [torch.randn(1, 1, n, 6, dtype=torch.float64) for n in (5, 5, 5, 2, 2, 2)]
    inputs = tuple(x.requires_grad_() for x in tensors)
    run: Callable[..., tuple[Tensor, Tensor]] = lambda *x: attend(x[:3], x[3:], where)  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs)
