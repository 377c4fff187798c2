"""Several people in one video: who is who, counted by hand."""

import numpy as np
import pytest

from s2v.evals.metrics.identities import (
    Frame,
    assign,
    continued,
    identity_score,
    overlap,
)

LEFT, RIGHT = [0, 0, 10, 10], [50, 0, 60, 10]


def frame(*rows: list[float], boxes: list[list[int]] | None = None) -> Frame:
    return Frame(np.array(rows, float), boxes or [LEFT, RIGHT])


def test_the_best_sum_wins_over_the_best_single_pair() -> None:
    assert assign([[0.9, 0.8], [0.8, 0.1]]) == [1, 0]
    assert assign([[0.9, 0.1], [0.2, 0.7]]) == [0, 1]


def test_a_missing_face_leaves_a_reference_over_and_no_face_leaves_all() -> None:
    assert assign([[0.2], [0.6]]) == [None, 0]
    assert assign(np.zeros((2, 0))) == [None, None]
    assert assign([[-0.3, 0.5], [-0.1, 0.4]]) == [1, None]


def test_boxes_go_on_by_overlap_alone() -> None:
    assert overlap(LEFT, [0, 0, 10, 20]) == pytest.approx(0.5)
    assert overlap(LEFT, RIGHT) == 0.0
    assert continued([LEFT, RIGHT], [[51, 0, 61, 10], [1, 0, 11, 10]]) == {0: 1, 1: 0}
    assert continued([LEFT], [RIGHT]) == {}


def test_two_people_who_keep_their_faces_succeed() -> None:
    score, parts = identity_score([frame([0.8, 0.1], [0.1, 0.6])] * 4, threshold=0.4)
    assert score == pytest.approx(0.7)
    assert parts["success"] == 1.0
    assert (parts["swaps"], parts["confusion_rate"], parts["unmatched_rate"]) == (0, 0, 0)


def test_a_swap_along_a_track_is_counted_and_no_success() -> None:
    before, after = frame([0.8, 0.1], [0.1, 0.8]), frame([0.1, 0.8], [0.8, 0.1])
    score, parts = identity_score([before, before, after, after], threshold=0.4)
    assert score == pytest.approx(0.8)
    assert (parts["swaps"], parts["success"]) == (2.0, 0.0)
    apart = Frame(after.similarities, [[100, 0, 110, 10], [150, 0, 160, 10]])
    assert identity_score([before, apart], threshold=0.4)[1]["swaps"] == 0.0


def test_a_face_that_looks_more_like_the_other_is_confusion_of_the_right_pair() -> None:
    # Both faces look like reference 1; one must be given to reference 0 all the same.
    _, parts = identity_score([frame([0.5, 0.3], [0.7, 0.8])], threshold=0.4)
    assert parts["confusion_rate"] == 0.5
    assert (parts["confusion_0_1"], parts["confusion_1_0"]) == (1.0, 0.0)


def test_a_person_who_is_missing_half_the_time_lowers_the_zero_score_only() -> None:
    both = frame([0.8, 0.1], [0.1, 0.8])
    one = Frame(np.array([[0.8], [0.1]]), [LEFT])
    score, parts = identity_score([both, one], threshold=0.4)
    assert score == pytest.approx(0.8)
    assert parts["unmatched_rate"] == 0.25
    assert parts["score_zero"] == pytest.approx(0.6)
    assert parts["success"] == 0.0


def test_nobody_there_scores_zero_and_nonsense_is_refused() -> None:
    score, parts = identity_score([Frame(np.zeros((2, 0)), [])], threshold=0.4)
    assert (score, parts["unmatched_rate"], parts["confusion_rate"]) == (0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        identity_score([frame([np.nan, 0], [0, 0])], threshold=0.4)
    with pytest.raises(ValueError, match="a frame and a reference"):
        identity_score([], threshold=0.4)


@pytest.mark.parametrize("references", [1, 2, 3])
def test_shuffling_the_faces_of_a_frame_changes_nothing(references: int) -> None:
    rng = np.random.default_rng(references)
    table = rng.uniform(0.1, 0.9, (references, 4))
    boxes = [[100 * i, 0, 100 * i + 50, 50] for i in range(4)]
    order = rng.permutation(4)
    straight = Frame(table, boxes)
    shuffled = Frame(table[:, order], [boxes[i] for i in order])
    one = identity_score([straight, straight], threshold=0.4)
    two = identity_score([straight, shuffled], threshold=0.4)
    assert one == two
