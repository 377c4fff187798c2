"""A sampler that skips or repeats frames moves every score without a word."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.evals import frames

SAMPLERS = [frames.linspace_inclusive, frames.interval_middle, frames.floor_i, frames.every]


def test_published_samplings_of_a_twenty_frame_video() -> None:
    assert frames.linspace_inclusive(20, 5) == [0, 4, 9, 14, 19]
    assert frames.interval_middle(20, 5) == [1, 5, 9, 13, 17]
    assert frames.stride_head(20, 6) == [0, 3, 6, 9, 12, 15]
    assert frames.floor_i(20, 6) == [0, 3, 6, 10, 13, 16]
    assert frames.every(3) == [0, 1, 2]


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(n=st.integers(1, 400), k=st.integers(1, 64))
def test_indices_exist_ascend_and_never_repeat(sampler: frames.Sampler, n: int, k: int) -> None:
    picked = sampler(n, k)
    assert picked == sorted(set(picked))
    assert picked[0] >= 0
    assert picked[-1] < n
    assert len(picked) == (n if sampler is frames.every else min(n, k))


@given(n=st.integers(2, 400), k=st.integers(2, 64))
def test_linspace_sees_the_first_and_the_last_frame(n: int, k: int) -> None:
    picked = frames.linspace_inclusive(n, k)
    assert (picked[0], picked[-1]) == (0, n - 1)


def test_linspace_is_numpys_truncation_as_the_published_harnesses_use_it() -> None:
    for n in (81, 125, 49):
        assert frames.linspace_inclusive(n, 16) == list(np.linspace(0, n - 1, 16, dtype=int))


def test_the_stride_that_misses_the_tail_refuses_short_videos() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        frames.stride_head(7, 8)


@pytest.mark.parametrize("sampler", [*SAMPLERS, frames.stride_head])
def test_a_video_without_frames_is_an_error_not_an_empty_mean(sampler: frames.Sampler) -> None:
    with pytest.raises(ValueError, match="cannot sample"):
        sampler(0, 4)


@pytest.mark.parametrize(("fps", "step"), [(8, 1), (16, 2), (24, 3), (60, 7), (5, 1)])
def test_flow_pairs_are_an_eighth_of_a_second_apart_at_any_rate(fps: int, step: int) -> None:
    times = [round(i * 1e6 / fps) for i in range(4 * fps)]
    pairs = frames.near_pairs(times, 8, 125_000)
    assert len(pairs) == 8
    assert {j - i for i, j in pairs} <= {step, step + 1}
    assert pairs[0][0] == 0
    assert times[-1] - times[pairs[-1][1]] < 130_000


def test_pairs_follow_time_where_frames_are_unevenly_spaced() -> None:
    times = [0, 10_000, 20_000, 125_000, 1_000_000, 1_125_000]
    assert frames.near_pairs(times, 8, 125_000)[0] == (0, 3)
    assert all(i < j < len(times) for i, j in frames.near_pairs(times, 8, 125_000))


def test_a_still_has_no_pairs_and_two_frames_have_one() -> None:
    assert frames.near_pairs([0], 8, 125_000) == []
    assert frames.near_pairs([0, 40_000], 8, 125_000) == [(0, 1)]
