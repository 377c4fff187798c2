"""Boxes and masks: what every gate on size, overlap and area stands on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from s2v.datapipe.base.media import boxes, masks

corner = st.floats(-50, 250, allow_nan=False)
any_box = st.tuples(corner, corner, corner, corner)
real_box = st.tuples(corner, corner, st.floats(1, 90), st.floats(1, 90)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
any_mask = arrays.arrays(
    np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.booleans()
)


def test_known_overlaps() -> None:
    assert boxes.iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert boxes.iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert boxes.iou((0, 0, 10, 10), (10, 10, 20, 20)) == 0
    assert boxes.iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0
    assert boxes.area_share((0, 0, 64, 48), 640, 480) == pytest.approx(0.01)
    assert boxes.area_share((-64, 0, 64, 48), 640, 480) == pytest.approx(0.01)


@settings(deadline=None)  # a busy machine is not an error
@given(real_box, real_box)
def test_overlap_is_symmetric_and_bounded(a: boxes.Box, b: boxes.Box) -> None:
    assert boxes.iou(a, b) == pytest.approx(boxes.iou(b, a))
    assert 0 <= boxes.iou(a, b) <= 1 + 1e-9
    assert boxes.iou(a, a) == pytest.approx(1)
    moved = [tuple(v + 7 for v in box) for box in (a, b)]
    assert boxes.iou(*moved) == pytest.approx(boxes.iou(a, b), abs=1e-6)


@settings(deadline=None)
@given(st.lists(any_box, min_size=1, max_size=5), st.lists(any_box, min_size=1, max_size=5))
def test_the_matrix_is_made_of_single_overlaps(a: list[boxes.Box], b: list[boxes.Box]) -> None:
    matrix = boxes.iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b))
    for i, first in enumerate(a):
        for j, second in enumerate(b):
            assert matrix[i, j] == pytest.approx(boxes.iou(first, second))


@settings(deadline=None)
@given(any_box)
def test_clipping_stays_inside_and_happens_once(box: boxes.Box) -> None:
    inside = boxes.clip(box, 200, 100)
    assert 0 <= inside[0] <= inside[2] <= 200
    assert 0 <= inside[1] <= inside[3] <= 100
    assert boxes.clip(inside, 200, 100) == inside


@settings(deadline=None)
@given(real_box, st.floats(0, 1))
def test_a_crop_holds_its_box_and_is_never_empty(box: boxes.Box, margin: float) -> None:
    image = np.arange(100 * 200).reshape(100, 200)
    if boxes.area(boxes.clip(box, 200, 100)) == 0:
        with pytest.raises(ValueError, match="no area"):
            boxes.crop(image, box, margin)
        return
    part, (x0, y0, x1, y1) = boxes.crop(image, box, margin)
    assert part.size > 0
    np.testing.assert_array_equal(part, image[y0:y1, x0:x1])
    inside = boxes.clip(box, 200, 100)
    assert x0 <= inside[0]
    assert y0 <= inside[1]
    assert x1 >= inside[2]
    assert y1 >= inside[3]
    assert part.base is None, "a crop does not keep its frame in memory"


def test_a_margin_is_a_share_of_the_longer_side() -> None:
    assert boxes.expand((50, 40, 70, 50), 0.1, 200, 100) == (48, 38, 72, 52)
    assert boxes.expand((0, 0, 20, 10), 0.5, 200, 100) == (0, 0, 30, 20)


def square() -> np.ndarray:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    return mask


def disc() -> np.ndarray:
    y, x = np.mgrid[:60, :80]
    return np.asarray((y - 30) ** 2 + (x - 40) ** 2 < 400)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (square(), "92203"),
        (np.ones((3, 3), bool), "09"),
        (np.zeros((480, 640), bool), "PP\\9"),
        (disc(), "TX1=]14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N"
                 "3L4LjT1"),
    ],
)  # fmt: skip
def test_strings_are_the_ones_coco_tools_write(mask: np.ndarray, counts: str) -> None:
    rle = masks.encode(mask)
    assert rle == {"size": list(mask.shape), "counts": counts}
    np.testing.assert_array_equal(masks.decode(rle), mask)


@settings(deadline=None)
@given(any_mask)
def test_masks_survive_their_string_and_agree_with_pycocotools(mask: np.ndarray) -> None:
    rle = masks.encode(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle["counts"] == theirs["counts"].decode()
    np.testing.assert_array_equal(masks.decode(rle), mask)
    assert masks.area(rle) == int(mask.sum())
    assert masks.area_share(rle) == pytest.approx(mask.mean())
    around = masks.bounding_box(mask)
    if around is None:
        assert not mask.any()
    else:
        x0, y0, x1, y1 = around
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        x, y, width, height = coco.toBbox(theirs)
        assert around == (x, y, x + width, y + height)


def test_overlap_of_masks() -> None:
    a, b = square(), np.roll(square(), 1, axis=1)
    assert masks.iou(a, b) == pytest.approx(2 / 6)
    assert masks.iou(a, a) == 1
    assert masks.iou(a & False, b & False) == 0
    with pytest.raises(ValueError, match="do not compare"):
        masks.iou(a, disc())


@pytest.mark.parametrize("counts", ["9220", "92203\x7f", "92203~", "o", "9220Z", ""])
def test_a_mangled_string_is_refused_and_not_decoded_to_something(counts: str) -> None:
    with pytest.raises(ValueError, match="run"):
        masks.decode({"size": [4, 5], "counts": counts})


def test_a_mask_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        masks.encode(np.ones((3, 3), np.uint8))
