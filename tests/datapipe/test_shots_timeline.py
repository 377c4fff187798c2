"""Every moment of a window becomes a clip or a dropped span, whatever was detected in it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.measure.timeline import GRADUAL, TOO_SHORT, TRIM, Lengths, cut_shots, unite

LENGTHS = Lengths(trim_frames=3, min_us=2_000_000, max_us=10_000_000)
FRAME = 1_000_000 / 24


def even(frames: int, fps: float = 24) -> list[int]:
    """Edges of frames at an even rate, rounded as time stamps are."""
    return [round(n * 1e6 / fps) for n in range(frames + 1)]


edges = st.lists(st.sampled_from([16_683, 33_367, 41_667, 500_000, 3_000_000]), max_size=400).map(
    lambda steps: [0, *(sum(steps[: n + 1]) for n in range(len(steps)))]
)
spans = st.lists(
    st.tuples(st.integers(-20, 400), st.integers(0, 60)).map(lambda s: (s[0], s[0] + s[1])),
    max_size=6,
)
lengths = st.builds(
    Lengths,
    trim_frames=st.integers(0, 5),
    min_us=st.integers(100_000, 3_000_000),
    max_us=st.integers(3_000_001, 12_000_000),
)


@settings(max_examples=120, deadline=None)
@given(
    edges,
    st.lists(st.integers(-5, 420), max_size=30),
    spans,
    lengths,
    st.sampled_from(["source", "window"]),
    st.sampled_from(["source", "window"]),
)
def test_no_moment_is_lost_or_there_twice(
    edges: list[int],
    cuts: list[int],
    gradual: list[tuple[int, int]],
    lengths: Lengths,
    start: str,
    end: str,
) -> None:
    pieces = cut_shots(edges, cuts, gradual, lengths, (start, end))  # type: ignore[arg-type]  # literals drawn
    frames = len(edges) - 1
    assert [p.first for p in pieces[:1]] == [0] * bool(frames)
    assert all(a.last == b.first for a, b in pairwise(pieces))
    assert [p.last for p in pieces[-1:]] == [frames] * bool(frames)
    assert all(p.first < p.last for p in pieces)
    for piece in pieces:
        inside = range(piece.first, piece.last)
        if piece.reason == GRADUAL:
            assert any(a < piece.last and b > piece.first for a, b in gradual)
        else:
            assert not any(max(a, piece.first) < min(b, piece.last) for a, b in gradual)
        if piece.reason is None:
            assert not any(c in inside[1:] for c in cuts), "a clip holds one shot"
            assert edges[piece.last] - edges[piece.first] >= lengths.min_us - 500
            assert piece.starts_with is not None
            assert piece.ends_with is not None
        else:
            assert piece.starts_with is piece.ends_with is None


def test_a_shot_is_trimmed_and_its_ends_say_what_bounds_it() -> None:
    pieces = cut_shots(even(240), [96], [(180, 190)], LENGTHS)
    assert [(p.first, p.last, p.reason, p.starts_with, p.ends_with) for p in pieces] == [
        (0, 3, TRIM, None, None),
        (3, 93, None, "source", "cut"),
        (93, 96, TRIM, None, None),
        (96, 99, TRIM, None, None),
        (99, 177, None, "cut", "gradual"),
        (177, 180, TRIM, None, None),
        (180, 190, GRADUAL, None, None),
        (190, 240, TOO_SHORT, None, None),
    ]


def test_a_shot_of_exactly_the_shortest_length_is_kept_at_every_rate() -> None:
    for fps in (23.976, 24, 25, 29.97, 30, 50, 59.94, 60):
        frames = -(-int(2 * fps * 1000) // 1000)
        while frames / fps < 2:
            frames += 1
        kept = cut_shots(even(frames + 6, fps), [], [], LENGTHS)
        assert [p.reason for p in kept] == [TRIM, None, TRIM], fps
        short = cut_shots(even(frames + 5, fps), [], [], LENGTHS)
        assert [p.reason for p in short] == [TOO_SHORT], fps


def test_a_long_shot_is_split_evenly_into_the_fewest_parts() -> None:
    clips = [p for p in cut_shots(even(24 * 25 + 6), [], [], LENGTHS) if p.reason is None]
    assert [p.last - p.first for p in clips] == [200, 200, 200]
    assert [(p.starts_with, p.ends_with) for p in clips] == [
        ("source", "length"),
        ("length", "length"),
        ("length", "source"),
    ]
    whole = [p for p in cut_shots(even(24 * 10 + 6), [], [], LENGTHS) if p.reason is None]
    assert [p.last - p.first for p in whole] == [240], "ten seconds are not more than ten"


def test_lengths_follow_the_time_stamps_and_not_the_frame_count() -> None:
    # Three seconds at 24 frames a second, then three at 6: the average is 15.
    uneven = [round(n * FRAME) for n in range(72)] + [3_000_000 + n * 166_667 for n in range(19)]
    pieces = cut_shots(uneven, [72], [], Lengths(0, 2_500_000, 2_800_000))
    assert [(p.first, p.last, p.reason) for p in pieces] == [
        (0, 36, TOO_SHORT),
        (36, 72, TOO_SHORT),
        (72, 81, TOO_SHORT),
        (81, 90, TOO_SHORT),
    ]
    pieces = cut_shots(uneven, [72], [], Lengths(0, 2_500_000, 10_000_000))
    assert [(p.first, p.last, p.reason) for p in pieces] == [(0, 72, None), (72, 90, None)]


def test_nothing_is_trimmed_where_only_the_window_ends() -> None:
    pieces = cut_shots(even(120), [], [], LENGTHS, ("window", "window"))
    assert [(p.first, p.last, p.starts_with, p.ends_with) for p in pieces] == [
        (0, 120, "window", "window")
    ]


def test_a_cut_inside_or_beside_a_gradual_transition_makes_no_splinter() -> None:
    pieces = cut_shots(even(240), [100, 105, 110, 111], [(100, 110)], LENGTHS)
    shots = [(p.first, p.last) for p in pieces if p.reason is None]
    assert shots[0] == (3, 97)
    assert shots[1] == (114, 237), "frame 110 is the span's end; 111 leaves one frame"


def test_two_detectors_that_nearly_agree_mean_one_cut() -> None:
    assert unite([10, 50], [11, 53, 90]) == [10, 50, 53, 90]
    assert unite([], [7]) == [7]
