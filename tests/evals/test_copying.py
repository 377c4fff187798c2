"""Copying: a pasted reference scores as one; the same subject, seen otherwise, does not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2v.datapipe.base.assets import asset
from s2v.evals import media
from s2v.evals.encoders.production import Encoders
from s2v.evals.metrics import build, protocols
from s2v.evals.metrics.base import Case, Peer, RefImage
from s2v.evals.metrics.copying import outline, overlap, pasted, without_subject


def textured(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth random colours, so that shrinking keeps what correlates."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size / 2
    return x**2 + y**2 < (0.45 * size) ** 2


@pytest.fixture
def subject() -> tuple[np.ndarray, np.ndarray]:
    """A textured disc in a grey square, and its mask."""
    mask = disc(96)
    image = np.full((96, 96, 3), 128, np.uint8)
    image[mask] = textured(1, 96, 96)[mask]
    return image, mask


def on(
    ground: np.ndarray, subject: tuple[np.ndarray, np.ndarray], size: int, at: tuple[int, int]
) -> np.ndarray:
    """``ground`` with the subject of that size in it."""
    image, mask = (cv2.resize(x.astype(np.uint8), (size, size)) for x in subject)
    out = ground.copy()
    here = out[at[0] : at[0] + size, at[1] : at[1] + size]
    here[mask > 0] = image[mask > 0]
    return out


def test_a_reference_that_is_pasted_anywhere_at_any_size_is_found(
    subject: tuple[np.ndarray, np.ndarray],
) -> None:
    ground = textured(2, 192, 320)
    image, mask = subject
    for size, at in ((106, (40, 100)), (160, (10, 20))):
        assert pasted(image, mask, on(ground, subject, size, at)) > 0.9
    mirrored = image[:, ::-1].copy(), mask[:, ::-1].copy()
    assert pasted(image, mask, on(ground, mirrored, 106, (40, 100))) > 0.9
    brighter = on(ground, subject, 106, (40, 100)) // 2 + 60
    assert pasted(image, mask, brighter) > 0.9
    assert pasted(image, mask, ground) < 0.7


def test_a_turned_subject_is_not_taken_for_a_pasted_one(
    subject: tuple[np.ndarray, np.ndarray],
) -> None:
    image, mask = subject
    turned = np.ascontiguousarray(np.rot90(image)), np.ascontiguousarray(np.rot90(mask))
    ground = textured(2, 192, 320)
    assert pasted(image, mask, on(ground, turned, 106, (40, 100))) < 0.75


def test_a_flat_frame_or_a_sliver_copies_nothing(subject: tuple[np.ndarray, np.ndarray]) -> None:
    image, mask = subject
    assert pasted(image, mask, np.full((96, 160, 3), 90, np.uint8)) == 0
    thin = np.zeros((96, 96), bool)
    thin[:, 40:42] = True
    assert pasted(image, thin, textured(3, 96, 160)) == 0


def test_outlines_are_compared_whatever_their_size_and_place() -> None:
    small, large = np.zeros((50, 80), bool), np.zeros((200, 200), bool)
    small[5:29, 10:34] = disc(24)
    large[20:180, 30:190] = disc(160)
    assert overlap(outline(small), outline(large)) > 0.9
    square = np.ones((20, 20), bool)
    assert overlap(outline(square), outline(large)) == pytest.approx(np.pi / 4, abs=0.05)
    with pytest.raises(ValueError, match="empty"):
        outline(np.zeros((5, 5), bool))


def test_a_background_is_what_is_left_without_the_subject() -> None:
    image = np.full((40, 40, 3), 10, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    image[mask] = 250
    assert without_subject(image, mask) is not None
    assert int(without_subject(image, mask).max()) == 10  # type: ignore[union-attr]  # just seen
    assert without_subject(image, np.ones((40, 40), bool)) is None


def test_copying_is_a_suite_of_its_own_and_light_stays_what_it_was() -> None:
    assert [p for p in protocols("light") if p.startswith("copy")] == []
    assert protocols("copy") == (
        "copy.light.paste", "copy.light.leak", "copy.light.pose", "copy.light.background",
    )  # fmt: skip


def test_a_reference_that_is_shown_once_leaks_though_the_mean_is_innocent(
    subject: tuple[np.ndarray, np.ndarray],
) -> None:
    ground = textured(2, 96, 160)
    frames = [on(ground, subject, 56, (20, 50)), *[textured(n, 96, 160) for n in range(3, 14)]]
    case = Case(dict(enumerate(frames)), list(range(12)), (RefImage(*subject),))
    mean, leak = (m.measure(case) for m in build("copy.light.paste,copy.light.leak"))
    assert mean.score is not None
    assert leak.score is not None
    assert leak.score > 0.9
    assert mean.score < 0.75
    assert leak.parts["when"] == 0.0


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders()


@pytest.mark.assets
def test_a_video_that_shows_its_reference_as_it_is_scores_above_one_that_does_not(
    encoders: Encoders,
) -> None:
    """A real photograph, its real segmentation: shown as it is, and turned into another pose."""
    image = cv2.resize(media.read_image(asset("quokka")), (320, 240), interpolation=cv2.INTER_AREA)
    mask = encoders.segmenter.mask(image)
    turned = np.ascontiguousarray(np.rot90(image))
    ground = textured(5, *image.shape[:2])
    copied = [image] * 3
    other = [cv2.resize(turned, image.shape[1::-1])] * 3
    scores = {}
    for metric in build("copy", encoders):
        found = [
            metric.measure(Case(dict(enumerate(frames)), [0, 1, 2], (RefImage(image, mask),)))
            for frames in (copied, other, [ground] * 3)
        ]
        scores[metric.spec.protocol] = [m.score for m in found]
        peers = [Peer(str(n), "", m) for n, m in enumerate(found)]
        assert len(metric.baselines(peers)) == 3
    for protocol in ("copy.light.paste", "copy.light.pose"):
        same, turned_score, _ = scores[protocol]
        assert same is not None
        assert turned_score is not None
        assert same > 0.9
        assert turned_score < same - 0.1
    around = scores["copy.light.background"]
    assert around[0] is None or around[0] > 0.95


def test_what_has_no_reference_is_not_measured(encoders: Encoders) -> None:
    frames = {i: textured(i, 48, 80) for i in range(3)}
    for metric in build("copy", encoders):
        assert metric.measure(Case(frames, [0, 1, 2])).status == "not_applicable"
