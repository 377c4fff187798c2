"""How fast training is, in the field's units, from operations that were really needed.

MFU counts the model's own operations, three forwards' worth with every frame, reference and text
row that a sample has, over the dense bf16 peak of all devices. HFU counts besides what
is recomputed a second time. A device whose peak is not known, a CPU among them, has neither:
null, not a made-up peak.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import torch

from s2v.model.config import Config
from s2v.model.devices import GIB, named
from s2v.model.flops import Flops, Sizes
from s2v.model.planner.layout import Layout
from s2v.model.planner.speed import flops_of, recomputed

_TERA: Final = 1e12


class Figures:
    """Rates of the steps of one run.

    Args:
        config: of the run.
        device: of this process.
        world: devices in all.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        world: int = 1,
    ) -> None:
        self._device, self._world = device, world
        self._layout = Layout.own(config, world)
        known = named(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        self.peak = known.peak if known else None
        self._flops = lru_cache(maxsize=4096)(lambda sizes: flops_of(config, sizes))

    def step(
        self,
        samples: Sequence[Sizes],
        seconds: float,
        *,
        waited: float = 0.0,
        loads: Sequence[float] = (),
    ) -> dict[str, float | None]:
        """Figures of one step.

        Args:
            samples: what every sample of *all* ranks brought, with its own references.
            seconds: the step took, waiting included.
            waited: seconds of them in which this rank had no batch.
            loads: cost that each data-parallel rank was given, in any unit.

        Returns:
            ``seconds``; ``samples_per_s`` and ``tokens_per_s`` (video and references) of all
            devices; ``tflops`` of the model per second and device, ``mfu`` and ``hfu`` as shares;
            ``data_wait`` as a share of the step; ``imbalance``; ``memory_gib``, the most that
            this process had. What is not known is None.
        """
        flops: list[Flops] = [self._flops(sizes) for sizes in samples]
        model = sum(f.train for f in flops)
        done = model + sum(recomputed(f, self._layout) for f in flops)
        spent = max(seconds, 1e-9)
        devices = spent * self._world
        peak = None if self.peak is None else devices * self.peak
        return {
            "seconds": seconds,
            "samples_per_s": len(flops) / spent,
            "tokens_per_s": sum(f.tokens for f in flops) / spent,
            "tflops": model / devices / _TERA,
            "mfu": None if peak is None else model / peak,
            "hfu": None if peak is None else done / peak,
            "data_wait": min(1.0, waited / spent),
            "imbalance": imbalance(loads),
            "memory_gib": peak_memory(self._device) / GIB,
        }


def imbalance(loads: Sequence[float]) -> float:
    """The share of the slowest rank's time in which the others wait for it, on average.

    ``1 - mean / max``: 0 where all are alike, or there is one.
    """
    most = max(loads, default=0.0)
    return 1 - sum(loads) / len(loads) / most if most > 0 else 0.0


def peak_memory(device: torch.device) -> int:
    """Bytes: a GPU's largest allocation since it was last reset, a CPU process's largest size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def note(line: dict[str, Any]) -> str:
    """A metrics line in a few words, for the progress bar."""
    said = [f"loss {line['loss']:.4f}"] if line.get("loss") is not None else []
    found = line.get("figures") or {}
    if found.get("tokens_per_s"):
        said.append(f"{_short(found['tokens_per_s'])} tokens/s")
    if found.get("mfu") is not None:
        said.append(f"MFU {found['mfu']:.1%}")
    if found.get("data_wait", 0) > 0.05:
        said.append(f"waits {found['data_wait']:.0%} for data")
    return ", ".join(said)


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
