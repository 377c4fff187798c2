"""Where references stand: positions are what they are said to be, and all that order is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v.model import rope
from s2v.model.attention import attend, layout
from s2v.model.tokens import Placement, grid_positions

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from network_kit import POSITIONS, drawn_condition, drawn_network, drawn_video, in_double


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("attention", ["full", "window"])
def test_absent_references_change_nothing_wherever_references_stand(
    kind: str, attention: str
) -> None:
    model = drawn_network(attention=attention, reference_position=kind, shift_windows=True)
    video, t = drawn_video(2, 11)
    condition = drawn_condition(2, 3, present=[2, 0])
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
    made = in_double(layout(**where))
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


@pytest.mark.parametrize("attention", ["full", "window"])
@pytest.mark.parametrize("kind", POSITIONS)
def test_a_reference_behind_an_absent_one_moves_up(kind: str, attention: str) -> None:
    """The first slot empty, the second filled: as if the second stood in the first alone."""
    model = drawn_network(
        attention=attention, window=5, reference_position=kind, reference_offset=2
    )
    video, t = drawn_video(1, 6)
    full = drawn_condition(1, 2)
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
