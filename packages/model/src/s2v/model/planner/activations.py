"""What a forward keeps for its backward, read off the network itself.

The network runs on torch's meta device: shapes and autograd are real, memory is not. Every
tensor that autograd saves is seen as it is saved and counted once per storage; parameters are
not counted. So the figure follows the network when it changes, at any size, in a second. What a
compiler or a checkpointing policy keeps instead is what products and attention return.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from s2v.model import networks, tune
from s2v.model.conditioning import Condition
from s2v.model.config import Config
from s2v.model.flops import Sizes
from s2v.model.parallel import seam
from s2v.model.planner.shapes import widths_of

_PRODUCTS: Final = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.convolution.default,
)
_OUTSIDE: Final = "outside"
#: Sections that decide a network's shape.
SHAPING: Final = {"network", "wan", "encoders", "autoencoder", "tune"}


@dataclass(frozen=True)
class Kept:
    """Bytes per sample, of one micro-batch of one.

    Attributes:
        blocks: per block, all that autograd saves (eager, nothing recomputed).
        products: per block, what its products return.
        attended: per block, what its attention returns.
        inputs: per block, its input.
        outside: of everything before and behind the blocks.
        largest: the largest result of a product.
    """

    blocks: tuple[int, ...]
    products: tuple[int, ...]
    attended: tuple[int, ...]
    inputs: tuple[int, ...]
    outside: int
    largest: int


class _Attention(torch.autograd.Function):
    """Stands for a fused kernel: keeps queries, keys, values, its result and a row of sums."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        sums = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("only shapes are looked at")


class _Meta(TorchFunctionMode):
    """Brings small tables that a layout makes on the CPU to meta; replaces attention."""

    def __init__(self, attended: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._attended = attended

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            out: Tensor = _Attention.apply(*args[:3])  # type: ignore[no-untyped-call]  # torch's
            self._attended(out)
            return out
        seen: list[bool] = []
        tree_map(lambda x: seen.append(_is_meta(x)), (args, kwargs))
        if any(seen):
            args, kwargs = tree_map(_to_meta, (args, kwargs))
        return func(*args, **kwargs)


def _is_meta(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_meta


def _to_meta(x: Any) -> Any:
    return x.to("meta") if isinstance(x, Tensor) and not x.is_meta and x.dim() else x


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Sees the result of every product."""

    def __init__(self, seen: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self._seen(out)
        return out


class _Ledger:
    """Bytes by owner, each storage once; keeps what it counted, so that none is taken for new."""

    def __init__(self, parameters: nn.Module) -> None:
        self._own = {p.untyped_storage()._cdata for p in parameters.parameters()}
        self._held: dict[int, Any] = {}
        self.bytes: dict[str, int] = defaultdict(int)

    def add(self, owner: str, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._own or key in self._held or not x.is_meta:
            return
        self._held[key] = storage
        self.bytes[owner] += storage.nbytes()


def kept(config: Config, sizes: Sizes, dtype: torch.dtype) -> Kept:
    """Run one sample of ``sizes`` through the network on the meta device.

    Args:
        config: of the run.
        sizes: of the sample.
        dtype: in which the network computes.
    """
    return _kept(config.model_dump_json(include=SHAPING), sizes, dtype)


@lru_cache(maxsize=256)
def _kept(shape: str, sizes: Sizes, dtype: torch.dtype) -> Kept:
    config = Config.model_validate_json(shape)
    layers = config.wan.layers
    if config.network.kind == "wan":  # its blocks are all alike: one is enough
        one = config.wan.model_copy(update={"layers": 1})
        config = config.model_copy(update={"wan": one})
    with torch.device("meta"):
        model = networks.build(config, widths_of(config)).to(dtype)
    tune.apply(model, config.tune)
    blocks = {str(i): block for i, block in enumerate(seam.blocks(model))}
    owner = [_OUTSIDE]
    saved, made, looked = _Ledger(model), _Ledger(model), _Ledger(model)
    inputs: dict[str, int] = {}
    largest = [0]

    def enter(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            owner[0] = name
            streams = [a for a in args if isinstance(a, Tensor) and a.dim() == 3][: _streams(model)]
            inputs[name] = sum(a.nbytes for a in streams)

        return hook

    def leave(*_: Any) -> None:
        owner[0] = _OUTSIDE

    def pack(x: Tensor) -> Tensor:
        saved.add(owner[0], x)
        return x

    def product(x: Tensor) -> None:
        made.add(owner[0], x)
        largest[0] = max(largest[0], x.nbytes)

    def attended(x: Tensor) -> None:
        looked.add(owner[0], x)
        looked.bytes[owner[0]] += 4 * x[..., 0].numel()  # its row of sums, float32

    hooks = [b.register_forward_pre_hook(enter(n)) for n, b in blocks.items()]
    hooks += [b.register_forward_hook(leave) for b in blocks.values()]
    latents, t, told = _inputs(config, sizes, dtype)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        _Meta(attended),
        _Products(product),
    ):
        model(latents, t, told)
    for hook in hooks:
        hook.remove()
    names = list(blocks) * (layers if config.network.kind == "wan" else 1)
    return Kept(
        blocks=tuple(saved.bytes[n] for n in names),
        products=tuple(made.bytes[n] for n in names),
        attended=tuple(looked.bytes[n] for n in names),
        inputs=tuple(inputs[n] for n in names),
        outside=saved.bytes[_OUTSIDE],
        largest=largest[0],
    )


def _streams(model: nn.Module) -> int:
    """Inputs of a block that the block before made: one in Wan, two in the MMDiT."""
    return 1 if hasattr(model, "blocks") else 2


def _inputs(config: Config, sizes: Sizes, dtype: torch.dtype) -> tuple[Tensor, Tensor, Condition]:
    """One sample on meta; its masks lie on the CPU, where their values are looked at."""
    widths = widths_of(config)
    there = torch.ones(1, sizes.references, dtype=torch.bool)
    words = torch.ones(1, sizes.text, dtype=torch.bool)
    made = Condition(
        torch.empty(1, sizes.text, widths.text, dtype=dtype, device="meta"),
        words,
        torch.empty(
            1, widths.latent, sizes.references, sizes.height, sizes.width, dtype=dtype,
            device="meta",
        ),
        there,
        torch.empty(
            1, sizes.references, sizes.image_tokens, widths.image, dtype=dtype, device="meta"
        ),
        there.clone(),
    )  # fmt: skip
    latents = torch.empty(
        1, widths.latent, sizes.frames, sizes.height, sizes.width, dtype=dtype, device="meta"
    )
    return latents, torch.empty(1, device="meta"), made
