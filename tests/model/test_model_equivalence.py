"""Our blocks are the field's blocks: values and gradients against diffusers' own.

Random weights, none of them zero, go through the documented map of ``block_maps.py``; the same
map applied to the gradients compares those. Tolerance: relative L2 of 1e-5 in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.transformers.transformer_hunyuan_video import (
    HunyuanVideoSingleTransformerBlock,
    HunyuanVideoTransformerBlock,
)
from torch import Tensor, nn

from s2v.model.attention import Layout, layout
from s2v.model.block_maps import double_block, single_block
from s2v.model.blocks import DoubleBlock, SingleBlock
from s2v.model.config import NetworkConfig
from s2v.model.errors import ModelError

HEADS, HEAD = 3, 12
WIDTH = HEADS * HEAD
GRID, FRAMES, WORDS, BATCH = (3, 5), 3, 7, 2


def _config(qk_norm: str = "rms") -> NetworkConfig:
    return NetworkConfig(width=WIDTH, heads=HEADS, qk_norm=qk_norm)


def _where(count: int, *, masked: bool, absent: bool = False) -> Layout:
    words = torch.ones(BATCH, WORDS, dtype=torch.bool)
    there = torch.ones(BATCH, count, dtype=torch.bool)
    if masked:
        words[0, 4:] = False
    if absent:
        there[1, -1] = False  # the last, so that the others' positions stay the same
    return layout(
        frames=FRAMES,
        grid=GRID,
        reference_mask=there,
        context_mask=words,
        axes=(4, 4, 4),
        theta=256.0,
        window=None,
    )


def _inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(count)
    length = (FRAMES + count) * GRID[0] * GRID[1]
    shapes = ((BATCH, length, WIDTH), (BATCH, WORDS, WIDTH), (BATCH, WIDTH))
    vision, context, vec = (torch.randn(s).requires_grad_() for s in shapes)
    return vision, context, vec


def _woken(block: nn.Module) -> nn.Module:
    torch.manual_seed(11)
    for parameter in block.parameters():
        nn.init.normal_(parameter, mean=0.05, std=0.15)
    return block


def _apart(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


def _compare(
    theirs: nn.Module,
    ours: nn.Module,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    run_theirs: Callable[..., tuple[Tensor, Tensor]],
    run_ours: Callable[..., tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, Tensor, Tensor],
    there: Tensor | None = None,
) -> None:
    """Outputs, gradients of the inputs and of every parameter.

    ``there [B, Sv]``: vision tokens that count. What absent references come back as is nobody's
    concern, and theirs have one table of positions for the whole batch.
    """
    ours.load_state_dict(convert(dict(theirs.state_dict())))
    found = []
    for block, run in ((theirs, run_theirs), (ours, run_ours)):
        given = [x.detach().clone().requires_grad_() for x in inputs]
        vision, context = run(*given)
        out = (vision if there is None else vision * there[..., None], context)
        torch.manual_seed(5)
        sum((x * torch.randn_like(x)).sum() for x in out).backward()
        grads = {n: p.grad for n, p in block.named_parameters() if p.grad is not None}
        found.append((out, [x.grad for x in given], grads))
    (values_a, inputs_a, grads_a), (values_b, inputs_b, grads_b) = found
    for a, b in zip([*values_a, *inputs_a], [*values_b, *inputs_b], strict=True):
        assert _apart(b, a) < 1e-5
    mapped = convert(grads_a)
    assert mapped.keys() == grads_b.keys() == dict(ours.named_parameters()).keys()
    for name, grad in mapped.items():
        assert grad.norm() > 0, name
        assert _apart(grads_b[name], grad) < 1e-5, name


def _rotary(where: Layout) -> tuple[Tensor, Tensor]:
    """Our tables as diffusers wants them: ``[S, D]``, every angle twice."""
    cos, sin = (x[0, 0].repeat_interleave(2, dim=-1) for x in (where.cos, where.sin))
    return cos, sin


@pytest.mark.parametrize(
    ("count", "masked", "absent"),
    [(0, False, False), (1, True, False), (2, True, True), (3, False, True), (4, True, True)],
)
def test_a_double_block_is_hunyuans(count: int, masked: bool, absent: bool) -> None:
    where = _where(count, masked=masked, absent=absent)
    theirs = _woken(HunyuanVideoTransformerBlock(HEADS, HEAD, mlp_ratio=4.0))
    ours = DoubleBlock(_config())
    mask = None if where.keys is None else where.keys[:, None, None, :]
    _compare(
        theirs,
        ours,
        double_block,
        lambda v, c, t: theirs(v, c, t, mask, _rotary(where)),
        lambda v, c, t: ours(v, c, t, where),
        _inputs(count),
        None if where.keys is None else where.keys[:, :-WORDS],
    )


@pytest.mark.parametrize(
    ("count", "masked", "absent"), [(0, True, False), (2, False, True), (4, True, True)]
)
def test_a_single_block_is_hunyuans(count: int, masked: bool, absent: bool) -> None:
    where = _where(count, masked=masked, absent=absent)
    theirs = _woken(HunyuanVideoSingleTransformerBlock(HEADS, HEAD, mlp_ratio=4.0))
    ours = SingleBlock(_config())
    mask = None if where.keys is None else where.keys[:, None, None, :]
    _compare(
        theirs,
        ours,
        single_block,
        lambda v, c, t: theirs(v, c, t, mask, _rotary(where)),
        lambda v, c, t: ours(v, c, t, where),
        _inputs(count),
        None if where.keys is None else where.keys[:, :-WORDS],
    )


@pytest.mark.parametrize(("qk_norm", "theirs_norm"), [("none", None), ("rms", "rms_norm")])
def test_a_double_block_is_sd3s(qk_norm: str, theirs_norm: str | None) -> None:
    where = _where(2, masked=False)
    where = replace(where, cos=torch.ones_like(where.cos), sin=torch.zeros_like(where.sin))
    theirs = _woken(JointTransformerBlock(WIDTH, HEADS, HEAD, qk_norm=theirs_norm))
    ours = DoubleBlock(_config(qk_norm))

    def run_theirs(v: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        context, vision = theirs(v, c, t)
        return vision, context

    _compare(
        theirs, ours, double_block, run_theirs, lambda v, c, t: ours(v, c, t, where), _inputs(2)
    )


def test_the_last_block_of_sd3_is_ours_too() -> None:
    """Its context has no way out, and its modulation stands in the other order."""
    where = _where(1, masked=False)
    where = replace(where, cos=torch.ones_like(where.cos), sin=torch.zeros_like(where.sin))
    theirs = _woken(JointTransformerBlock(WIDTH, HEADS, HEAD, context_pre_only=True))
    ours = DoubleBlock(_config("none"), ends=True)

    def run_theirs(v: Tensor, c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        ended, vision = theirs(v, c, t)
        assert ended is None
        return vision, c

    _compare(
        theirs, ours, double_block, run_theirs, lambda v, c, t: ours(v, c, t, where), _inputs(1)
    )


def test_a_text_mask_hides_padding_from_both_alike() -> None:
    """What stands in masked words changes neither model's vision tokens."""
    where = _where(2, masked=True)
    assert where.keys is not None
    theirs = _woken(HunyuanVideoTransformerBlock(HEADS, HEAD, mlp_ratio=4.0))
    ours = DoubleBlock(_config())
    ours.load_state_dict(double_block(theirs.state_dict()))
    vision, context, vec = (x.detach() for x in _inputs(2))
    other = context.clone()
    other[0, 4:] = 100.0
    mask = where.keys[:, None, None, :]
    with torch.no_grad():
        for run in (
            lambda c: theirs(vision, c, vec, mask, _rotary(where))[0],
            lambda c: ours(vision, c, vec, where)[0],
        ):
            assert torch.equal(run(context), run(other))


def test_a_block_that_is_neither_says_what_does_not_fit() -> None:
    state = HunyuanVideoTransformerBlock(HEADS, HEAD, mlp_ratio=4.0).state_dict()
    with pytest.raises(ModelError, match=r"norm1.linear.weight: missing"):
        double_block({k: v for k, v in state.items() if k != "norm1.linear.weight"})
    with pytest.raises(ModelError, match=r"attn2.to_q.weight: such a block has no place"):
        double_block({**state, "attn2.to_q.weight": torch.zeros(1)})
