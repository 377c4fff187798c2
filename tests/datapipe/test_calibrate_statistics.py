"""The numbers behind a bound, against brute force and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from s2v.datapipe.calibrate.statistics import auc, curve, dyadic_variance, share
from s2v.datapipe.intervals import (
    beta_cdf,
    beta_quantile,
    clopper_pearson,
    fewest_without_error,
)

SCORES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), st.booleans(), st.integers(1, 4)),
    min_size=2,
    max_size=14,
)


def apart(count: int) -> list[tuple[str, str]]:
    """Pairs that share no clip."""
    return [(f"a{n}", f"b{n}") for n in range(count)]


@given(st.floats(0.01, 200), st.floats(0.01, 200), st.floats(0.001, 0.999))
@settings(max_examples=150, deadline=None)
def test_the_beta_function_is_scipys(a: float, b: float, x: float) -> None:
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9)


@given(st.floats(0.5, 300), st.floats(0.5, 300), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_a_quantile_undoes_the_distribution(a: float, b: float, p: float) -> None:
    assert beta_quantile(p, a, b) == pytest.approx(stats.beta.ppf(p, a, b), abs=1e-9)


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (0, 30), (7, 20), (59, 60), (40, 40)])
def test_the_exact_interval_is_scipys(hits: int, count: int) -> None:
    exact = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, count) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_pairs_that_share_nothing_get_the_exact_interval() -> None:
    hits = np.array([True] * 17 + [False] * 3)
    found = share(hits, np.ones(20), apart(20))
    assert (found.low, found.high) == pytest.approx(clopper_pearson(17, 20))
    assert found.effective == pytest.approx(20)


def test_pairs_of_few_clips_say_less_than_their_number() -> None:
    clips = [f"c{n}" for n in range(8)]
    ends = list(itertools.combinations(clips, 2))
    bad = np.array(["c0" not in pair for pair in ends])  # one spoilt clip spoils its seven pairs
    found = share(bad, np.ones(len(ends)), ends)
    assert found.effective < 10 < len(ends)
    assert found.low < clopper_pearson(int(bad.sum()), len(ends))[0]
    faultless = share(np.ones(len(ends), np.bool_), np.ones(len(ends)), ends)
    assert faultless.effective == 4  # pairs of eight clips that share none, not 28


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(-1, 1)), min_size=1, max_size=12
    )
)
@settings(max_examples=100, deadline=None)
def test_the_dyadic_variance_counts_every_two_pairs_that_share_a_clip(
    rows: list[tuple[int, int, float]],
) -> None:
    rows = [(a, b, value) for a, b, value in rows if a != b]
    brute = sum(
        x * y for (a, b, x), (c, d, y) in itertools.product(rows, repeat=2) if {a, b} & {c, d}
    )
    ends = [(str(a), str(b)) for a, b, _ in rows]
    got = dyadic_variance(np.array([value for *_, value in rows]), ends)
    assert got == pytest.approx(brute, abs=1e-9)


@given(SCORES)
@settings(max_examples=150, deadline=None)
def test_a_weight_is_as_many_pairs(rows: list[tuple[float, bool, int]]) -> None:
    """The weighted curve and area are those of the pairs written out that often."""
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = curve(scores, positive, weights.astype(float))
    written = [(s, p) for s, p, n in rows for _ in range(n)]
    if found is None:
        assert positive.all() or not positive.any()
        return
    good = [s for s, p in written if p]
    bad = [s for s, p in written if not p]
    for n, threshold in enumerate(found.threshold):
        passed = [p for s, p in written if s >= threshold]
        assert found.precision[n] == pytest.approx(sum(passed) / len(passed))
        assert found.found[n] == pytest.approx(sum(s >= threshold for s in good) / len(good))
        assert found.wrong[n] == pytest.approx(sum(s >= threshold for s in bad) / len(bad))
    brute = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
    area = auc(scores, positive, weights.astype(float), apart(len(rows)))
    assert area is not None
    assert area.estimate == pytest.approx(brute)
    assert area.low - 1e-9 <= area.estimate <= area.high + 1e-9


def test_the_interval_covers_what_it_promises() -> None:
    """Simulated labels of stratified draws: the truth lies inside at least as often as said."""
    made = np.random.default_rng(7)
    inside = 0
    for _ in range(300):
        sizes, chances, drawn = (400, 100), (0.95, 0.6), (30, 30)
        truth = sum(n * p for n, p in zip(sizes, chances, strict=True)) / sum(sizes)
        hits = np.concatenate([made.random(n) < p for n, p in zip(drawn, chances, strict=True)])
        weight = np.repeat([s / n for s, n in zip(sizes, drawn, strict=True)], drawn)
        found = share(hits, weight, apart(60))
        inside += found.low <= truth <= found.high
    assert inside / 300 >= 0.93


@pytest.mark.parametrize(("spoilt", "clips"), [(0.045, 60), (0.12, 16), (0.08, 30), (0.25, 24)])
def test_the_interval_covers_what_it_promises_where_spoilt_clips_spoil_their_pairs(
    spoilt: float, clips: int
) -> None:
    """Every pair of a spoilt clip is wrong; 100 of all pairs are labelled.

    With as many independent pairs as clips, 81 % (16 clips) and 88 % (30) held the truth.
    """
    made = np.random.default_rng(11)
    every = list(itertools.combinations([f"c{n}" for n in range(clips)], 2))
    truth = (1 - spoilt) ** 2
    inside, trials = 0, 200
    for _ in range(trials):
        bad = {f"c{n}" for n in np.flatnonzero(made.random(clips) < spoilt)}
        ends = [every[n] for n in made.choice(len(every), 100, replace=False)]
        right = np.array([not bad & set(pair) for pair in ends])
        found = share(right, np.ones(100), ends)
        inside += found.low <= truth <= found.high
    # 95 % less three standard errors of 200 trials.
    assert inside / trials > 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


def test_a_fault_never_shows_more_than_none() -> None:
    """One wrong pair that stands alone looks as if all pairs erred each for itself."""
    ends = list(itertools.combinations([f"c{n}" for n in range(28)], 2))[:71]
    right = np.ones(71, np.bool_)
    none = share(right, np.ones(71), ends)
    right[40] = False
    one = share(right, np.ones(71), ends)
    assert one.effective > none.effective
    assert one.low <= none.low
    none, one = share(~right | True, np.ones(71), ends), share(~right, np.ones(71), ends)
    assert one.high >= 1 - none.low


def test_no_pairs_are_no_share() -> None:
    empty = share(np.zeros(0, np.bool_), np.zeros(0), [])
    assert math.isnan(empty.estimate)
    assert (empty.low, empty.high) == (0.0, 1.0)


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.99])
def test_the_fewest_pairs_are_really_the_fewest(wanted: float) -> None:
    count = fewest_without_error(wanted)
    assert clopper_pearson(count, count)[0] >= wanted > clopper_pearson(count - 1, count - 1)[0]
