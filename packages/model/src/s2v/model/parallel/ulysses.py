"""Every sample's tokens shared out among processes (DeepSpeed-Ulysses, 2309.14509).

Between attentions each process has a stretch of the tokens with all heads; in attention it has
all tokens with a share of the heads, so that attention itself is computed as it stands. Two
exchanges carry one into the other. Padding makes the stretches equal; it is cut off before
attention looks, so no mask hides it and the numbers are those of one process.

What lies before the first and behind the last block is computed by all alike. Each process's loss
is therefore divided by their number, and gradients are summed, as over any other processes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd

from s2v.model import attention, blocks, wan, wan_layout
from s2v.model.attention import QKV
from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.networks import Network
from s2v.model.parallel import seam
from s2v.model.parallel.seam import Forward


def to_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``[N, s, H, D]`` of own tokens -> ``[N, P s, H/P, D]`` of all tokens, own heads."""
    P = group.size()
    N, s, H, D = x.shape
    out = x.reshape(N, s, P, H // P, D).permute(2, 0, 1, 3, 4).contiguous()
    out = all_to_all_single_autograd(out, None, None, group)
    return out.permute(1, 0, 2, 3, 4).reshape(N, P * s, H // P, D)


def to_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back: ``[N, P s, H/P, D]`` -> ``[N, s, H, D]``."""
    P = group.size()
    N, S, h, D = x.shape
    out = x.reshape(N, P, S // P, h, D).permute(1, 0, 2, 3, 4).contiguous()
    out = all_to_all_single_autograd(out, None, None, group)
    return out.permute(1, 2, 0, 3, 4).reshape(N, S // P, P * h, D)


def share(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This process's stretch of ``[B, S, ...]``, zeros behind the end: ``[B, ceil(S/P), ...]``."""
    size = stretch(x.shape[1], group.size())
    missing = size * group.size() - x.shape[1]
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return x.narrow(1, size * group.rank(), size)


def stretch(length: int, processes: int) -> int:
    """Tokens of one process."""
    return -(-length // processes)


class Gather(torch.autograd.Function):
    """All stretches ``[B, s, d]`` as ``[B, S, d]``.

    Backward: every process has the same gradient of the whole, of a loss divided by their number;
    a stretch's is the sum of all of theirs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: int, group: dist.ProcessGroup) -> Tensor:
        """Concatenate and cut to ``length``."""
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(group.size())]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=1)[:, :length]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """This process's stretch of the summed gradient."""
        return share(grads[0], ctx.group) * ctx.group.size(), None, None


def gather(x: Tensor, length: int, group: dist.ProcessGroup) -> Tensor:
    """All stretches ``[B, s, d]`` as ``[B, length, d]``, the same on every process."""
    out: Tensor = Gather.apply(x, length, group)  # type: ignore[no-untyped-call]  # torch's own
    return out


@dataclass(frozen=True)
class Told:
    """A layout of the paper's attention with the numbers of tokens before they were shared."""

    where: attention.Layout
    vision: int
    context: int


@dataclass(frozen=True)
class Local(wan_layout.Layout):
    """The part of a Wan layout that belongs to own tokens; keys and their biases stay whole."""

    total: int = 0


class JointAttention(nn.Module):
    """The paper's joint attention over tokens that are shared out."""

    def __init__(self, inner: nn.Module, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.inner, self.group = inner, group

    def forward(self, vision: QKV, context: QKV, told: Told) -> tuple[Tensor, Tensor]:
        """``[B, H, s, D]`` each -> ``[B, s, H*D]`` of vision and of context."""
        lengths = (told.vision, told.context)
        whole = [
            self._whole(qkv, length) for qkv, length in zip((vision, context), lengths, strict=True)
        ]
        seen, heard = self.inner(whole[0], whole[1], told.where)
        D = vision[0].shape[3]
        return self._own(seen, vision[0].shape[2], D), self._own(heard, context[0].shape[2], D)

    def _whole(self, qkv: QKV, length: int) -> QKV:
        B, H, s, D = qkv[0].shape
        joined = torch.stack([x.transpose(1, 2) for x in qkv]).reshape(3 * B, s, H, D)
        out = to_heads(joined, self.group)[:, :length].transpose(1, 2)
        q, k, v = out.reshape(3, B, *out.shape[1:])
        return q, k, v

    def _own(self, x: Tensor, size: int, head: int) -> Tensor:
        B, length, width = x.shape
        x = x.reshape(B, length, width // head, head)
        x = F.pad(x, (0, 0, 0, 0, 0, size * self.group.size() - length))
        return to_tokens(x, self.group).flatten(2)


class WanAttention(nn.Module):
    """Wan's self-attention over tokens that are shared out."""

    def __init__(self, inner: nn.Module, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.inner, self.group = inner, group

    def forward(self, q: Tensor, k: Tensor, v: Tensor, where: Local) -> Tensor:
        """``[B, s, H, D]`` each -> ``[B, s, H*D]``."""
        B, s, H, D = q.shape
        joined = to_heads(torch.stack([q, k, v]).reshape(3 * B, s, H, D), self.group)
        q, k, v = joined[:, : where.total].reshape(3, B, where.total, -1, D)
        out = self.inner(q, k, v, where).reshape(B, where.total, -1, D)
        out = F.pad(out, (0, 0, 0, 0, 0, s * self.group.size() - where.total))
        return to_tokens(out, self.group).flatten(2)


def share_tokens(model: Network, config: Config, group: dist.ProcessGroup) -> None:
    """Share out the tokens of every block, in place.

    Call it last of all that wraps blocks: what is compiled or recomputed is what a process does
    with its own tokens.

    Raises:
        ModelError: the processes do not divide the heads.
    """
    check_heads(config, group.size())
    stack = seam.blocks(model)
    shares = _Wan(group) if config.network.kind == "wan" else _Paper(group)
    for i, block in enumerate(stack):
        shares.exchange(block)
        seam.wrap(block, shares.around(first=i == 0, last=i == len(stack) - 1))


def check_heads(config: Config, processes: int) -> None:
    """Refuse a number of processes that does not divide the heads.

    Raises:
        ModelError: names the numbers that do.
    """
    section = "wan" if config.network.kind == "wan" else "network"
    heads = getattr(config, section).heads
    if heads % processes:
        fit = [n for n in range(1, heads + 1) if heads % n == 0]
        raise ModelError(
            f"parallel.cp {processes} does not divide {section}.heads {heads}; take one of "
            f"{', '.join(map(str, fit))}"
        )


class _Paper:
    """The MMDiT: both streams are shared out; the layout stays whole."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.lengths = group, (0, 0)

    def exchange(self, block: nn.Module) -> None:
        assert isinstance(block, blocks.DoubleBlock | blocks.SingleBlock)  # noqa: S101
        block.attend = JointAttention(block.attend, self.group)

    def around(self, *, first: bool, last: bool) -> Any:
        def wrapper(forward: Forward) -> Forward:
            def shared(
                vision: Tensor,
                context: Tensor,
                vec: Tensor,
                where: attention.Layout,
                clean: blocks.Clean | None = None,
            ) -> tuple[Tensor, Tensor]:
                if first:
                    self.lengths = vision.shape[1], context.shape[1]
                    vision, context = share(vision, self.group), share(context, self.group)
                if clean is not None:
                    clean = self._clean(clean, vision.shape[1])
                vision, context = forward(vision, context, vec, Told(where, *self.lengths), clean)
                if last:  # nobody reads the context behind it
                    vision = gather(vision, self.lengths[0], self.group)
                return vision, context

            return shared

        return wrapper

    def _clean(self, clean: blocks.Clean, size: int) -> blocks.Clean:
        begin = size * self.group.rank()
        start, stop = (min(max(n - begin, 0), size) for n in (clean.start, clean.stop))
        return replace(clean, start=start, stop=stop)


class _Wan:
    """Wan: video and references are shared out; every process has the whole text."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.last: tuple[wan_layout.Layout, Local] | None = None

    def exchange(self, block: nn.Module) -> None:
        assert isinstance(block, wan.Block)  # noqa: S101 - the network is Wan's
        block.self_attn.attend = WanAttention(block.self_attn.attend, self.group)

    def around(self, *, first: bool, last: bool) -> Any:
        def wrapper(forward: Forward) -> Forward:
            def shared(
                x: Tensor, text: Tensor, image: Tensor | None, e: Tensor, where: wan_layout.Layout
            ) -> Tensor:
                if first:
                    x = share(x, self.group)
                local = self._local(where)
                x = forward(x, text, image, e, local)
                return gather(x, local.total, self.group) if last else x

            return shared

        return wrapper

    def _local(self, where: wan_layout.Layout) -> Local:
        """Own rows of the rotary tables, own numbers of video and reference tokens."""
        if self.last is not None and self.last[0] is where:
            return self.last[1]
        total = sum(where.sizes)
        size = stretch(total, self.group.size())
        video = min(max(where.sizes[0] - size * self.group.rank(), 0), size)
        values = {f.name: getattr(where, f.name) for f in fields(wan_layout.Layout)}
        values |= {
            "cos": share(where.cos, self.group),
            "sin": share(where.sin, self.group),
            "sizes": (video, size - video),
        }
        local = Local(**values, total=total)
        self.last = where, local
        return local
