"""How evenly steps divide work, beside buckets of equal tokens."""

from __future__ import annotations

from collections import deque

from drawn_durations import drawn, wan

from s2v.model.data.buckets import Bucket
from s2v.model.data.pool import pool_of
from s2v.model.data.steps import StepPlan
from s2v.model.mmdit import Widths


def naive_steps(plan: StepPlan, count: int) -> float:
    """Imbalance of what most trainers do, on the stream of ``plan``.

    Buckets hold as many samples as the tokens of the largest allow; whenever one is full it is
    the next micro-batch, and a step is the next ``slots`` of those, whatever they cost.
    """
    sizing = plan.sizing
    room = max(sizing.tokens[b] * sizing.batch[b] for b in sizing.batch)
    full = {b: max(1, room // sizing.tokens[b]) for b in sizing.batch}
    waiting: dict[Bucket, int] = dict.fromkeys(sizing.batch, 0)
    ready: deque[float] = deque()
    mean = most = 0.0
    for _ in range(count):
        while len(ready) < plan.slots:
            bucket = plan.pool.bucket(plan.plan.next().row, 0)
            if bucket is None:
                continue
            waiting[bucket] += 1
            if waiting[bucket] == full[bucket]:
                waiting[bucket] = 0
                ready.append(full[bucket] * sizing.cost[bucket])
        costs = [ready.popleft() for _ in range(plan.slots)]
        mean += sum(costs) / len(costs)
        most += max(costs)
    return most / mean - 1


def measure(samples: int = 20_000, steps: int = 300) -> str:
    """A table in Markdown: slots, ways of grouping, imbalance of both, and what waits."""
    lines = [
        "| slots | sorted by references | micro-batch | imbalance | worst step | most waiting | "
        "equal tokens instead |",
        "|---|---|---|---|---|---|---|",
    ]
    table = drawn(samples)
    for slots, group, batch in ((8, False, 1), (8, True, 1), (64, False, 1), (64, True, 2)):
        config = wan(
            f"train.slots={slots}",
            f"train.batch={batch}",
            f"data.group_references={str(group).lower()}",
        )
        pool = pool_of(table, config.data)
        plan = StepPlan.of(config, pool, Widths(16, 4096, 1280))
        worst, most = 0.0, 0
        for _ in range(steps):
            worst = max(worst, plan.next().imbalance())
            most = max(most, plan.pending)
        other = naive_steps(StepPlan.of(config, pool, Widths(16, 4096, 1280)), steps)
        lines.append(
            f"| {slots} | {'yes' if group else 'no'} | {batch} of the dearest, "
            f"{max(plan.sizing.batch.values())} of the cheapest | {plan.imbalance:.2%} | "
            f"{worst:.2%} | {most} draws | {other:.1%} |"
        )
    return "\n".join(lines)
