"""Quotas: never exceeded, nothing lost without a reason, the same whatever the order."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from s2v.datapipe.base.exclusions import Exclusion
from s2v.datapipe.pair.conservation import check
from s2v.datapipe.pair.quotas import Key, best_first, bounds, thin
from s2v.datapipe.pair.sample_rules import QuotaSettings, TypeQuotas
from s2v.datapipe.pair.samples import keys_of
from s2v.datapipe.pair.scenario import scenarios
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.roles import CLASSES

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_selection import DEFAULT, changed, rows
from synthetic_tables import World, film_world

Quotas = dict[str, dict[str, int]]
KINDS = st.builds(
    lambda classes, several: 2 * sum(1 << n for n in classes) + (several or len(classes) > 1),
    st.sets(st.integers(0, len(CLASSES) - 1), min_size=1, max_size=3),
    st.booleans(),
)
CORPORA = st.lists(st.tuples(KINDS, st.integers(0, 4)), min_size=1, max_size=60)


def some_quotas(*named: str) -> st.SearchStrategy[Quotas]:
    limits = st.one_of(
        st.builds(lambda low: {"min": low}, st.integers(0, 6)),
        st.builds(lambda high: {"max": high}, st.integers(0, 12)),
        st.builds(lambda a, b: {"min": min(a, b), "max": max(a, b)}, *[st.integers(0, 9)] * 2),
    )
    return st.dictionaries(st.sampled_from(named), limits, max_size=4)


def thinned(corpus: list[tuple[int, int]], rules: TypeQuotas) -> dict[str, str | None]:
    """Reasons by id."""
    keys = [keys_of(kind) for kind, _ in corpus]
    ids = [f"{n:04d}" for n in range(len(corpus))]
    score = np.array([score / 4 for _, score in corpus])
    found = thin(keys, best_first(score, ids), bounds(rules, len(corpus)))
    return dict(zip(ids, found, strict=True))


def kept_counts(corpus: list[tuple[int, int]], reasons: dict[str, str | None]) -> Counter[Key]:
    return Counter(
        key for (kind, _), why in zip(corpus, reasons.values(), strict=True) if why is None
        for key in keys_of(kind)
    )  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    corpus=CORPORA,
    by_scenario=some_quotas("single-human", "human-pet", "try-on", "multi-person"),
    by_class=some_quotas("human", "animal", "clothes", "product"),
    total=st.none() | st.integers(0, 40),
)  # fmt: skip
def test_no_maximum_is_exceeded_and_who_is_left_out_stands_before_a_full_one(
    corpus: list[tuple[int, int]], by_scenario: Quotas, by_class: Quotas, total: int | None
) -> None:
    rules = TypeQuotas.model_validate(
        {"scenarios": by_scenario, "classes": by_class, "total": total}
    )
    reasons = thinned(corpus, rules)
    counts = kept_counts(corpus, reasons)
    wanted = bounds(rules, len(corpus))
    assert all(counts[key] <= most for key, most in wanted.most.items())
    left = sum(why is None for why in reasons.values())
    assert total is None or left <= total
    for (kind, _), why in zip(corpus, reasons.values(), strict=True):
        if why == "quota: total reached":
            assert left == total
        elif why is not None:
            full = next(key for key in keys_of(kind) if why == f"quota: {key[0]} {key[1]} full")
            assert counts[full] == wanted.most[full]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    corpus=CORPORA,
    most=st.integers(0, 8),
    more=st.integers(0, 4),
    name=st.sampled_from(scenarios()),
)
def test_a_raised_maximum_keeps_all_that_was_kept_and_at_most_as_many_more(
    corpus: list[tuple[int, int]], most: int, more: int, name: str
) -> None:
    kept = []
    for limit in (most, most + more):
        reasons = thinned(corpus, TypeQuotas.model_validate({"scenarios": {name: {"max": limit}}}))
        kept.append({one for one, why in reasons.items() if why is None})
    assert kept[0] <= kept[1]
    assert len(kept[1] - kept[0]) <= more


@settings(max_examples=80, deadline=None, derandomize=True)
@given(corpus=CORPORA, most=st.integers(0, 5), seed=st.integers(0, 999))
def test_the_best_stay_whatever_the_order(
    corpus: list[tuple[int, int]], most: int, seed: int
) -> None:
    keys = [keys_of(kind) for kind, _ in corpus]
    ids = [f"{n:04d}" for n in range(len(corpus))]
    score = np.array([score / 4 for _, score in corpus])
    rules = bounds(TypeQuotas.model_validate({"classes": {"human": {"max": most}}}), len(corpus))
    shuffled = np.random.default_rng(seed).permutation(len(corpus))

    def kept(at: list[int]) -> set[str]:
        some = [ids[n] for n in at]
        order = best_first(score[at], some)
        found = thin([keys[n] for n in at], order, rules)
        return {one for one, why in zip(some, found, strict=True) if why is None}

    once = kept(list(range(len(corpus))))
    assert once == kept(shuffled.tolist())
    humans = sorted(
        (-score[n], ids[n]) for n in range(len(corpus)) if ("class", "human") in keys[n]
    )
    assert {one for _, one in humans[:most]} == {one for _, one in humans} & once


@settings(max_examples=60, deadline=None, derandomize=True)
@given(corpus=CORPORA, least=st.integers(1, 5), total=st.integers(1, 10))
def test_a_minimum_is_met_before_the_total_is_spent_on_others(
    corpus: list[tuple[int, int]], least: int, total: int
) -> None:
    rules = TypeQuotas.model_validate({"total": total, "classes": {"clothes": {"min": least}}})
    there = sum(("class", "clothes") in keys_of(kind) for kind, _ in corpus)
    counts = kept_counts(corpus, thinned(corpus, rules))
    assert counts["class", "clothes"] >= min(least, total, there)


def test_shares_are_of_the_total_or_of_what_was_made() -> None:
    rules = {"scenarios": {"single-human": {"share": 0.25}, "try-on": {"share": 0.1}}}
    of_made = bounds(TypeQuotas.model_validate(rules), made=40)
    assert of_made.least == of_made.most == {
        ("scenario", "single-human"): 10,
        ("scenario", "try-on"): 4,
    }  # fmt: skip
    of_total = bounds(TypeQuotas.model_validate({**rules, "total": 200}), made=40)
    assert of_total.least["scenario", "single-human"] == 50


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"scenarios": {"human-pets": {"min": 1}}}, "no scenario; did you mean 'human-pet'"),
        ({"classes": {"creature": {"min": 1}}}, "'creature' is no class"),
        ({"classes": {"human": {"min": 5, "max": 4}}}, "min 5 is over max 4"),
        ({"classes": {"human": {"share": 0.5, "max": 4}}}, "not both"),
        ({"classes": {"human": {}}}, "asks for nothing"),
        ({"scenarios": {"try-on": {"share": 0.7}, "human-pet": {"share": 0.5}}}, "add up to 1.2"),
    ],
)
def test_a_quota_that_cannot_be_meant_is_refused_with_the_way_out(
    rules: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        QuotaSettings.model_validate({"cross": rules})


# The whole selection.


@pytest.fixture(scope="module")
def world() -> World:
    return film_world()


def reasons_of(selection: Selection) -> Counter[str]:
    return Counter(r["reason"] for r in rows(selection, "sample_reasons") if r["reason"])


def test_without_quotas_every_sample_stays_and_every_kind_is_counted(world: World) -> None:
    selection = select(world.tables(), DEFAULT)
    assert reasons_of(selection) == {}
    samples = Counter((s["pair_type"], s["scenario"]) for s in rows(selection, "samples"))
    told = {
        (q["pair_type"], q["name"]): q["kept"]
        for q in rows(selection, "quotas")
        if q["of"] == "scenario"
    }
    assert told == samples
    assert all(q["missing"] == q["topped_up"] == 0 for q in rows(selection, "quotas"))


def test_the_dropped_keep_their_reason_and_the_funnel_adds_up(world: World) -> None:
    before = select(world.tables(), DEFAULT)
    made = changed(quota={"in": {"scenarios": {"single-animal": {"max": 2}}}})
    selection = select(world.tables(), made)
    assert reasons_of(selection) == {"quota: scenario single-animal full": 3}
    report = check(world.tables(), selection, made)
    ledger = {one.table: one for one in report.ledgers}
    assert ledger["samples"].dropped == {"quota: scenario single-animal full": 3}
    assert ledger["samples"].kept == selection.samples.num_rows == before.samples.num_rows - 3
    kept = {s["sample_id"] for s in rows(selection, "samples")}
    assert kept < {s["sample_id"] for s in rows(before, "samples")}  # ids do not change


def test_a_clip_without_any_sample_left_is_told_from_a_lost_one(world: World) -> None:
    made = changed(quota={
        "in": {"classes": {"product": {"max": 0}}}, "cross": {"classes": {"product": {"max": 0}}},
    })  # fmt: skip
    selection = select(world.tables(), made)
    assert not any(s["scenario"] == "single-product" for s in rows(selection, "samples"))
    outcome = {one.table: one for one in check(world.tables(), selection, made).ledgers}
    assert outcome["clips with a sample"].dropped["quota"] == 3


def test_what_was_used_up_is_given_again_until_a_minimum_is_met() -> None:
    """Two clips seconds apart can only be shown the third; used once, one of them goes empty."""
    world = World()
    world.source("film", seconds=200)
    for start in (1, 101, 109):
        world.subject(world.clip("film", start, start + 6), "rabbit", look=f"rabbit {start}")
    few = {"max_uses": 1}

    def cross(selection: Selection) -> dict[str, list[str]]:
        return {
            s["sample_id"]: [ref["reference_subject_id"] for ref in s["references"]]
            for s in rows(selection, "samples")
            if s["pair_type"] == "cross"
        }

    def told(selection: Selection) -> tuple[int, ...]:
        names = ("made", "least", "kept", "topped_up", "missing")
        return next(
            tuple(q[name] for name in names)
            for q in rows(selection, "quotas")
            if (q["pair_type"], q["of"], q["name"]) == ("cross", "class", "animal")
        )

    scarce = cross(select(world.tables(), changed(sample=few)))
    assert len(scarce) == 2
    asked = {"cross": {"classes": {"animal": {"min": 3}}}}
    topped = select(world.tables(), changed(sample=few, quota=asked))
    assert told(topped) == (2, 3, 3, 1, 0)
    assert scarce.items() < cross(topped).items()
    assert max(Counter(r for refs in cross(topped).values() for r in refs).values()) == 2
    capped = select(world.tables(), changed(sample=few, quota={**asked, "top_up_uses": 1}))
    assert cross(capped) == scarce
    assert told(capped) == (2, 3, 2, 0, 1)


def hub() -> World:
    """Two clips of a rabbit far apart, and four so close that only these two serve them."""
    world = World()
    world.source("film", seconds=300)
    for start in (1, 51, 101, 103.5, 106, 108.5):
        world.subject(world.clip("film", start, start + 2.2), "rabbit", look=f"rabbit {start}")
    return world


def test_topping_up_wears_no_reference_more_than_others() -> None:
    quota = {"cross": {"classes": {"animal": {"min": 6}}}}
    selection = select(hub().tables(), changed(sample={"max_uses": 1}, quota=quota))
    uses = Counter(
        ref["reference_subject_id"]
        for s in rows(selection, "samples")
        if s["pair_type"] == "cross"
        for ref in s["references"]
    )
    assert sorted(uses.values()) == [1, 2, 3]  # taking the surest at once would make it 1, 1, 4


@pytest.mark.parametrize(
    "limit", [{"total": 4}, {"scenarios": {"single-animal": {"max": 4}}}], ids=["total", "scenario"]
)
def test_topping_up_stops_before_any_maximum(limit: dict[str, Any]) -> None:
    quota = {"cross": {"classes": {"animal": {"min": 6}}, **limit}}
    selection = select(hub().tables(), changed(sample={"max_uses": 1}, quota=quota))
    told = next(
        q
        for q in rows(selection, "quotas")
        if (q["pair_type"], q["of"], q["name"]) == ("cross", "class", "animal")
    )
    assert (told["made"], told["kept"], told["topped_up"], told["missing"]) == (3, 4, 1, 2)


def test_a_shortfall_says_how_much_is_missing_and_how_much_there_was(world: World) -> None:
    quota = {"cross": {"classes": {"product": {"min": 50}, "landmark": {"min": 1}}}}
    told = {
        q["name"]: q
        for q in rows(select(world.tables(), changed(quota=quota)), "quotas")
        if q["pair_type"] == "cross" and q["of"] == "class"
    }
    product, landmark = told["product"], told["landmark"]
    assert (product["least"], product["kept"], product["missing"]) == (50, 2, 48)
    assert (product["subjects"], product["paired"]) == (3, 2)
    assert (landmark["made"], landmark["missing"], landmark["subjects"]) == (0, 1, 0)


def test_a_refused_sample_is_not_replaced(world: World) -> None:
    settings_ = changed(quota={"in": {"scenarios": {"single-animal": {"max": 2}}}})
    before = select(world.tables(), settings_)
    one = next(s["sample_id"] for s in rows(before, "samples") if s["scenario"] == "single-animal")
    refused = Exclusion(key_type="sample_id", key=one, reason="blurred", by="me", when="today")
    after = select(world.tables(), settings_, [refused])
    kept = {s["sample_id"] for s in rows(before, "samples")}
    assert {s["sample_id"] for s in rows(after, "samples")} == kept - {one}
    assert reasons_of(after)["excluded: blurred"] == 1


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31))
def test_quotas_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    world = film_world()
    settings_ = changed(
        sample={"max_uses": 1},
        quota={"cross": {"classes": {"animal": {"min": 6, "max": 7}}}, "in": {"total": 5}},
    )
    one = select(world.tables(), settings_)
    other = select(world.tables(shuffle=seed), settings_)
    for name in ("samples", "sample_reasons", "quotas"):
        assert getattr(one, name).equals(getattr(other, name))
