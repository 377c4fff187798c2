"""Intervals where two factors cross: every rater sees many videos, every video many raters.

Resampling only raters (or only videos) takes the other factor as fixed and is too narrow for a
statement about both. The pigeonhole bootstrap (Owen 2007) draws both independently and weighs
each rating with the product of how often its rater and its video were drawn; it errs on the wide
side. In the automatic metrics prompts are nested in references and seeds share nothing but a
number, so references alone are resampled there.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from s2v.evals.intervals import FloatArray
from s2v.evals.statistics import CONFIDENCE, REPLICATES, Interval

IntArray = npt.NDArray[np.int64]

_CELLS_PER_BLOCK = 4_000_000


def codes(labels: Sequence[Hashable]) -> tuple[list[str], IntArray]:
    """Sorted distinct labels, and the place of each value's label among them."""
    names = [str(one) for one in labels]
    distinct = sorted(set(names))
    at = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([at[name] for name in names], dtype=np.int64)


def weights(
    first: IntArray, second: IntArray, *, seed: int, replicates: int
) -> Iterator[FloatArray]:
    """Blocks (rows, n) of pigeonhole weights of n values, ``replicates`` rows in all.

    Args:
        first: (n,) code of each value in the first factor, from 0 without gaps.
        second: (n,) likewise in the second.
        seed: of the draws.
        replicates: B.
    """
    rng = np.random.default_rng(seed)
    sizes = int(first.max()) + 1, int(second.max()) + 1
    block = max(1, _CELLS_PER_BLOCK // max(first.size, *sizes))
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        one, two = (rng.multinomial(s, np.full(s, 1 / s), size=rows) for s in sizes)
        yield (one[:, first] * two[:, second]).astype(np.float64)


def crossed_bootstrap(
    values: Sequence[float] | FloatArray,
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    replicates: int = REPLICATES,
) -> Interval:
    """Mean with a pigeonhole percentile interval over two crossed factors.

    Args:
        values: (n,) finite.
        first: (n,) as the rater.
        second: (n,) as the item; ``clusters`` of the result counts these.
        seed: of the draws.
        confidence: nominal coverage.
        replicates: B; draws in which no value is left are skipped.

    Returns:
        The interval; its ends are None when either factor has one level only.

    Raises:
        ValueError: lengths differ, empty, or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if (
        not array.size == len(first) == len(second)
        or array.size == 0
        or not np.isfinite(array).all()
    ):
        raise ValueError(f"crossed bootstrap: {array.size} values, {len(first)} and {len(second)}")
    names, one = codes(first)
    others, two = codes(second)
    # Summed in sorted order: float addition is not associative.
    order = np.lexsort((array, two, one))
    array, one, two = array[order], one[order], two[order]
    estimate = float(array.mean())
    n, clusters = array.size, len(others)
    if min(len(names), clusters) < 2:
        return Interval(estimate, None, None, n, clusters, "none (one rater or one item)")
    means = []
    for block in weights(one, two, seed=seed, replicates=replicates):
        total = block.sum(axis=1)
        left = total > 0
        means.append((block[left] @ array) / total[left])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    low, high = min(float(low), estimate), max(float(high), estimate)
    return Interval(estimate, low, high, n, clusters, "pigeonhole bootstrap, raters x items")
