"""A network that starts without memory and is filled tensor by tensor, each process its share.

A 14B network is 57 GB in float32: eight processes that each build it whole want 457 GB of a
machine's memory before the first step. Here none holds more than its share and one tensor.

Fresh weights are those of a plain start to the last bit: the network is built without memory while
every call that would fill a tensor with numbers is written down, with the state of the generator
before it; the calls are repeated later, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils._python_dispatch import TorchDispatchMode

from s2v.model.errors import ModelError

_aten = torch.ops.aten
#: What initialisers end in.
_FILLS: Final = {
    _aten.uniform_.default, _aten.normal_.default, _aten.zero_.default, _aten.fill_.Scalar,
    _aten.fill_.Tensor,
}  # fmt: skip
_DRAWS: Final = {_aten.uniform_.default, _aten.normal_.default}
_MADE: Final = {
    _aten.zeros.default: 0.0, _aten.ones.default: 1.0, _aten.zeros_like.default: 0.0,
    _aten.ones_like.default: 1.0, _aten.new_zeros.default: 0.0, _aten.new_ones.default: 1.0,
}  # fmt: skip
_SILENT: Final = {_aten.empty.memory_format, _aten.empty_like.default, _aten.detach.default}


@dataclass(frozen=True)
class _Call:
    """One call that filled a tensor or a part of it."""

    operation: Any
    arguments: tuple[Any, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    state: Tensor | None  # of the generator, before it


class Recipes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """While active, new tensors have no memory and what would fill them is written down.

    The default generator moves on exactly as in a plain start, so that what is drawn after is the
    same, too. That costs the drawing, and the memory of one tensor.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._calls: dict[int, list[_Call]] = {}
        self._kept: list[Tensor] = []  # storages must not be used again while their key is known

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note what fills tensors without memory; let everything else pass."""
        kwargs = kwargs or {}
        if func in _FILLS and args[0].is_meta:
            self._note(func, args[0], tuple(args[1:]))
            return args[0]
        out = func(*args, **kwargs)
        if func in _MADE and out.is_meta:
            self._note(_aten.fill_.Scalar, out, (_MADE[func],))
        elif func is _aten.full.default and out.is_meta:
            self._note(_aten.fill_.Scalar, out, (args[1],))
        return out

    def _note(self, operation: Any, tensor: Tensor, arguments: tuple[Any, ...]) -> None:
        state = None
        if operation in _DRAWS:
            state = torch.get_rng_state()
            operation(torch.empty_strided(tensor.size(), tensor.stride()), *arguments)
        if operation is _aten.fill_.Tensor:
            operation, arguments = _aten.fill_.Scalar, (float(arguments[0]),)
        key = tensor.untyped_storage()._cdata
        offset = int(tensor.storage_offset())
        call = _Call(
            operation, arguments, tuple(tensor.size()), tensor.stride(), offset,
            state,
        )  # fmt: skip
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        self._calls[key] = [call] if whole else [*self._calls.get(key, []), call]
        self._kept.append(tensor)

    def named(self, model: nn.Module) -> dict[str, Callable[[], Tensor]]:
        """How to make each parameter and buffer of a network built inside.

        Raises:
            ModelError: one of them was filled by something that is not known here.
        """
        made: dict[str, Callable[[], Tensor]] = {}
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            calls = self._calls.get(tensor.untyped_storage()._cdata)
            if calls is None:
                raise ModelError(
                    f"{type(model).__name__}.{name}: how it is initialised is not known to the "
                    "start without memory; set parallel.meta = false"
                )
            made[name] = _maker(tuple(tensor.size()), tensor.dtype, calls)
        return made


def _maker(size: tuple[int, ...], dtype: torch.dtype, calls: list[_Call]) -> Callable[[], Tensor]:
    def make() -> Tensor:
        out = torch.empty(size, dtype=dtype)
        before = torch.get_rng_state()
        for call in calls:
            if call.state is not None:
                torch.set_rng_state(call.state)
            call.operation(out.as_strided(call.size, call.stride, call.offset), *call.arguments)
        torch.set_rng_state(before)
        return out

    return make


@torch.no_grad()
def fill(
    model: nn.Module, values: dict[str, Callable[[], Tensor]], device: torch.device
) -> list[str]:
    """Give a network without memory its values, one tensor after the other.

    Args:
        model: its parameters whole or sharded; without memory.
        values: what gives each whole tensor, by name. It may be mapped from a file: only the
            pages of a share are touched.
        device: of the network.

    Returns:
        Names in ``values`` that the network does not have.
    """
    model.to_empty(device=device)
    targets = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, target in targets.items():
        if name in values:
            set_share(target, values[name]())
    return sorted(values.keys() - targets.keys())


@torch.no_grad()
def set_share(target: Tensor, whole: Tensor) -> None:
    """Copy into ``target``, which may be sharded, its share of the whole tensor."""
    if not isinstance(target, DTensor):
        target.copy_(whole)
        return
    part = whole
    for dimension, placement in enumerate(target.placements):
        if isinstance(placement, Replicate):
            continue
        assert isinstance(placement, Shard)  # noqa: S101 - FSDP shares out, it leaves no partials
        size = target.device_mesh.size(dimension)
        chunks = part.chunk(size, placement.dim)
        mine = target.device_mesh.get_local_rank(dimension)
        part = chunks[mine] if mine < len(chunks) else part.narrow(placement.dim, 0, 0)
    target.to_local().copy_(part)
