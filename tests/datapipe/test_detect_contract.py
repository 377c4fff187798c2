"""What every detector owes the pipeline, embedded or production, whoever wrote the net."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import skimage
from detect_models import detector, noise, phrase, written
from PIL import Image as Pictures

from s2v.datapipe.roles import Detector, Grounding, Image

pytestmark = pytest.mark.assets

BACKENDS = ("proposals", "grounding_dino", "groundingdino_py")
PHRASES = [
    phrase("a person"),
    phrase("a grey animal", "animal", "creature"),
    phrase("a red car", "car", "thing"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module", params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(root: Path, name: str) -> Detector:
    made = detector(root, name)
    made.load()
    return made


def astronaut() -> Image:
    picture = Pictures.open(Path(skimage.__file__).parent / "data" / "astronaut.png")
    return np.asarray(picture.convert("RGB").resize((256, 256)))


def test_boxes_are_pixels_inside_the_image_they_were_found_on(loaded: Detector, name: str) -> None:
    images = [astronaut(), noise(90, 160), noise(160, 90, 1)]
    found = loaded.ground(images, PHRASES)
    assert len(found) == len(images)
    assert found[0], "something is found on a photograph of a person"
    for image, hits in zip(images, found, strict=True):
        height, width = image.shape[:2]
        for hit in hits:
            x0, y0, x1, y1 = hit.box
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert 0 <= hit.phrase < len(PHRASES)
            assert 0 <= hit.score <= 1
    if name != "proposals":  # the embedded one knows no noise
        assert all(found)


def test_asking_twice_gives_the_same_answer_and_leaves_the_image_alone(loaded: Detector) -> None:
    image = noise(90, 160, 3)
    before = image.copy()
    assert loaded.ground([image], PHRASES) == loaded.ground([image], PHRASES)
    assert np.array_equal(image, before)


def test_a_frame_has_the_same_boxes_alone_and_beside_frames_of_other_sizes(
    loaded: Detector,
) -> None:
    images = [noise(90, 160, 1), noise(200, 64, 2), astronaut(), noise(90, 160, 4), noise(48, 48)]
    together = loaded.ground(images, PHRASES)
    for image, hits in zip(images, together, strict=True):
        alone = loaded.ground([image], PHRASES)[0]
        assert rounded(alone) == rounded(hits)


def test_no_phrase_or_no_image_is_no_error(loaded: Detector) -> None:
    assert loaded.ground([noise(60, 80)], []) == [[]]
    assert loaded.ground([], PHRASES) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 40), (40, 3), (7, 2000)])
def test_images_of_any_shape_are_looked_at(loaded: Detector, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    image[:, size[1] // 2 :] = (200, 30, 30)
    (hits,) = loaded.ground([image], PHRASES)
    for hit in hits:
        assert 0 <= hit.box[0] < hit.box[2] <= size[1]
        assert 0 <= hit.box[1] < hit.box[3] <= size[0]


def test_a_detector_travels_to_its_worker_before_it_is_loaded(
    root: Path, name: str, loaded: Detector
) -> None:
    sent = pickle.dumps(detector(root, name))
    assert len(sent) < 1_000_000, "weights are read by the worker, not sent to it"
    arrived: Detector = pickle.loads(sent)  # noqa: S301  what this test itself has pickled
    assert arrived.model_id == loaded.model_id
    arrived.load()
    assert arrived.ground([astronaut()], PHRASES) == loaded.ground([astronaut()], PHRASES)


@pytest.mark.parametrize("option", [{"box_threshold": 0.3}, {"phrases_per_pass": 1}])
@pytest.mark.parametrize("production", ["grounding_dino", "groundingdino_py"])
def test_the_id_tells_answers_apart_that_other_options_give(
    root: Path, production: str, option: dict[str, float]
) -> None:
    plain = detector(root, production)
    assert detector(root, production, **option).model_id != plain.model_id
    assert detector(root, production, batch=1, device="cpu").model_id == plain.model_id


def test_the_id_tells_other_weights_apart_without_loading_them(root: Path) -> None:
    other = detector(root, "grounding_dino", weights=str(written(root, "grounding_dino", 1)))
    assert other.model_id != detector(root, "grounding_dino").model_id


def rounded(hits: list[Grounding]) -> list[tuple[int, tuple[float, ...], float]]:
    """Hits as the stage stores them, but for the last digit of the score."""
    return [(h.phrase, tuple(round(v) for v in h.box), round(h.score, 3)) for h in hits]
