"""Bounds, draws and labels: what a user would otherwise take on trust."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.calibrate.candidates import Bound, Candidate, Pool
from s2v.datapipe.calibrate.collect import Collector
from s2v.datapipe.calibrate.consistency import carried, contradictions
from s2v.datapipe.calibrate.draw import draw, shares, unseen, weights
from s2v.datapipe.calibrate.errors import CalibrateError
from s2v.datapipe.calibrate.evaluate import of_classes, of_pool
from s2v.datapipe.calibrate.labels import Labels, read_labels, write_labels
from s2v.datapipe.calibrate.propose import Wanted, between, judge, propose, region

BOUND = Bound("creature", ("select", "pair", "creature"), 0.79, 0.93, "net-1")
KNOWN = frozenset({("a", "b"), ("a", "c"), ("b", "c")})


def candidate(n: int, score: float, guards: tuple[str, ...] = ()) -> Candidate:
    """A pair of two clips that no other pair shares."""
    return Candidate(f"t{n:04d}", f"v{n:04d}", score, (f"c{n}", f"d{n}"), guards)


def pool(scores: list[float]) -> Pool:
    return Pool(BOUND, tuple(candidate(n, score) for n, score in enumerate(scores)))


def spread(count: int) -> Pool:
    values = np.random.default_rng(3).uniform(0.3, 0.99, count)
    return pool([round(float(value), 6) for value in values])


def test_a_draw_looks_at_every_step_and_most_around_the_bounds() -> None:
    whole = spread(3000)
    drawn = draw(whole, 200)
    assert len({one.key for one in drawn}) == 200
    assert unseen(drawn, whole.sizes) == {}
    near = sum(0.75 <= one.score < 0.85 for one in drawn)
    far = sum(0.45 <= one.score < 0.55 for one in drawn)
    assert near > 2 * far > 0


def test_a_draw_repeats_grows_and_hides_the_score() -> None:
    whole = spread(500)
    drawn = draw(whole, 60)
    assert drawn == draw(whole, 60)
    assert set(drawn) < set(draw(whole, 90))
    assert drawn != draw(whole, 60, seed=1)
    order = np.corrcoef(np.arange(60), [one.score for one in drawn])[0, 1]
    assert abs(order) < 0.35


def collected(rows: list[Candidate], most: int, keep: frozenset[tuple[str, str]]) -> Pool:
    collector = Collector(BOUND, keep, most)
    for one in rows:
        collector.add(one)
    found = collector.pool()
    assert found is not None
    return found


def test_a_large_run_is_thinned_alike_in_any_order_and_keeps_what_is_labelled() -> None:
    """Of 20 000 pairs, each met in both orders, 200 a stratum are held; sizes stay true."""
    made = np.random.default_rng(5)
    rows = [candidate(n, float(s)) for n, s in enumerate(made.uniform(0.5, 0.7, 20_000).round(6))]
    turned = [Candidate(c.reference, c.target, c.score, (c.clips[1], c.clips[0]), ()) for c in rows]
    keep = frozenset(one.key for one in rows[:50])
    found = collected([*rows, *turned], 200, keep)
    again = collected([rows[n] for n in made.permutation(len(rows))] + turned, 200, keep)
    assert {c.key for c in found.candidates} == {c.key for c in again.candidates}
    assert found.sizes == again.sizes
    assert keep <= {c.key for c in found.candidates}
    assert len(found.candidates) <= 4 * 200 + 50
    for cell, size in found.sizes.items():
        truly = sum(one.cell == cell for one in rows)
        assert size == pytest.approx(truly, rel=0.2)
    assert collected(rows, 30_000, keep).count == 20_000


def test_a_rule_that_fails_in_one_order_fails_the_pair() -> None:
    one, other = candidate(1, 0.8), candidate(1, 0.8, ("min_gap",))
    for rows in ([one, other], [other, one]):
        found = collected(rows, 10, frozenset())
        assert [c.guards for c in found.candidates] == [("min_gap",)]
        assert found.sizes == {(True, 16, ""): 1}


@given(st.dictionaries(st.integers(0, 19), st.integers(1, 30), min_size=1), st.integers(1, 120))
@settings(max_examples=80, deadline=None)
def test_no_step_gives_more_than_it_has_and_none_is_wasted(
    sizes: dict[int, int], count: int
) -> None:
    cells = {(False, step, ""): n for step, n in sizes.items()}
    given_ = shares(cells, BOUND, count)
    assert all(given_[cell] <= n for cell, n in cells.items())
    assert sum(given_.values()) == min(count, sum(sizes.values()))


def test_weights_give_back_the_whole_population() -> None:
    whole = spread(800)
    drawn = draw(whole, 150)
    weight = weights(drawn, whole.sizes)
    assert weight.sum() == pytest.approx(800)
    high = np.array([one.score >= 0.9 for one in drawn])  # 0.9 is the edge of a step
    assert weight[high].sum() == pytest.approx(sum(c.score >= 0.9 for c in whole.candidates))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9]),
            st.sampled_from(["same", "different", "near copy"]),
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([0.5, 0.75, 0.9]),
    st.sampled_from([0.01, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_no_other_bounds_accept_more_right_pairs(
    rows: list[tuple[float, str]], precision: float, copies: float
) -> None:
    """Against trying all bounds that begin and end at a right pair: to take in wrong ones at an
    end would only thin out copies. So few labels support nothing, so the estimate decides."""
    whole = pool([score for score, _ in rows])
    population = whole.candidates
    of = {c.key: label for c, (_, label) in zip(population, rows, strict=True)}
    judged = judge(whole, of)
    edges = sorted({c.score for c in population if of[c.key] == "same"})
    best = 0
    for low, high in itertools.combinations_with_replacement(edges, 2):
        labels = [of[c.key] for c in population if low <= c.score <= high]
        right = labels.count("same")
        copied = labels.count("near copy")
        if labels and right >= precision * len(labels) and copied <= copies * len(labels):
            best = max(best, right)
    made = propose(judged, whole.sizes, Wanted(precision, copies), 0.99)
    if made.region is None:
        assert best == 0
        return
    assert made.region.precision.hits == best
    assert made.region.precision.estimate >= precision - 1e-9
    assert made.region.copies.count == 0 or made.region.copies.estimate <= copies + 1e-9


def test_labels_too_few_to_support_a_bound_are_said_to_be() -> None:
    whole = pool([0.5] * 5 + [0.85] * 12)
    of = {c.key: "same" if c.score > 0.8 else "different" for c in whole.candidates}
    made = propose(judge(whole, of), whole.sizes, Wanted(), 0.93)
    assert made.region is not None
    assert 0.5 < made.region.lower <= 0.85
    assert not made.precision_supported
    assert "36 right ones" in made.notes[0]
    assert any("near copy" in note for note in made.notes)


def test_enough_labels_support_a_bound_and_copies_push_the_upper_one_down() -> None:
    scores = [0.5] * 40 + [0.85] * 60 + [0.95] * 30
    whole = pool(scores)
    named = {0.5: "different", 0.85: "same", 0.95: "near copy"}
    of = {c.key: named[c.score] for c in whole.candidates}
    made = propose(judge(whole, of), whole.sizes, Wanted(), 0.99)
    assert made.region is not None
    assert made.precision_supported
    assert 0.85 < made.region.upper <= 0.95
    assert made.region.copies_refused.estimate == 1


def test_the_upper_bound_is_not_raised_by_labels_without_a_near_copy() -> None:
    whole = pool([0.5] * 40 + [0.85] * 60 + [0.95] * 30)
    of = {c.key: "same" if c.score > 0.8 else "different" for c in whole.candidates}
    made = propose(judge(whole, of), whole.sizes, Wanted(), 0.93)
    assert made.region is not None
    assert (made.region.upper, made.upper_free) == (0.93, True)
    copy = candidate(999, 0.97, ("min_gap",))
    more = Pool(BOUND, (*whole.candidates, copy))
    made = propose(judge(more, {**of, copy.key: "near copy"}), more.sizes, Wanted(), 0.93)
    assert made.region is not None
    assert 0.95 < made.region.upper <= 0.97


def test_near_copies_that_another_rule_refuses_do_not_count_against_the_bounds() -> None:
    population = (*(candidate(n, 0.85) for n in range(50)), candidate(99, 0.86, ("min_gap",)))
    of = {c.key: "near copy" if c.guards else "same" for c in population}
    found = region(judge(Pool(BOUND, population), of), 0.8, 0.93)
    assert found.copies.estimate == 0
    assert found.precision.count == 50
    assert found.copies_refused.estimate == 0


@given(st.floats(0, 1), st.floats(1e-6, 0.5))
def test_a_bound_lies_between_the_pairs_it_parts(low: float, gap: float) -> None:
    assert low < between(low, low + gap) <= low + gap


def labels_file(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_hold_for_both_orders_and_several_people(tmp_path: Path) -> None:
    path = labels_file(
        tmp_path,
        "target,reference,label,who,when\n"
        "b,a,Near_Copy,ann,2020-01-01\na,b,near copy,bob,\nc,a,unsure,,\n",
    )
    found = read_labels(path)
    found.require(KNOWN)
    assert found.of == {("a", "b"): "near copy", ("a", "c"): "unsure"}
    assert found.repeated == 1
    assert found.who == {"ann": 1, "bob": 1, "": 1}


def test_written_labels_are_read_back(tmp_path: Path) -> None:
    write_labels(tmp_path / "l.csv", [("a", "b", "same", "x, y"), ("b", "c", "different", "")])
    assert read_labels(tmp_path / "l.csv").of == {
        ("a", "b"): "same",
        ("b", "c"): "different",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target,label\na,same\n", "no column reference"),
        ("target,reference,label\n", "no label in it"),
        ("target,reference,label\na,b,sam\n", "did you mean 'same'"),
        ("target,reference,label\na,b,rabbit\n", "one of 'same'"),
        (
            "target,reference,label\na,x,same\n",
            r"1 labelled pairs are not in the run.*labels\.csv:2: a, x",
        ),
        ("target,reference,label\na,b,same\nb,a,different\n", r"csv:3: .* 'same' in .*csv:2"),
        ("target,reference,label\na,b,same\na,b,same\n", r"labelled in .*csv:2 already"),
        ("target,reference,label\na,b\n", "fewer than three"),
        ('target,reference,label\na,b,"same\n', "cannot be read"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CalibrateError, match=said):
        read_labels(labels_file(tmp_path, text)).require(KNOWN)


def test_people_who_differ_are_shown_and_their_pair_is_not_counted(tmp_path: Path) -> None:
    """Two raters, a file each with the same name: 3 pairs alike, one not, one known to one."""
    said = {
        "ann": "a,b,same\na,c,different\nb,c,same\nc,d,same\n",
        "bob": "b,a,same\nc,a,different\nb,c,different\nd,c,same\nd,e,near copy\n",
    }
    for name, text in said.items():
        (tmp_path / name).mkdir()
        labels_file(tmp_path / name, f"target,reference,label\n{text}")
    ann, bob = (str(tmp_path / name / "labels.csv") for name in said)
    found = read_labels(Path(ann), Path(bob))
    assert found.disputed == {("b", "c"): {ann: "same", bob: "different"}}
    assert found.of["b", "c"] == "unsure"
    assert found.of["d", "e"] == "near copy"
    assert found.repeated == 3
    (agreed,) = found.agreement
    assert (agreed.people, agreed.pairs, agreed.share) == ((ann, bob), 4, 0.75)
    chance = (3 * 2 + 1 * 2) / 16  # same and different, by how often each says them
    assert agreed.kappa == pytest.approx((0.75 - chance) / (1 - chance))


def test_pairs_that_nobody_could_decide_are_counted_against_the_bounds_at_worst() -> None:
    whole = pool([0.5] * 40 + [0.8125] * 60 + [0.8375] * 20)
    named = {0.5: "different", 0.8125: "same", 0.8375: "unsure"}
    labels = Labels({c.key: named[c.score] for c in whole.candidates}, {})
    made = of_pool(whole, labels, Wanted()).proposal
    assert made.region is not None
    assert made.region.precision.estimate == 1
    assert any("20 labelled pairs inside" in n and "would be 0.750" in n for n in made.notes)


def of_kinds(counts: dict[str, tuple[int, float]], seed: int = 5) -> Pool:
    """Pairs of several classes, each with scores around a middle of its own."""
    made, rows = np.random.default_rng(seed), []
    for kind, (count, middle) in counts.items():
        for score in made.normal(middle, 0.08, count).clip(0, 0.99).round(6):
            rows.append(replace(candidate(len(rows), float(score)), kind=kind))
    return Pool(BOUND, tuple(rows))


def test_each_class_of_a_bank_gives_its_pairs_to_label() -> None:
    whole = of_kinds({"animal": (3000, 0.6), "ip_character": (300, 0.7), "": (5, 0.6)})
    count = Counter(one.kind for one in draw(whole, 100))
    assert count == {"animal": 100, "ip_character": 100, "": 5}


def test_a_share_of_a_bank_is_right_although_a_small_class_is_drawn_as_often() -> None:
    """9 of 10 pairs are of a class that is always right, the others never: drawn half and half."""
    whole = of_kinds({"animal": (4500, 0.8), "ip_character": (500, 0.8)})
    of = {one.key: "same" if one.kind == "animal" else "different" for one in draw(whole, 150)}
    assert len(of) == 300
    found = region(judge(whole, of), 0, 1)
    assert found.precision.estimate == pytest.approx(0.9, abs=0.01)
    unweighted = found.precision.hits / found.precision.count
    assert unweighted == pytest.approx(0.5, abs=0.01)


def test_pairs_of_a_class_without_a_label_in_a_step_are_not_forgotten() -> None:
    whole = of_kinds({"animal": (400, 0.8), "ip_character": (400, 0.8)})
    labelled = [one for one in draw(whole, 150) if one.kind == "animal"]
    assert weights(labelled, whole.sizes).sum() == pytest.approx(
        sum(n for c, n in whole.sizes.items() if any(o.cell[:2] == c[:2] for o in labelled))
    )


def test_a_class_has_bounds_of_its_own_and_one_with_too_few_labels_says_so() -> None:
    """Things part at 0.7, clothes at 0.8, and of landmarks five are labelled."""
    whole = of_kinds({"clothes": (400, 0.8), "product": (400, 0.7), "landmark": (300, 0.7)})
    edge = {"clothes": 0.8, "product": 0.7, "landmark": 0.7}
    drawn = [one for kind in edge for one in draw(whole.of_class(kind), 200)]
    drawn = [one for one in drawn if one.kind != "landmark"] + [
        one for one in drawn if one.kind == "landmark"
    ][:5]
    of = {one.key: "same" if one.score >= edge[one.kind] else "different" for one in drawn}
    found, without = of_classes(whole, Labels(of, {}), Wanted())
    assert set(found) == {"creature.clothes", "creature.product"}
    for kind in ("clothes", "product"):
        made = found[f"creature.{kind}"]
        assert made.pool.bound.section == ("select", "pair", "creature", "classes", kind)
        assert made.proposal.region is not None
        assert made.proposal.region.lower == pytest.approx(edge[kind], abs=0.02)
        assert made.proposal.precision_supported
    assert "5 of 300 pairs" in without["creature.landmark"]
    assert "the bounds of bank creature stand" in without["creature.landmark"]
    alone = whole.of_class("clothes")
    only = of_classes(Pool(BOUND, alone.candidates, alone.sizes), Labels(of, {}), Wanted())
    assert only[0] == {}
    assert "its own" in only[1]["creature.clothes"]


def test_a_missing_labels_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrateError, match=r"gone\.csv"):
        read_labels(tmp_path / "gone.csv")


def test_labels_that_contradict_one_another_are_shown_with_the_chain() -> None:
    of = {("a", "b"): "same", ("b", "c"): "near copy", ("a", "c"): "different"}
    assert contradictions(of) == [(("a", "c"), ["a", "b", "c"])]
    assert contradictions({**of, ("a", "c"): "unsure"}) == []


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_labels_imply_is_true_and_never_more_than_they_say(
    who: list[int], random: Random
) -> None:
    """Labels given by a known truth never contradict, and carry over to the truth alone."""
    names = [f"s{n}" for n in range(len(who))]
    truth = {
        (names[i], names[j]): "same" if who[i] == who[j] else "different"
        for i, j in itertools.combinations(range(len(who)), 2)
    }
    of = {key: label for key, label in truth.items() if random.random() < 0.5}
    assert contradictions(of) == []
    found = carried(of, truth)
    assert found.items() <= truth.items()
    assert of.items() <= found.items()
