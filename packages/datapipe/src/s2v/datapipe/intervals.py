"""Exact limits of a share: Clopper and Pearson 1934, for any (also broken) number of trials.

Written out because the pipeline does not depend on SciPy; a test compares with it. Calibration and
audit stand on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

_TINY: Final = 1e-300
_NONE: Final = 1e-12  # hits or misses, when sums of weights are rounded
_STEPS: Final = 500  # of the continued fraction; it needs far fewer for shares of real samples


def clopper_pearson(hits: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided limits of a share.

    Args:
        hits: successes, 0..``trials``; may be broken, as effective sample sizes are.
        trials: how many were looked at, above 0.
        confidence: of the interval, 0..1.

    Returns:
        Lower and upper limit. With none found the lower is 0, with all found the upper is 1.

    Raises:
        ValueError: no trials, or hits outside them.
    """
    if trials <= 0 or not -1e-9 <= hits <= trials + 1e-9:
        raise ValueError(f"{hits} hits of {trials} trials")
    tail = (1 - confidence) / 2
    misses = trials - hits
    low = 0.0 if hits <= _NONE else beta_quantile(tail, hits, misses + 1)
    high = 1.0 if misses <= _NONE else beta_quantile(1 - tail, hits + 1, misses)
    return low, high


def fewest_without_error(wanted: float, confidence: float = 0.95) -> int:
    """How many right pairs, none wrong, put the lower end of the interval at ``wanted``.

    Fewer than these cannot support a bound whatever they say.

    Raises:
        ValueError: ``wanted`` does not lie between 0 and 1.
    """
    if not 0 < wanted < 1:
        raise ValueError(f"a wanted share of {wanted}: it lies between 0 and 1")
    return math.ceil(math.log((1 - confidence) / 2) / math.log(wanted) - 1e-9)


def rule_of_three(trials: float) -> float:
    """Upper 95 % limit, one-sided, of a share of which none was found in ``trials``: 3/N.

    Hanley and Lippman-Hand 1983. The exact value, ``1 - 0.05 ** (1/N)``, is a little below.
    """
    return min(1.0, 3.0 / trials)


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the Beta(a, b) distribution has ``share`` of its mass below."""
    return _bisect(lambda x: beta_cdf(x, a, b) - share)


def t_quantile(share: float, freedom: float) -> float:
    """Quantile above the middle (``share`` > 0.5) of Student's t."""
    # P(|T| > t) = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t^2).
    x = beta_quantile(2 * (1 - share), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / max(x, _TINY))


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function ``I_x(a, b)``."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Its continued fraction, by Lentz's method."""
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for n in range(1, _STEPS):
        for term in (
            n * (b - n) * x / ((a + 2 * n - 1) * (a + 2 * n)),
            -(a + n) * (a + b + n) * x / ((a + 2 * n) * (a + 2 * n + 1)),
        ):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return value


def _away(value: float) -> float:
    """Not nearer to zero than a division can take."""
    return value if abs(value) > _TINY else _TINY


def _bisect(rises: Callable[[float], float]) -> float:
    """Where a rising function of 0..1 passes zero."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
