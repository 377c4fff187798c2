"""Agreement and strength against textbooks and closed forms."""

import math

import numpy as np
import pytest

from s2v.evals.study.agreement import krippendorff
from s2v.evals.study.preference import Match, bradley_terry, good_same_bad, win_rates

# Krippendorff 2011: four observers, twelve units, some missing.
_TEXTBOOK = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def textbook() -> tuple[list[int], list[int]]:
    found = [
        (int(mark) - 1, unit)
        for line in _TEXTBOOK
        for unit, mark in enumerate(line.split())
        if mark != "."
    ]
    return [v for v, _ in found], [u for _, u in found]


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_is_that_of_krippendorffs_own_example(level: str, expected: float) -> None:
    got = krippendorff(*textbook(), 5, level=level)  # type: ignore[arg-type]
    assert got.value == pytest.approx(expected, abs=5e-4)
    assert (got.units, got.ratings) == (11, 40)  # the twelfth unit has one rating
    assert got.low is not None
    assert got.high is not None
    assert got.low < expected < got.high


def test_full_agreement_is_one_and_chance_is_about_none() -> None:
    assert krippendorff([0, 0, 2, 2], [1, 1, 2, 2], 3, level="ordinal").value == 1.0
    rng = np.random.default_rng(0)
    noise = krippendorff(
        rng.integers(0, 3, 3000).tolist(), [i // 3 for i in range(3000)], 3, level="nominal",
        replicates=50,
    )  # fmt: skip
    assert noise.value == pytest.approx(0, abs=0.04)


def test_where_all_answers_are_alike_agreement_is_unknown_not_perfect() -> None:
    assert krippendorff([1, 1, 1, 1], [1, 1, 2, 2], 3, level="ordinal").value is None
    assert krippendorff([1, 2], ["a", "b"], 3, level="nominal").units == 0


def matches(table: dict[tuple[str, str], tuple[int, int, int]]) -> list[Match]:
    made = []
    for (a, b), (good, same, bad) in table.items():
        for n, outcome in enumerate([1.0] * good + [0.5] * same + [0.0] * bad):
            made.append(Match(f"r{n % 5}", f"g{n % 7}", a, b, outcome))
    return made


def test_two_models_have_the_log_odds_of_their_wins() -> None:
    found = bradley_terry(matches({("a", "b"): (30, 0, 10)}), seed=0, replicates=50)
    # A quarter of a virtual win each.
    gap = math.log(30.25 / 10.25)
    assert [s.model for s in found] == ["a", "b"]
    assert found[0].value - found[1].value == pytest.approx(gap, abs=1e-6)
    assert sum(s.value for s in found) == pytest.approx(0, abs=1e-9)


def test_strengths_solve_the_likelihood_equations() -> None:
    table = {("a", "b"): (12, 3, 5), ("b", "c"): (9, 2, 4), ("c", "a"): (3, 1, 11)}
    strengths = {s.model: s.value for s in bradley_terry(matches(table), seed=0, replicates=20)}
    for model in "abc":
        won = expected = 0.0
        for (a, b), (good, same, bad) in table.items():
            if model not in (a, b):
                continue
            other = b if model == a else a
            mine = good if model == a else bad
            won += mine + same / 2 + 0.25
            chance = 1 / (1 + math.exp(strengths[other] - strengths[model]))
            expected += (good + same + bad + 0.5) * chance
        assert won == pytest.approx(expected, abs=1e-5)


def test_a_model_that_never_lost_keeps_a_finite_strength() -> None:
    found = bradley_terry(matches({("a", "b"): (10, 0, 0)}), seed=0, replicates=20)
    assert math.isfinite(found[0].value)
    assert (found[0].model, found[0].rank_low, found[0].rank_high) == ("a", 1, 1)


def test_drawn_strengths_cover_the_true_order() -> None:
    rng = np.random.default_rng(3)
    true = {"a": 0.8, "b": 0.0, "c": -0.8}
    made = []
    for rater in range(10):
        for group in range(15):
            for one, two in (("a", "b"), ("b", "c"), ("a", "c")):
                chance = 1 / (1 + math.exp(true[two] - true[one]))
                made.append(Match(f"r{rater}", f"g{group}", one, two, float(rng.random() < chance)))
    found = bradley_terry(made, seed=1, replicates=200)
    assert [s.model for s in found] == ["a", "b", "c"]
    assert all(s.low <= true[s.model] <= s.high for s in found)


def test_good_same_bad_names_both_formulas() -> None:
    (got,) = good_same_bad(matches({("b", "a"): (6, 3, 1)}))
    assert (got.a, got.b, got.good, got.same, got.bad) == ("a", "b", 1, 3, 6)
    assert got.net == pytest.approx(-0.5)
    assert got.ratio == pytest.approx(4 / 9)


def test_ties_are_half_a_win_for_each() -> None:
    rates = win_rates(matches({("a", "b"): (0, 10, 0)}), seed=0, replicates=100)
    assert (rates["a"].estimate, rates["b"].estimate) == (0.5, 0.5)
    assert (rates["a"].low, rates["a"].high) == (0.5, 0.5)
