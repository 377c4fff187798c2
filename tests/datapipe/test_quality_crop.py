"""Crop arithmetic: nothing under an overlay is kept, as much as can be is, and edges are even."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from s2v.datapipe.base.media.boxes import area, overlap
from s2v.datapipe.measure.overlay_crop import (
    MAX_OBSTACLES,
    choose,
    free_of,
    inside_even,
    moved,
)

WIDTH, HEIGHT = 24, 18
edges = st.tuples(
    st.integers(-3, WIDTH), st.integers(-3, HEIGHT), st.integers(1, 12), st.integers(1, 9)
)
boxes = edges.map(lambda e: (float(e[0]), float(e[1]), float(e[0] + e[2]), float(e[1] + e[3])))
FRAME = (0.0, 0.0, float(WIDTH), float(HEIGHT))


def largest_by_force(obstacles: list[tuple[float, ...]]) -> int:
    """Area of the largest box of whole pixels without a covered pixel, all of them tried."""
    taken = np.zeros((HEIGHT, WIDTH), np.int64)
    for x0, y0, x1, y1 in obstacles:
        taken[max(int(y0), 0) : max(int(y1), 0), max(int(x0), 0) : max(int(x1), 0)] = 1
    sums = np.zeros((HEIGHT + 1, WIDTH + 1), np.int64)
    sums[1:, 1:] = taken.cumsum(axis=0).cumsum(axis=1)
    best = 0
    for y0 in range(HEIGHT):
        for y1 in range(y0 + 1, HEIGHT + 1):
            strip = sums[y1] - sums[y0]
            left = 0
            for right in range(1, WIDTH + 1):
                if strip[right] != strip[left]:
                    left = right if strip[right] != strip[right - 1] else left
                    while strip[right] != strip[left]:
                        left += 1
                best = max(best, (right - left) * (y1 - y0))
    return best


@settings(max_examples=120, deadline=None)
@given(st.lists(boxes, max_size=6))
def test_no_pixel_under_an_overlay_is_kept_and_no_larger_part_is_free(
    obstacles: list[tuple[float, ...]],
) -> None:
    found = free_of(FRAME, obstacles)
    if found is None:
        assert largest_by_force(obstacles) == 0
        return
    assert all(overlap(found, box) == 0 for box in obstacles)
    assert overlap(found, FRAME) == area(found)
    assert area(found) == largest_by_force(obstacles)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, min_size=MAX_OBSTACLES + 1, max_size=40))
def test_a_page_of_text_never_leaves_text_in_the_crop(obstacles: list[tuple[float, ...]]) -> None:
    found = free_of(FRAME, obstacles)
    assert found is None or all(overlap(found, box) == 0 for box in obstacles)


@settings(max_examples=200, deadline=None)
@given(st.lists(boxes, max_size=4), st.one_of(st.none(), boxes), st.floats(0.1, 1))
def test_a_crop_is_even_inside_the_picture_and_keeps_what_was_promised(
    obstacles: list[tuple[float, ...]], content: tuple[float, ...] | None, min_kept: float
) -> None:
    crop = choose(
        WIDTH, HEIGHT, content, [obstacles], lambda _: True, min_kept=min_kept, max_aspect=3.0
    )
    if crop is None:
        return
    assert all(v % 2 == 0 for v in crop)
    assert overlap(crop, FRAME) == area(crop) > 0
    picture = inside_even(content, WIDTH, HEIGHT) if content is not None else FRAME
    base = picture or FRAME
    assert overlap(crop, base) == area(crop), "never a part of the border"
    if crop != base:
        assert area(crop) >= min_kept * area(base)
        assert all(overlap(crop, box) == 0 for box in obstacles)


@given(boxes, boxes)
def test_boxes_counted_from_the_crop_cover_the_same_pixels(
    box: tuple[float, float, float, float], crop: tuple[float, float, float, float]
) -> None:
    inside = moved(box, crop)
    assert area(inside) == overlap(box, crop)
    if area(inside):
        assert (inside[0] + crop[0], inside[1] + crop[1]) == (
            max(box[0], crop[0]),
            max(box[1], crop[1]),
        )


def test_a_clip_that_is_dropped_anyway_stays_whole() -> None:
    subtitle = (4.0, 15.0, 20.0, 18.0)
    kept = {"min_kept": 0.6, "max_aspect": 3.0}
    assert choose(24, 18, None, [[subtitle]], lambda _: True, **kept) == (0, 0, 24, 14)
    assert choose(24, 18, None, [[subtitle]], lambda _: False, **kept) is None
    high = (4.0, 6.0, 20.0, 18.0)
    assert choose(24, 18, None, [[high]], lambda _: True, **kept) is None, "too little is left"
    assert choose(24, 18, (0.0, 2.0, 24.0, 16.0), [[high]], lambda _: True, **kept) == (
        *(0, 2, 24, 16),
    ), "borders go all the same"


def test_a_ribbon_of_a_picture_is_no_clip() -> None:
    band = (0.0, 16.0, 48.0, 24.0)
    assert choose(48, 24, None, [[band]], lambda _: True, min_kept=0.5, max_aspect=3.0) == (
        *(0, 0, 48, 16),
    )
    assert choose(48, 24, None, [[band]], lambda _: True, min_kept=0.5, max_aspect=2.5) is None
