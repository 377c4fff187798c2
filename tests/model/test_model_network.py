"""What must hold of the network whatever its weights are."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from s2v.model import rope
from s2v.model.attention import Layout, attend, layout, windowed_layout
from s2v.model.conditioning import Condition
from s2v.model.config import NetworkConfig
from s2v.model.mmdit import MMDiT, Widths
from s2v.model.tokens import grid_positions, patchify, unpatchify

C, H, W = 4, 4, 6
WIDTHS = Widths(latent=C, text=10, image=12)


def _network(attention: str = "window", window: int = 9, *, wake: bool = True) -> MMDiT:
    """A small network in float64; ``wake`` moves every parameter off its initial zero."""
    torch.manual_seed(3)
    config = NetworkConfig(
        width=24, heads=2, double_layers=2, single_layers=2, attention=attention, window=window
    )
    model = MMDiT(config, WIDTHS).double().eval()
    if wake:
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model


def _condition(
    batch: int, count: int, *, seed: int = 5, present: list[int] | None = None
) -> Condition:
    torch.manual_seed(5)
    there = torch.ones(batch, count, dtype=torch.bool)
    for b, n in enumerate(present or [count] * batch):
        there[b, n:] = False
    return Condition(
        text=torch.randn(batch, 5, 10).double(),
        text_mask=torch.ones(batch, 5, dtype=torch.bool),
        references=torch.randn(batch, C, count, H, W).double(),
        reference_mask=there,
        image=torch.randn(batch, count, 3, 12).double(),
        image_mask=there.clone(),
    )


def _video(batch: int, frames: int, seed: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(batch, C, frames, H, W).double(), torch.rand(batch).double()


def test_tokens_go_back_to_the_latents_they_came_from() -> None:
    x = torch.arange(2 * 3 * 5 * 4 * 6.0).reshape(2, 3, 5, 4, 6)
    tokens = patchify(x, (1, 2, 2))
    assert tokens.shape == (2, 5 * 2 * 3, 4 * 3)
    # The first token is the first frame's upper left patch, rows before columns, channels last.
    assert tokens[0, 0].tolist() == [
        x[0, c, 0, i, j].item() for i in range(2) for j in range(2) for c in range(3)
    ]
    assert torch.equal(unpatchify(tokens, (5, 2, 3), (1, 2, 2)), x)


def test_rotary_products_depend_on_the_distance_only() -> None:
    axes = rope.default_axes(12)
    assert sum(axes) == 12
    torch.manual_seed(0)
    q, k = torch.randn(1, 12).double(), torch.randn(1, 12).double()

    def product(p: list[int], r: list[int]) -> float:
        out = []
        for x, at in ((q, p), (k, r)):
            cos, sin = rope.tables(torch.tensor([at]), axes, 10_000.0)
            out.append(rope.rotate(x, cos.double(), sin.double()))
        return float((out[0] * out[1]).sum())

    near = product([2, 1, 4], [5, 0, 1])
    assert product([12, 31, 14], [15, 30, 11]) == pytest.approx(near, abs=1e-5)
    for axis in range(3):  # every axis is felt
        moved = [5, 0, 1]
        moved[axis] += 1
        assert abs(product([2, 1, 4], moved) - near) > 1e-3


def test_rotary_gradients_are_exact() -> None:
    positions = grid_positions(torch.arange(2), 1, 2)
    cos, sin = (t.double() for t in rope.tables(positions, (4, 2, 2), 100.0))
    x = torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: rope.rotate(y, cos, sin), (x,))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_one_window_that_holds_all_is_full_attention(count: int) -> None:
    where = {
        "frames": 5,
        "grid": (2, 3),
        "reference_mask": torch.ones(2, count, dtype=torch.bool),
        "context_mask": torch.tensor([[True] * 4, [True, True, False, False]]),
        "axes": (4, 4, 4),
        "theta": 100.0,
    }
    torch.manual_seed(1)
    vision = tuple(torch.randn(2, 2, (5 + count) * 6, 12).double() for _ in range(3))
    context = tuple(torch.randn(2, 2, 4, 12).double() for _ in range(3))
    full = attend(vision, context, _double(layout(**where, window=None)))
    windowed = windowed_layout(**where, window=9)
    assert windowed.windows is not None
    assert windowed.windows.frame.shape == (2, 1, 9)
    for a, b in zip(full, attend(vision, context, _double(windowed)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def _double(where: Layout) -> Layout:
    return replace(where, cos=where.cos.double(), sin=where.sin.double())


def test_windows_are_the_papers_displaced_slots_and_averages() -> None:
    """Against a literal loop: 7 frames, windows of 4 slots, samples of 1 and 2 references."""
    length, count, window, h, w, head = 7, 2, 4, 1, 2, 12
    area, heads, words = h * w, 2, 3
    mask = torch.tensor([[True, False], [True, True]])
    torch.manual_seed(2)
    vision = [torch.randn(2, heads, (length + count) * area, head).double() for _ in range(3)]
    context = [torch.randn(2, heads, words, head).double() for _ in range(3)]
    where = layout(
        frames=length,
        grid=(h, w),
        reference_mask=mask,
        context_mask=torch.ones(2, words, dtype=torch.bool),
        axes=(4, 4, 4),
        theta=100.0,
        window=window,
    )
    seen, told = attend(tuple(vision), tuple(context), _double(where))
    for b, n in ((0, 1), (1, 2)):
        room = window - n
        windows = [range(s, min(s + room, length)) for s in range(0, length, room)]
        assert len(windows) == math.ceil(length / room)
        tails, texts = [], []
        for frames in windows:
            index = [*frames, *range(length, length + n)]
            pick = [f * area + i for f in index for i in range(area)]
            cos, sin = rope.tables(grid_positions(torch.arange(len(index)), h, w), (4, 4, 4), 100.0)
            q, k = (
                torch.cat([rope.rotate(x[b][:, pick], cos.double(), sin.double()), y[b]], dim=1)
                for x, y in zip(vision[:2], context[:2], strict=True)
            )
            v = torch.cat([vision[2][b][:, pick], context[2][b]], dim=1)
            out = ((q @ k.transpose(1, 2)) / math.sqrt(head)).softmax(-1) @ v
            out = out.transpose(0, 1).reshape(len(pick) + words, heads * head)
            own = len(frames) * area
            torch.testing.assert_close(seen[b, frames[0] * area :][:own], out[:own])
            tails.append(out[own : own + n * area])
            texts.append(out[-words:])
        torch.testing.assert_close(seen[b, length * area :][: n * area], sum(tails) / len(windows))
        torch.testing.assert_close(told[b], sum(texts) / len(windows))


@pytest.mark.parametrize(("attention", "frames"), [("full", 6), ("window", 6), ("window", 11)])
def test_an_absent_reference_changes_nothing_at_all(attention: str, frames: int) -> None:
    model = _network(attention)
    video, t = _video(3, frames)
    condition = _condition(3, 3, present=[1, 3, 0])
    changed = replace(
        condition, references=condition.references.clone(), image=condition.image.clone()
    )
    changed.references[0, :, 1:] = 1e3
    changed.references[2] = -7.0
    changed.image[0, 1:] = 50.0
    with torch.no_grad():
        a, b = (model(video, t, c)[:, :, :frames] for c in (condition, changed))
        assert torch.equal(a, b)
        # Nor does the padding: alone, with no slot to pad, the sample comes out the same.
        alone = _condition(3, 3, present=[1, 3, 0])
        cut = Condition(
            *(getattr(alone, n)[:1] for n in ("text", "text_mask")),
            alone.references[:1, :, :1],
            alone.reference_mask[:1, :1],
            alone.image[:1, :1],
            alone.image_mask[:1, :1],
        )
        torch.testing.assert_close(model(video[:1], t[:1], cut)[:, :, :frames], a[:1])
        # But a reference that is there is seen.
        changed.references[1, 0, 0] += 1
        assert not torch.equal(model(video, t, changed)[1, :, :frames], a[1])


@pytest.mark.parametrize("attention", ["full", "window"])
def test_without_references_it_is_text_to_video(attention: str) -> None:
    model = _network(attention)
    video, t = _video(2, 11)
    none, absent = _condition(2, 0), _condition(2, 2, present=[0, 0])
    absent = replace(absent, text=none.text)
    with torch.no_grad():
        a, b = model(video, t, none), model(video, t, absent)[:, :, :11]
    assert a.shape == (2, C, 11, H, W)
    torch.testing.assert_close(a, b)


def test_padded_text_changes_nothing() -> None:
    model = _network()
    video, t = _video(1, 3)
    short = _condition(1, 1)
    long = replace(
        short,
        text=torch.cat([short.text, torch.full((1, 4, 10), 9.0).double()], dim=1),
        text_mask=torch.tensor([[True] * 5 + [False] * 4]),
    )
    with torch.no_grad():
        torch.testing.assert_close(model(video, t, short), model(video, t, long))


def test_a_new_network_says_nothing() -> None:
    """adaLN-zero: the first loss is the plain distance of noise and data."""
    model = _network(wake=False)
    video, t = _video(2, 5)
    assert torch.count_nonzero(model(video, t, _condition(2, 2))) == 0


def test_every_parameter_is_reached_by_a_gradient() -> None:
    model = _network()
    video, t = _video(2, 5)
    model(video, t, _condition(2, 2))[:, :, :5].square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_too_many_references_for_a_window_say_so() -> None:
    model = _network(window=3)
    video, t = _video(1, 5)
    with pytest.raises(ValueError, match="3 references fill a window of 3 slots"):
        model(video, t, _condition(1, 3))
