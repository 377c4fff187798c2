"""Ulysses: attention over tokens that are shared out is the attention of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from s2v.model import attention, wan
from s2v.model.parallel.ulysses import JointAttention, Local, Told, WanAttention, share

sys.path.append(str(Path(__file__).parent))  # a kit that several tests share

from ranks_kit import together


def attention_case(out: Path) -> None:
    """One attention of each network, shared out and not, with the same inputs."""
    rank, group = dist.get_rank(), dist.group.WORLD
    assert group is not None
    random = torch.Generator().manual_seed(3)
    batch, heads, width, context = 2, 4, 12, 5
    frames, references, area = 5, 2, 3
    vision = (frames + references) * area  # 21 and 5 tokens: both are padded
    found: dict[str, tuple[Tensor, Tensor]] = {}
    where = attention.layout(
        frames=frames, grid=(1, area), reference_mask=torch.tensor([[True, True], [True, False]]),
        context_mask=torch.tensor([[True] * context, [True] * 3 + [False] * 2]),
        axes=(4, 4, 4), theta=1e4, window=4,
    )  # fmt: skip
    whole = [
        torch.randn(batch, heads, n, width, generator=random, requires_grad=True)
        for n in (vision,) * 3 + (context,) * 3
    ]
    wide = heads * width
    pull = [torch.randn(batch, n, wide, generator=random) for n in (vision, context)]
    seen = attention.attend(tuple(whole[:3]), tuple(whole[3:]), where)  # type: ignore[arg-type]
    torch.autograd.backward(seen, pull)
    parts = [
        share(x.detach().transpose(1, 2), group).transpose(1, 2).requires_grad_() for x in whole
    ]
    joint = JointAttention(attention.Attend(), group)
    own = joint(tuple(parts[:3]), tuple(parts[3:]), Told(where, vision, context))
    torch.autograd.backward(own, [share(p, group) for p in pull])
    for i, name in enumerate(("vision", "context")):
        found[f"paper {name}"] = (own[i].detach(), share(seen[i].detach(), group))
    for i, x in enumerate(whole):
        assert x.grad is not None
        assert parts[i].grad is not None
        found[f"paper gradient {i}"] = (
            parts[i].grad, share(x.grad.transpose(1, 2), group).transpose(1, 2),
        )  # fmt: skip
    length = 7
    bias = torch.zeros(batch, 1, 1, length)
    bias[1, ..., 5:] = -1e30
    local = Local(torch.empty(0), torch.empty(0), bias, None, None, (4, 0), total=length)
    q, k, v = (
        torch.randn(batch, length, heads, width, generator=random, requires_grad=True)
        for _ in range(3)
    )
    pulled = torch.randn(batch, length, wide, generator=random)
    out_ = wan.Attend()(q, k, v, local)
    out_.backward(pulled)
    mine = [share(x.detach(), group).requires_grad_() for x in (q, k, v)]
    shared = WanAttention(wan.Attend(), group)(*mine, local)
    shared.backward(share(pulled, group))
    found["wan"] = (shared.detach(), share(out_.detach(), group))
    for name, x, part in zip("qkv", (q, k, v), mine, strict=True):
        assert x.grad is not None
        assert part.grad is not None
        found[f"wan gradient {name}"] = (part.grad, share(x.grad, group))
    torch.save(found, out / f"attention-{rank}.pt")


def test_shared_out_attention_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    """Ulysses computes what one process computes, forward and backward, also padded."""
    assert together(2, lambda _: attention_case(tmp_path)) == [0, 0]
    for rank in range(2):
        told = torch.load(tmp_path / f"attention-{rank}.pt", weights_only=True)
        for name, (ours, theirs) in told.items():
            assert ours.shape == theirs.shape
            assert torch.equal(ours, theirs), name
            assert float(theirs.abs().max()) > 0, name
