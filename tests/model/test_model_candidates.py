"""Six candidate references, at most four a step: all are seen, the same way every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.base.shards import ShardIndex
from s2v.model.config import Config
from s2v.model.data.collate import choose, fixed, shown
from s2v.model.data.features import Features
from s2v.model.data.reader import Reader


def features(count: int) -> Features:
    """References that are their own number, in every form."""
    numbers = torch.arange(count, dtype=torch.float32)
    return Features(
        video=torch.zeros(1, 1, 1, 1, 1),
        references=numbers.reshape(1, count, 1, 1, 1, 1).expand(1, count, 3, 1, 1, 1),
        image=numbers.reshape(1, count, 1, 1, 1).expand(1, count, 3, 1, 1),
        text=torch.zeros(1 + count, 1),
        text_subject=torch.arange(1 + count),
        reference_subject=torch.arange(1, 1 + count),
    )


@given(st.text(max_size=8), st.integers(0, 50), st.integers(0, 6), st.integers(0, 6), st.integers())
def test_no_candidate_is_left_out_for_long_and_none_is_shown_twice_at_once(
    sample: str, first: int, candidates: int, most: int, seed: int
) -> None:
    rounds = [shown(sample, first + n, candidates, most, seed) for n in range(12)]
    count = min(candidates, most)
    for chosen in rounds:
        assert len(chosen) == len(set(chosen)) == count
        assert set(chosen) <= set(range(candidates))
    if count:
        needed = -(-candidates // count)
        for at in range(len(rounds) - needed + 1):
            seen = {one for chosen in rounds[at : at + needed] for one in chosen}
            assert seen == set(range(candidates))
        uses = Counter(one for chosen in rounds for one in chosen)  # 12 epochs are whole circles
        assert max(uses.values()) - min(uses.values()) <= 1
    assert rounds == [shown(sample, first + n, candidates, most, seed) for n in range(12)]


def test_samples_do_not_all_leave_out_the_last_phrases_first() -> None:
    left_out = Counter(
        n for s in range(300) for n in {*range(6)} - {*shown(f"sample-{s}", 0, 6, 4, 0)}
    )
    assert all(60 <= left_out[n] <= 140 for n in range(6)), left_out


def test_a_step_sees_the_candidates_of_its_epoch_and_measuring_always_the_first() -> None:
    odds = {"crop": 1.0}
    six = features(6)
    for epoch in range(4):
        wanted = set(shown("x", epoch, 6, 4, 3))
        orders = set()
        for number in range(8):
            item = choose(("x", number), six, odds, 3, epoch=epoch, most=4)
            got = item.references.flatten().tolist()
            assert set(got) == wanted
            assert got == item.image.flatten().tolist()
            assert sorted(item.reference_subject.tolist()) == [1, 2, 3, 4]
            numbers = dict(zip(got, item.reference_subject.tolist(), strict=True))
            assert item.text_subject.tolist() == [0, *(numbers.get(n, 0) for n in range(6))], (
                "a word names the reference beside it, or none where that is not shown"
            )
            orders.add(tuple(got))
        assert len(orders) > 1, "the order is shuffled"
    assert fixed("x", six, "crop", 4).references.flatten().tolist() == [0, 1, 2, 3]
    assert fixed("x", six, "crop", 4).text_subject.tolist() == [0, 1, 2, 3, 4, 0, 0]
    assert fixed("x", features(2), "crop", 4).references.flatten().tolist() == [0, 1]
    assert choose(("x", 0), features(0), odds, 3).references.shape[0] == 0


def test_words_of_candidates_that_are_not_shown_name_nobody() -> None:
    """A network with ``subject_ids`` has as many numbers as a step shows references."""
    six = features(6)
    for item in (fixed("x", six, "crop", 4), choose(("x", 1), six, {"crop": 1.0}, 3, epoch=1)):
        shown_subjects = item.reference_subject.tolist()
        assert sorted(shown_subjects) == [1, 2, 3, 4]
        assert sorted(item.text_subject.tolist()) == [0, 0, 0, 1, 2, 3, 4]
        word_of = {int(n): at for at, n in enumerate(item.text_subject) if n}
        for subject, reference in zip(shown_subjects, item.references.flatten(), strict=True):
            assert word_of[subject] == int(reference) + 1  # the first word names nobody


@pytest.mark.parametrize(("most", "read"), [(4, 6), (1, 6), (0, 0)])
def test_all_references_in_a_shard_reach_the_trainer(
    six_references: Path, tiny: Callable[..., Config], most: int, read: int
) -> None:
    config = tiny(f"data.max_references={most}")
    (sample,) = ShardIndex.open(six_references)
    clip = Reader(config.data).read(sample)
    assert len(clip.references) == read
    assert len({one.where for one in clip.references}) == read
