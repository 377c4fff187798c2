"""A plan as a page of text."""

from __future__ import annotations

from collections.abc import Sequence

from s2v.model.planner.candidates import BucketPlan
from s2v.model.planner.plan import Plan

_SHOWN = 12


def text(plan: Plan) -> str:
    """Tables for a terminal."""
    parts = [
        f"{plan.parameters:,} parameters, {plan.trained:,} trained, {plan.frozen:,} frozen",
        f"{plan.gpus} x {plan.device}, {plan.memory:.0f} GiB each; {plan.slots} slots a step",
        f"layout: {plan.layout}; the largest train.batch that fits: {plan.batch}",
        "",
        _table(
            ("bucket", "tokens", "TFLOP fwd", "train", "again", "batch", "most", "GiB", "step s",
             "samples/s", "tokens/s", "MFU", "ceiling"),
            [_bucket(b) for b in plan.buckets],
        ),
        "",
        "memory of one device at these batches, GiB:",
        _table(
            ("bucket", *plan.buckets[-1].memory),
            [(b.bucket, *(f"{v:.2f}" for v in b.memory.values())) for b in plan.buckets],
        ),
        "",
        f"layouts tried ({len(plan.tried)}"
        + (f", {_SHOWN} shown; --json has all" if len(plan.tried) > _SHOWN else "")
        + "):",
        _table(
            ("layout", "GiB", "samples/s", "MFU", ""),
            [
                (
                    t.layout,
                    "" if t.memory is None else f"{t.memory:.1f}",
                    "" if t.samples_s is None else f"{t.samples_s:.3f}",
                    "" if t.mfu is None else f"{t.mfu:.1%}",
                    "fits" if t.fits else t.why,
                )
                for t in plan.tried[:_SHOWN]
            ],
        ),
    ]  # fmt: skip
    if plan.efficiency is not None:
        parts += [
            "",
            f"Times are predicted at {plan.efficiency:.0%} of the dense bf16 peak ({plan.source}); "
            "memory is computed. Neither was measured on a GPU yet.",
        ]
    return "\n".join(parts) + "\n"


def _bucket(b: BucketPlan) -> tuple[str, ...]:
    s = b.speed
    rates = ("", "", "", "", "")
    if s is not None:
        rates = (
            f"{s.step_s:.2f}",
            f"{s.samples_s:.3f}",
            f"{s.tokens_s:,.0f}",
            f"{s.mfu:.1%}",
            f"{s.ceiling:.1%}",
        )
    return (
        b.bucket,
        f"{b.tokens:,}",
        f"{b.forward / 1e12:.4g}",
        f"{b.train / 1e12:.4g}",
        f"{b.recomputed / 1e12:.4g}",
        str(b.batch),
        str(b.most),
        f"{b.memory['total']:.1f}",
        *rates,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    last = len(head) - 1
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
