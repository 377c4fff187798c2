"""What h200.py measures of single kernels: what the chip gives, and which attention is fast."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Final

import torch
from h200_cases import Bench, attempt
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

Row = dict[str, Any]
#: Kernels of a fused attention, as torch names them.
KERNELS: Final = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def ceilings(bench: Bench) -> Iterator[Row]:
    """Products and copies on random numbers; zeros run faster and say nothing."""
    n = 128 if bench.toy else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    took = bench.seconds(lambda: a @ b)
    yield {"case": f"product {n}^3", "seconds": took, "tflops": 2 * n**3 / took / 1e12}
    size = 1 << (20 if bench.toy else 33)
    source = torch.empty(size, dtype=torch.uint8, device=bench.device).random_(0, 255)
    target = torch.empty_like(source)
    took = bench.seconds(lambda: target.copy_(source))
    yield {"case": f"copy of {size >> 20} MiB", "seconds": took, "gb_s": 2 * size / took / 1e9}


def attention(bench: Bench) -> Iterator[Row]:
    """By shape and kernel, forward and with backward; each against fp64 on a slice."""
    shapes = [(1, 2, 96, 16)]
    if not bench.toy:
        shapes = [(1, 12, 32_760, 128), (1, 12, 39_000, 128), (1, 40, 32_760, 128)]
    kernels: dict[str, SDPBackend | None] = {"default": None}
    if not bench.toy:
        kernels |= KERNELS
    for shape, (name, kernel) in itertools.product(shapes, kernels.items()):
        bench.clear()
        yield attempt(lambda s=shape, k=kernel: _attention(bench, s, k), f"{shape} {name}", bench)  # type: ignore[misc]  # bound now


def _attention(bench: Bench, shape: tuple[int, int, int, int], kernel: SDPBackend | None) -> Row:
    q, k, v = (
        torch.randn(shape, device=bench.device, dtype=bench.dtype, requires_grad=True)
        for _ in range(3)
    )
    up = torch.randn(shape, device=bench.device, dtype=bench.dtype)

    def forward() -> Tensor:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            return functional.scaled_dot_product_attention(q, k, v)

    def both() -> None:
        for x in (q, k, v):
            x.grad = None
        forward().backward(up)

    rows = min(64, shape[2])
    with torch.no_grad():
        scores = q[0, 0, :rows].double() @ k[0, 0].double().T / math.sqrt(shape[3])
        exact = scores.softmax(dim=-1) @ v[0, 0].double()
        off = float((forward()[0, 0, :rows].double() - exact).abs().max() / exact.abs().max())
        once = bench.seconds(forward)
    whole = bench.seconds(both)
    flops = 4 * shape[1] * shape[2] ** 2 * shape[3]
    return {
        "seconds": whole, "forward_s": once, "tflops": 3.5 * flops / whole / 1e12,
        "forward_tflops": flops / once / 1e12, "error_max": off,
    }  # fmt: skip
