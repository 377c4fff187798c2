"""An estimate one can stand on: exact limits, honest about pairs that hang together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from s2v.datapipe.audit.draw import allocate
from s2v.datapipe.audit.estimate import Observation, Share, Stratum, share
from s2v.datapipe.intervals import (
    beta_quantile,
    clopper_pearson,
    rule_of_three,
    t_quantile,
)

ONE: Stratum = ("creature", "single")
TWO: Stratum = ("person", "single")


def seen(stratum: Stratum, units: list[set[str]], hits: set[int]) -> list[Observation]:
    return [Observation(stratum, frozenset(u), n in hits) for n, u in enumerate(units)]


def alone(count: int, hits: int, stratum: Stratum = ONE) -> list[Observation]:
    """Pairs that share nothing."""
    units = [{f"{stratum[0]} {n}"} for n in range(count)]
    return seen(stratum, units, set(range(hits)))


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 1), (0, 300), (1, 10), (7, 9), (200, 200), (3.4, 27.5), (150, 5000)]
)
def test_limits_are_those_of_the_beta_distribution(hits: float, trials: float) -> None:
    low, high = clopper_pearson(hits, trials)
    if hits > 0:
        assert low == pytest.approx(stats.beta.ppf(0.025, hits, trials - hits + 1), abs=1e-9)
    else:
        assert low == 0
    if hits < trials:
        assert high == pytest.approx(stats.beta.ppf(0.975, hits + 1, trials - hits), abs=1e-9)
    else:
        assert high == 1


def test_quantiles_agree_with_scipy_where_they_are_used() -> None:
    for freedom in (1, 2, 5, 30, 400):
        assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)
    assert beta_quantile(0.5, 3, 3) == pytest.approx(0.5)
    for bad in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="trials"):
            clopper_pearson(*bad)


def test_independent_pairs_of_one_class_get_the_plain_interval_when_none_is_found() -> None:
    found = share(alone(60, 0), {ONE: 900})
    assert (found.estimate, found.hits, found.worth) == (0, 0, 60)
    assert (found.low, found.high) == tuple(round(x, 6) for x in clopper_pearson(0, 60))
    assert found.three_over_n == pytest.approx(3 / 60)
    assert rule_of_three(2) == 1


def test_a_rare_class_does_not_drown_in_a_sample_that_has_half_of_each() -> None:
    both = [*alone(50, 0), *alone(50, 25, TWO)]
    found = share(both, {ONE: 9900, TWO: 100})
    assert found.estimate == pytest.approx(0.5 * 100 / 10000)
    assert found.low <= 0.005 <= found.high < 0.1


def test_a_hundred_pairs_of_one_mistaken_subject_are_one_mistake() -> None:
    apart = share(alone(100, 10), {ONE: 1000})
    units = [{"the mistaken one", f"b{n}"} if n < 10 else {f"a{n}", f"b{n}"} for n in range(100)]
    tied = share(seen(ONE, units, set(range(10))), {ONE: 1000})
    assert tied.estimate == apart.estimate
    assert tied.worth < 0.3 * apart.worth
    assert tied.high - tied.low > 1.5 * (apart.high - apart.low)


def test_pairs_of_one_film_without_a_fault_say_no_more_than_one_pair() -> None:
    found = share(seen(ONE, [{"film"}] * 40, set()), {ONE: 40})
    assert (found.worth, found.three_over_n) == (1, 1)
    assert found.high > 0.9


def test_a_pair_and_its_mirror_count_once() -> None:
    once = share(seen(ONE, [{f"a{n}", f"b{n}"} for n in range(30)], set()), {ONE: 60})
    twice = share(seen(ONE, [{f"a{n}", f"b{n}"} for n in range(30)] * 2, set()), {ONE: 60})
    assert once.worth == twice.worth == 30


def test_a_fault_never_shows_more_than_none() -> None:
    units = [{f"a{n}", f"b{m}"} for n in range(6) for m in range(6)]
    none = share(seen(ONE, units, set()), {ONE: 90})
    one = share(seen(ONE, units, {7}), {ONE: 90})
    assert one.worth > none.worth
    assert one.high >= none.high
    assert one.low <= one.estimate <= one.high


def test_what_was_not_judged_is_said_and_a_wrong_population_is_an_error() -> None:
    nothing = share([], {ONE: 3})
    assert nothing == Share(0, 0, 0, None, 0.0, 1.0, 0.0, None, 1)
    assert share(alone(5, 1), {ONE: 9, TWO: 4}).strata_missing == 1
    with pytest.raises(ValueError, match=r"5 pairs observed in stratum .* which has 4"):
        share(alone(5, 1), {ONE: 4})


@pytest.mark.parametrize(
    ("rate", "spread", "sources"), [(0.02, 0.2, 20), (0.1, 0.2, 20), (0.3, 0.2, 12)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says_over_sources(
    rate: float, spread: float, sources: int
) -> None:
    """Two strata of unequal size and rate; every source has a rate of its own."""
    rng = np.random.default_rng(1)
    sizes = {ONE: 1000, TWO: 3000}
    rates = {ONE: 0.5 * rate, TWO: 1.5 * rate}
    truth = sum(sizes[s] * rates[s] for s in sizes) / sum(sizes.values())
    held, trials = 0, 200
    for _ in range(trials):
        observed = []
        for stratum, p in rates.items():
            odds = (1 - spread) / spread
            own = rng.beta(p * odds, (1 - p) * odds, sources)
            observed += [
                Observation(stratum, frozenset([str(n % sources)]), bool(hit))
                for n, hit in enumerate(rng.random(40) < own[np.arange(40) % sources])
            ]
        found = share(observed, sizes)
        held += found.low <= truth <= found.high
    # 95 % less three standard errors of 200 trials.
    assert held / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_the_interval_holds_the_truth_when_subjects_are_mistaken() -> None:
    """Every pair of a bad subject is wrong, and references are used up to four times."""
    rng = np.random.default_rng(2)
    bad_rate, held, trials = 0.06, 0, 200
    for _ in range(trials):
        bad = rng.random(60) < bad_rate
        pairs = [(n, 30 + int(rng.integers(0, 15))) for n in range(30)]
        observed = [
            Observation(ONE, frozenset([str(a), str(b)]), bool(bad[a] | bad[b])) for a, b in pairs
        ]
        found = share(observed, {ONE: 1000})
        held += found.low <= 1 - (1 - bad_rate) ** 2 <= found.high
    assert held / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_every_class_is_looked_at_and_the_large_ones_more() -> None:
    sizes = {ONE: 10_000, TWO: 100, ("thing", "single"): 4}
    given = allocate(sizes, 200)
    assert sum(given.values()) == 200
    assert given[ONE] > given[TWO] > given["thing", "single"] == 4
    assert allocate(sizes, 3) == dict.fromkeys(sizes, 1)
    assert allocate(sizes, 10**6) == sizes
