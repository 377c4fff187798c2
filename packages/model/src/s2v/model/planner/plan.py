"""A plan of a run: its layout explained and all others listed, or a refusal that says what fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from s2v.model.config import Config
from s2v.model.errors import ModelError
from s2v.model.planner.candidates import BucketPlan, Planner, Tried, rank
from s2v.model.planner.hardware import Hardware
from s2v.model.planner.layout import Layout
from s2v.model.planner.refusal import refusal


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        gpus, device, memory: what it is planned for.
        efficiency, source: what the prediction stands on; None without a device.
        parameters, trained, frozen: of the network.
        layout: the chosen one.
        settings: overrides that ask for it.
        slots: micro-batches of a step.
        batch: the largest ``train.batch`` that fits.
        buckets: on the chosen layout, the dearest last.
        tried: all layouts, those that fit first, fastest first.
    """

    gpus: int
    device: str
    memory: float
    efficiency: float | None
    source: str | None
    parameters: int
    trained: int
    frozen: int
    layout: str
    settings: tuple[str, ...]
    slots: int
    batch: int
    buckets: tuple[BucketPlan, ...]
    tried: tuple[Tried, ...]

    def to_json(self) -> dict[str, Any]:
        """As nested plain values."""
        return asdict(self)


def plan(config: Config, on: Hardware, *, search: bool = False) -> Plan:
    """Explain the run's own layout on these devices, and list all others.

    Args:
        config: of the run.
        on: the devices.
        search: take the fastest layout that fits instead of the run's own.

    Raises:
        ModelError: it does not fit, or something does not divide; the message says what would.
    """
    planner = Planner(config, on)
    own = Layout.own(config, on.gpus)
    found = [(layout, planner.tried(layout)) for layout in planner.layouts()]
    fitting = sorted((p for p in found if p[1].fits), key=rank)
    if search:
        if not fitting:
            raise ModelError(refusal(planner, [tried for _, tried in found], None))
        own = fitting[0][0]
    verdict = planner.tried(own)
    if not verdict.fits:
        best = fitting[0][1] if fitting else None
        raise ModelError(refusal(planner, [verdict], best))
    explained = planner.explained(own)
    return Plan(
        gpus=on.gpus,
        device=on.device.title if on.device else "CPU",
        memory=on.memory,
        efficiency=on.efficiency if on.device else None,
        source=on.source if on.device else None,
        parameters=planner.count.parameters,
        trained=planner.count.trained,
        frozen=planner.count.frozen,
        layout=str(own),
        settings=tuple(own.settings()),
        slots=config.train.slots,
        batch=explained[-1].most,
        buckets=explained,
        tried=(
            *(tried for _, tried in fitting),
            *(tried for _, tried in found if not tried.fits),
        ),
    )
