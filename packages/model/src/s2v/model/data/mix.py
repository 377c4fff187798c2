"""Which source comes next: stride scheduling with the quota method.

After every prefix of N samples each source i has been drawn ``floor(w_i N)`` or
``ceil(w_i N)`` times, so the realised mixture is off by less than one sample at any time.
Plain stride scheduling (smallest ``(n_i + 1) / w_i``) exceeds that with three or more uneven
sources; the quota method of Balinski and Young asks in addition that ``n_i < w_i N``.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def shares(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Exact shares that sum to 1, sorted by name. Weights are read as the decimals they print."""
    exact = {name: Fraction(str(weights[name])) for name in sorted(weights)}
    total = sum(exact.values())
    return {name: weight / total for name, weight in exact.items()}


def next_source(share: Mapping[str, Fraction], drawn: Mapping[str, int]) -> str:
    """The source of the next sample.

    Args:
        share: of :func:`shares`.
        drawn: samples drawn so far per source.
    """
    total = sum(drawn.values()) + 1
    open_to = [name for name in share if drawn[name] < share[name] * total]
    return min(open_to, key=lambda name: ((drawn[name] + 1) / share[name], name))
