"""Why a run does not fit, and the single changes that would make it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from s2v.model.config import Config
from s2v.model.planner.candidates import Planner, Tried
from s2v.model.planner.hardware import Hardware
from s2v.model.planner.layout import divides
from s2v.model.planner.memory import encoder_bytes

#: Numbers of devices that a refusal tries to name a way out.
_MORE: Final = (2, 4, 8, 16, 32, 64, 128, 256)


def refusal(planner: Planner, tried: Sequence[Tried], best: Tried | None) -> str:
    """One line for a user.

    Args:
        planner: of the run.
        tried: the layouts that do not fit.
        best: one that does, where there is one.
    """
    on = planner.on
    where = f"{on.gpus} x {on.device.title if on.device else 'CPU'} of {on.memory:.0f} GiB"
    sized = [t for t in tried if t.memory is not None]
    one = min(sized, key=lambda t: t.memory or 0.0) if sized else tried[0]
    ways = [] if best is None else [" ".join(f"--set {s}" for s in best.settings)]
    if sized and best is None:
        ways = _ways_out(planner.config, on)
    said = "; or ".join(ways) if ways else "no single change is known to; take a smaller network"
    if not sized:
        said = "; or ".join([one.why.partition("; ")[2], *ways])
        return f"plan: {where}: {one.layout}: {one.why.partition('; ')[0]}. What would fit: {said}"
    return f"plan: {where}: {one.layout}: {one.why}. What would fit: {said}"


def _ways_out(config: Config, on: Hardware) -> list[str]:
    """Single changes that make some layout fit, each at its smallest."""
    ways = []
    train, data = config.train, config.data
    batch = _largest(train.batch - 1, lambda n: _any_fits(_with(config, "train", batch=n), on))
    if batch:
        ways.append(f"--set train.batch={batch}")
    if encoder_bytes(config):
        latents = _with(_with(config, "latents", use="require"), "validation", sample_every=0)
        if _any_fits(latents, on):
            ways.append(
                "s2v-model encode before, then --set latents.use=require "
                "--set validation.sample_every=0"
            )
    for gpus in _MORE:
        slots = -(-train.slots // gpus) * gpus
        if gpus > on.gpus and _any_fits(
            _with(config, "train", slots=slots), replace(on, gpus=gpus)
        ):
            ways.append(f"--gpus {gpus} (train.slots={slots})")
            break
    if not data.sizes and not data.phases:
        fewer = (data.frames - 1) // 4 - 1
        quarter = _largest(fewer, lambda n: _any_fits(_with(config, "data", frames=4 * n + 1), on))
        if quarter:
            ways.append(f"--set data.frames={4 * quarter + 1}")
    for references in range(data.max_references - 1, -1, -1):
        if _any_fits(_with(config, "data", max_references=references), on):
            ways.append(f"--set data.max_references={references}")
            break
    return ways


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 to ``most`` that fits, 0 where none does; less always needs less."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _with(config: Config, section: str, **changes: Any) -> Config:
    changed = getattr(config, section).model_copy(update=changes)
    return config.model_copy(update={section: changed})


def _any_fits(config: Config, on: Hardware) -> bool:
    """Whether some layout takes the configured micro-batches."""
    planner = Planner(config, on)
    return any(
        divides(config, layout, on.gpus, config.train.slots) is None
        and planner.worst(layout).total <= on.room
        for layout in planner.layouts()
    )
