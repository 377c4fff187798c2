"""Other models' block weights as ours: diffusers' HunyuanVideo and SD3.

Double-stream block (HunyuanVideoTransformerBlock, JointTransformerBlock):

| theirs | ours |
|---|---|
| ``norm1.linear`` (shift, scale, gate; again for the MLP) | ``vision.modulation.linear`` |
| ``attn.to_q, to_k, to_v`` | ``vision.qkv``, stacked in this order |
| ``attn.norm_q, norm_k`` (per head; SD3.0 has none) | ``vision.norm.query, key`` |
| ``attn.to_out.0`` | ``vision.out`` |
| ``ff.net.0.proj, ff.net.2`` | ``vision.mlp.0, mlp.2`` |
| ``norm1_context.linear`` | ``context.modulation.linear``; *scale, shift* in SD3's last block |
| ``attn.add_q_proj, add_k_proj, add_v_proj`` | ``context.qkv`` |
| ``attn.norm_added_q, norm_added_k`` | ``context.norm.query, key`` |
| ``attn.to_add_out`` | ``context.out``; SD3's last block has none |
| ``ff_context.net.0.proj, net.2`` | ``context.mlp.0, mlp.2``; SD3's last block has none |

Single-stream block (HunyuanVideoSingleTransformerBlock): ``norm.linear`` is
``modulation.linear``; ``attn.to_q, to_k, to_v`` and ``proj_mlp`` are stacked in ``into``;
``attn.norm_q, norm_k`` are ``norm.query, key``; ``proj_out`` is ``out`` (attention's columns
first).

Rotary pairs are ``(2i, 2i + 1)`` there as here. SD3 has no rotary positions: cosines are 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from s2v.model.errors import ModelError

State = Mapping[str, Tensor]


def double_block(theirs: State) -> dict[str, Tensor]:
    """State of a :class:`s2v.model.blocks.DoubleBlock` from either model's block.

    Raises:
        ModelError: keys that such a block has not, or lacks.
    """
    names = _Names(theirs)
    ends = "attn.to_add_out.weight" not in theirs
    ours = dict(_stream(names, "vision", _VISION))
    context = {k: v for k, v in _CONTEXT.items() if not (ends and k in ("out", "mlp.0", "mlp.2"))}
    ours |= dict(_stream(names, "context", context))
    if ends:
        for part in ("weight", "bias"):
            key = f"context.modulation.linear.{part}"
            scale, shift = ours[key].chunk(2)
            ours[key] = torch.cat([shift, scale])
    names.finish()
    return ours


def single_block(theirs: State) -> dict[str, Tensor]:
    """State of a :class:`s2v.model.blocks.SingleBlock` from HunyuanVideo's.

    Raises:
        ModelError: keys that such a block has not, or lacks.
    """
    names = _Names(theirs)
    ours = {}
    into = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    for part in ("weight", "bias"):
        ours[f"modulation.linear.{part}"] = names.take(f"norm.linear.{part}")
        ours[f"into.{part}"] = torch.cat([names.take(f"{n}.{part}") for n in into])
        ours[f"out.{part}"] = names.take(f"proj_out.{part}")
    for name in ("query", "key"):
        ours[f"norm.{name}.weight"] = names.take(f"attn.norm_{name[0]}.weight")
    names.finish()
    return ours


_VISION = {
    "modulation.linear": ("norm1.linear",),
    "qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "norm": ("attn.norm_q", "attn.norm_k"),
    "out": ("attn.to_out.0",),
    "mlp.0": ("ff.net.0.proj",),
    "mlp.2": ("ff.net.2",),
}
_CONTEXT = {
    "modulation.linear": ("norm1_context.linear",),
    "qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "norm": ("attn.norm_added_q", "attn.norm_added_k"),
    "out": ("attn.to_add_out",),
    "mlp.0": ("ff_context.net.0.proj",),
    "mlp.2": ("ff_context.net.2",),
}


def _stream(
    names: _Names, stream: str, table: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in table.items():
        if ours == "norm":
            for name, source in zip(("query", "key"), theirs, strict=True):
                if f"{source}.weight" in names.state:  # SD3.0 norms nothing
                    yield f"{stream}.norm.{name}.weight", names.take(f"{source}.weight")
            continue
        for part in ("weight", "bias"):
            stacked = [names.take(f"{source}.{part}") for source in theirs]
            yield f"{stream}.{ours}.{part}", torch.cat(stacked)


class _Names:
    """Takes tensors by name and knows which were left."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._left = set(state)

    def take(self, name: str) -> Tensor:
        if name not in self.state:
            raise ModelError(f"{name}: missing; not a block of HunyuanVideo or SD3")
        self._left.discard(name)
        return self.state[name]

    def finish(self) -> None:
        if self._left:
            raise ModelError(
                f"{', '.join(sorted(self._left))}: such a block has no place for it; a block "
                "with a second attention (SD3.5 medium) is not one of ours"
            )
