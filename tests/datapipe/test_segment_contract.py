"""What every segmenter owes the pipeline, embedded or production."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from detect_models import noise, segmenter, written

from s2v.datapipe.roles import Box, Segmenter

pytestmark = pytest.mark.assets

BACKENDS = ("u2netp", "segment_anything")
BOXES: list[Box] = [(10.0, 5.0, 70.0, 80.0), (60.5, 20.25, 150.0, 88.0)]
BANKS = ["person", "thing"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module", params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(root: Path, name: str) -> Segmenter:
    made = segmenter(root, name)
    made.load()
    return made


def test_masks_are_of_the_whole_frame_one_per_box_in_order(loaded: Segmenter, name: str) -> None:
    image = noise(90, 160)
    before = image.copy()
    made = loaded.segment(image, BOXES, BANKS)
    assert len(made) == len(BOXES)
    for one in made:
        assert one.mask.shape == (90, 160)
        assert one.mask.dtype == np.bool_
        assert one.score is None if name == "u2netp" else isinstance(one.score, float)
    assert np.array_equal(image, before)


def test_a_mask_does_not_depend_on_the_other_boxes(loaded: Segmenter) -> None:
    image = noise(90, 160, 2)
    for n, one in enumerate(loaded.segment(image, BOXES, BANKS)):
        (alone,) = loaded.segment(image, [BOXES[n]], [BANKS[n]])
        assert np.mean(one.mask != alone.mask) < 0.002, "rounding at the outline, no more"


def test_no_box_is_no_error(loaded: Segmenter) -> None:
    assert loaded.segment(noise(40, 60), [], []) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 40), (120, 37)])
def test_images_of_any_shape_get_masks_of_their_shape(
    loaded: Segmenter, size: tuple[int, int]
) -> None:
    height, width = size
    (one,) = loaded.segment(noise(height, width), [(0.0, 0.0, width, height)], ["thing"])
    assert one.mask.shape == size


def test_a_segmenter_travels_to_its_worker_before_it_is_loaded(
    root: Path, name: str, loaded: Segmenter
) -> None:
    sent = pickle.dumps(segmenter(root, name))
    assert len(sent) < 1_000_000, "weights are read by the worker, not sent to it"
    arrived: Segmenter = pickle.loads(sent)  # noqa: S301  what this test itself has pickled
    assert arrived.model_id == loaded.model_id
    arrived.load()
    (here,), (there,) = (m.segment(noise(90, 160), BOXES[:1], BANKS[:1]) for m in (loaded, arrived))
    assert np.array_equal(here.mask, there.mask)
    assert here.score == there.score


def test_the_id_tells_other_weights_and_other_masks_apart_without_loading(root: Path) -> None:
    plain = segmenter(root, "segment_anything")
    other = segmenter(root, "segment_anything", weights=str(written(root, "sam", 1)))
    several = segmenter(root, "segment_anything", multimask=True)
    assert len({plain.model_id, other.model_id, several.model_id}) == 3
    assert segmenter(root, "segment_anything", box_batch=1).model_id == plain.model_id
