"""How evenly steps divide work, beside buckets of equal tokens."""

from __future__ import annotations

from collections import deque

from s2v.model.data.buckets import Bucket
from s2v.model.data.steps import StepPlan


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
