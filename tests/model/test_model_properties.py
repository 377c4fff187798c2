"""What must hold of every reading of the network: packing, shifting, positions, subjects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.attention import Layout, attend, layout, windowed_layout
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.tokens import Placement, grid_positions

C, H, W, WORDS = 4, 4, 6, 5
POSITIONS = ("slot", "tail", "offset", "negative", "spatial-offset")


def _network(widths: Widths = Widths(C, 10, 12), **options: Any) -> MMDiT:  # noqa: B008
    torch.manual_seed(3)
    sizes = {"width": 24, "heads": 2, "double_layers": 2, "single_layers": 2}
    model = MMDiT(NetworkConfig(**{**sizes, **options}), widths).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def _condition(batch: int, count: int, present: list[int] | None = None) -> Condition:
    torch.manual_seed(5)
    there = torch.ones(batch, count, dtype=torch.bool)
    for b, n in enumerate(present or [count] * batch):
        there[b, n:] = False
    words = torch.ones(batch, WORDS, dtype=torch.bool)
    words[0, 3:] = False
    return Condition(
        text=torch.randn(batch, WORDS, 10).double(),
        text_mask=words,
        references=torch.randn(batch, C, count, H, W).double(),
        reference_mask=there,
        image=torch.randn(batch, count, 3, 12).double(),
        image_mask=there.clone(),
    )


def _video(batch: int, frames: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    return torch.randn(batch, C, frames, H, W).double(), torch.rand(batch).double()


def _double(where: Layout) -> Layout:
    return replace(where, cos=where.cos.double(), sin=where.sin.double())


@pytest.mark.parametrize("options", [{"attention": "full"}, {"window": 5}, {"window": 9}])
def test_packed_is_padded_in_values_and_gradients(options: dict[str, Any]) -> None:
    video, t = _video(3, 6)
    condition = _condition(3, 3, present=[1, 3, 0])
    found = []
    for masking in ("bias", "packed"):
        model = _network(masking=masking, **options)
        given = video.clone().requires_grad_()
        out = model(given, t, condition)[:, :, :6]
        out.square().sum().backward()
        found.append([out, given.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_padded_sample_is_the_sample_alone() -> None:
    """Positions, windows and averages count what is there, not how the batch was padded."""
    video, t = _video(3, 11)
    condition = _condition(3, 3, present=[1, 3, 0])
    model = _network()
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
@pytest.mark.parametrize("attention", ["full", "window"])
def test_absent_references_change_nothing_wherever_references_stand(
    kind: str, attention: str
) -> None:
    model = _network(attention=attention, reference_position=kind, shift_windows=True)
    video, t = _video(2, 11)
    condition = _condition(2, 3, present=[2, 0])
    other = replace(
        condition, references=condition.references.clone(), image=condition.image.clone()
    )
    other.references[0, :, 2:], other.references[1] = 1e3, -7.0
    other.image[0, 2:], other.image[1] = 50.0, 50.0
    with torch.no_grad():
        a, b = (model(video, t, c)[:, :, :11] for c in (condition, other))
        assert torch.equal(a, b)
        none = replace(
            condition,
            references=condition.references[:, :, :0],
            reference_mask=condition.reference_mask[:, :0],
            image=condition.image[:, :0], image_mask=condition.image_mask[:, :0],
            reference_subject=condition.reference_subject[:, :0],
        )  # fmt: skip
        torch.testing.assert_close(model(video, t, none)[1], b[1])  # as text to video


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
    full = attend(vision, context, _double(layout(**where, window=None)))
    windowed = windowed_layout(**where, window=9, shifted=shifted)
    assert windowed.windows is not None
    assert windowed.windows.frame.shape == (2, 1, 9)
    seen, told = attend(vision, context, _double(windowed))
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
    video, t = _video(1, 10)
    other = video.clone()
    other[:, :, 4] += 1
    condition = _condition(1, 0)
    condition = replace(condition, text_mask=torch.zeros_like(condition.text_mask))
    moved = {}
    for shift in (False, True):
        model = _network(window=5, shift_windows=shift, double_layers=0, single_layers=3)
        with torch.no_grad():
            difference = (model(other, t, condition) - model(video, t, condition)).abs()
        moved[shift] = [bool(difference[:, :, f].max() > 0) for f in range(10)]
    assert moved[False] == [True] * 5 + [False] * 5
    assert moved[True] == [True] * 10


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kind", POSITIONS)
def test_references_may_be_permuted_with_their_positions(kind: str, window: int | None) -> None:
    """Order is position and nothing else: tokens and tables permuted give outputs permuted."""
    frames, count, area, words = 6, 3, 2, 4
    where: dict[str, Any] = {
        "frames": frames,
        "grid": (1, area),
        "reference_mask": torch.ones(1, count, dtype=torch.bool),
        "context_mask": torch.ones(1, words, dtype=torch.bool),
        "axes": (4, 4, 4),
        "theta": 100.0,
        "window": window,
        "place": Placement(kind, 2),
    }
    made = _double(layout(**where))
    order = torch.tensor([2, 0, 1])
    torch.manual_seed(1)
    vision = tuple(torch.randn(1, 2, (frames + count) * area, 12).double() for _ in range(3))
    context = tuple(torch.randn(1, 2, words, 12).double() for _ in range(3))

    def permuted(x: Tensor, first: int) -> Tensor:
        """The last three blocks of ``area`` rows before ``first + 3`` blocks, permuted."""
        blocks = torch.arange(x.shape[-2] // area)
        blocks[first : first + count] = first + order
        rows = (blocks[:, None] * area + torch.arange(area)).flatten()
        return x[..., rows, :]

    if made.windows is None:
        tables = {n: permuted(getattr(made, n), frames) for n in ("cos", "sin")}
    else:  # in each window the references sit behind its own frames: all of two here
        tables = {n: permuted(getattr(made, n), window - count) for n in ("cos", "sin")}
    a = attend(vision, context, made)
    b = attend(tuple(permuted(x, frames) for x in vision), context, replace(made, **tables))
    torch.testing.assert_close(permuted(a[0], frames), b[0])
    torch.testing.assert_close(a[1], b[1])


@pytest.mark.parametrize("attention", ["full", "window"])
def test_samples_do_not_know_their_place_in_the_batch(attention: str) -> None:
    model = _network(attention=attention, window=5)
    video, t = _video(3, 6)
    condition = _condition(3, 2, present=[2, 0, 1])
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        a = model(video, t, condition)[order]
        b = model(video[order], t[order], condition.rows(order))
    torch.testing.assert_close(a, b)


def test_positions_are_where_they_are_said_to_be() -> None:
    frames, grid = 3, (1, 2)
    seats = torch.tensor([0, 1, 2, 3, 4])
    ranks = torch.tensor([-1, -1, -1, 0, 1])

    def at(kind: str) -> list[list[int]]:
        found = Placement(kind, 10).positions(seats, seats, ranks, frames, grid)
        assert found[:6].tolist() == grid_positions(torch.arange(3), 1, 2).tolist()
        return found[6::2].tolist()  # the left token of each reference

    assert at("slot") == at("tail") == [[3, 0, 0], [4, 0, 0]]
    assert at("offset") == [[13, 0, 0], [14, 0, 0]]
    assert at("negative") == [[-1, 0, 0], [-2, 0, 0]]
    assert at("spatial-offset") == [[-1, 1, 2], [-1, 2, 4]]


def test_in_windows_a_slot_moves_with_its_window_and_a_tail_does_not() -> None:
    """Behind the third of three windows a slot follows its frames; a tail follows the video."""
    where: dict[str, Any] = {
        "frames": 8, "grid": (1, 1), "reference_mask": torch.tensor([[True]]),
        "context_mask": torch.ones(1, 1, dtype=torch.bool), "axes": (4, 4, 4), "theta": 100.0,
        "window": 4,
    }  # fmt: skip
    vision = tuple(torch.ones(1, 1, 9, 12).double() for _ in range(3))
    slot, tail = (
        layout(**where, place=Placement(kind))
        for kind in ("slot", "tail")
    )  # fmt: skip
    assert slot.cos.shape[0] == 1  # every window alike
    assert tail.cos.shape[0] == 3
    reference, _ = rope.tables(torch.tensor([[8, 0, 0]]), (4, 4, 4), 100.0)
    torch.testing.assert_close(tail.cos[:2, 0, 3], reference.expand(2, -1))
    assert vision[0].shape[2] == 9


def test_clean_references_do_not_know_the_noise_level() -> None:
    """With ``reference_timestep = "zero"`` a reference is modulated as at t = 0."""
    video, _ = _video(1, 3)
    condition = _condition(1, 2)
    seen: dict[str, list[Tensor]] = {}
    for kind in ("same", "zero"):
        model = _network(reference_timestep=kind, attention="full")
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
    zero = _network(reference_timestep="zero")
    same = _network(reference_timestep="same")
    t = torch.zeros(1).double()
    with torch.no_grad():  # at t = 0 the two are one
        torch.testing.assert_close(zero(video, t, condition), same(video, t, condition))


def test_clip_and_siglip_tokens_fit() -> None:
    for tokens, width in ((257, 1280), (729, 1152)):
        model = _network(Widths(C, 10, width))
        condition = replace(_condition(1, 2), image=torch.randn(1, 2, tokens, width).double())
        video, t = _video(1, 2)
        with torch.no_grad():
            out = model(video, t, condition)
            assert out.shape == (1, C, 4, H, W)
            other = replace(condition, image=condition.image * 2 + 1)
            assert not torch.allclose(out, model(video, t, other))


def test_pooled_text_is_the_mean_of_the_words_that_are_there() -> None:
    model, video = _network(pooled_text="mean"), _video(2, 2)
    condition = _condition(2, 0)
    other = replace(condition, text=condition.text.clone())
    other.text[0, 3:] = 99.0  # padding
    with torch.no_grad():
        assert torch.equal(model(*video, condition), model(*video, other))
        mean = condition.text[0, :3].mean(0)
        vec = model._vec(video[1], condition, torch.float64)[0]
        plain = _network(pooled_text="none")._vec(video[1], condition, torch.float64)[0]
    bare = _network(pooled_text="mean")
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
    video, t = _video(1, 3)
    plain = _condition(1, 2)
    bound = _ids(plain, [0, 1, 2, 0, 0], [1, 2])
    crossed = _ids(plain, [0, 2, 1, 0, 0], [1, 2])
    with torch.no_grad():
        off, on = _network(), _network(subject_ids=4)
        assert torch.equal(off(video, t, plain), off(video, t, bound))
        a, b, c = (on(video, t, x)[:, :, :3] for x in (plain, bound, crossed))
        assert not torch.allclose(a, b)
        assert not torch.allclose(b, c)  # which word goes with which reference is felt
    fresh = MMDiT(NetworkConfig(width=24, heads=2, subject_ids=4), Widths(C, 10, 12))
    assert not fresh.subject.weight[0].any()  # 0 is nobody


def test_every_option_leaves_no_parameter_without_a_gradient() -> None:
    video, t = _video(2, 11)
    condition = _ids(_condition(2, 2), [0, 1, 2, 0, 0], [1, 2])
    model = _network(
        shift_windows=True, reference_timestep="zero", subject_ids=2, pooled_text="mean",
        reference_position="spatial-offset", masking="packed",
    )  # fmt: skip
    model(video, t, condition)[:, :, :11].square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_of_attention_are_exact(window: int | None, packed: bool) -> None:
    where = _double(
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


@pytest.mark.parametrize("attention", ["full", "window"])
@pytest.mark.parametrize("kind", POSITIONS)
def test_a_reference_behind_an_absent_one_moves_up(kind: str, attention: str) -> None:
    """The first slot empty, the second filled: as if the second stood in the first alone."""
    model = _network(attention=attention, window=5, reference_position=kind, reference_offset=2)
    video, t = _video(1, 6)
    full = _condition(1, 2)
    there = torch.tensor([[False, True]])
    gap = replace(full, reference_mask=there, image_mask=there)
    alone = replace(
        full, references=full.references[:, :, 1:], reference_mask=there[:, 1:],
        image=full.image[:, 1:], image_mask=there[:, 1:],
        reference_subject=full.reference_subject[:, 1:],
    )  # fmt: skip
    with torch.no_grad():
        a, b = (model(video, t, c)[:, :, :6] for c in (gap, alone))
    torch.testing.assert_close(a, b)
