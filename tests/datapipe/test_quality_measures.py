"""Quality scores: each moves with its fault, and only with its own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.embedded.niqe import Niqe, read_mat
from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.base.media.phash import hamming, perceptual_hash, perceptual_hashes
from s2v.datapipe.measure.technical import blockiness, exposure, saturation, sharpness
from s2v.datapipe.roles import Image

pytestmark = pytest.mark.assets
PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "quokka")


@pytest.fixture(scope="module")
def niqe() -> Niqe:
    return Niqe.from_assets()


def photograph(name: str) -> Image:
    return np.asarray(load_image(asset(name)), np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])


def blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_naturalness_gets_worse_with_blur_and_compression(niqe: Niqe, name: str) -> None:
    image = photograph(name)
    scores = [niqe.score(blurred(image, sigma)) for sigma in (0.01, 1.5, 3)]
    assert scores == sorted(scores), "blur"
    assert niqe.score(jpeg(image, 8)) > niqe.score(image) + 0.5, "JPEG"  # type: ignore[operator]  # large enough


@pytest.mark.parametrize("name", ["astronaut", "rocket"])
def test_naturalness_gets_worse_with_noise(niqe: Niqe, name: str) -> None:
    image = photograph(name)
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    assert niqe.score(noisy) > niqe.score(image) + 1  # type: ignore[operator]  # large enough


def test_naturalness_is_the_published_one(niqe: Niqe) -> None:
    """scikit-video 1.1.11's own code gives 8.354, 8.838 and 9.706 for these photographs.

    It was run once with Pillow in place of ``scipy.misc.imresize``, which scipy no longer has;
    the differences left are its float32 sums.
    """
    found = [niqe.score(photograph(name)) for name in ("coffee", "astronaut", "rocket")]
    assert found == pytest.approx([8.354, 8.838, 9.706], abs=0.02)


def test_a_picture_too_small_for_the_statistics_has_no_naturalness(niqe: Niqe) -> None:
    assert niqe.score(np.zeros((191, 400, 3), np.uint8)) is None
    assert niqe.score(np.full((200, 400, 3), 90, np.uint8)) is not None, "flat, but measured"


def test_damaged_statistics_are_named_with_the_way_out(tmp_path: Path) -> None:
    whole = asset("niqe").read_bytes() if asset("niqe").is_file() else None
    source = next(Path(asset("niqe")).glob("*.mat")) if whole is None else asset("niqe")
    data = source.read_bytes()
    stored = read_mat(source)
    assert {name: matrix.shape for name, matrix in stored.items()} == {
        "pop_mu": (1, 36),
        "pop_cov": (36, 36),
    }
    assert np.array_equal(stored["pop_cov"], stored["pop_cov"].T)
    path = tmp_path / "params.mat"
    for broken in (b"", data[:100], data[: len(data) // 2], b"\0" * len(data), data + b"junk"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"params\.mat: .*s2v-data assets fetch niqe"):
            read_mat(path)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_blocks_are_found_wherever_the_crop_begins(name: str) -> None:
    image = photograph(name)
    coarse = jpeg(image, 5)
    clean = blockiness(image)
    for x, y in ((0, 0), (2, 6), (4, 4)):
        assert blockiness(np.ascontiguousarray(coarse[y:, x:])) > max(0.7, 3 * clean)
    assert clean < 0.35
    assert blockiness(blurred(image, 3)) < 0.35, "blur is not taken for blocks"


def test_blocks_that_were_scaled_are_not_seen_and_that_is_said() -> None:
    coarse = jpeg(photograph("coffee"), 5)
    scaled = cv2.resize(coarse, None, fx=0.81, fy=0.81, interpolation=cv2.INTER_AREA)
    assert blockiness(np.asarray(scaled, np.uint8)) < 0.35
    assert "read near 0 however blocky" in " ".join((blockiness.__doc__ or "").split())


def test_sharpness_falls_with_blur_and_hardly_with_size() -> None:
    image = photograph("quokka")
    values = [sharpness(blurred(image, sigma)) for sigma in (0.01, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    double = cv2.resize(image, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
    assert sharpness(np.asarray(double, np.uint8)) == pytest.approx(values[0], rel=0.25)


def test_crushed_and_blown_parts_are_told_apart() -> None:
    image = photograph("coffee")
    dark = (image // 40).astype(np.uint8)
    bright = np.clip(image.astype(int) * 4, 0, 255).astype(np.uint8)
    assert exposure(dark)[0] > 0.5 > exposure(image)[0]
    assert exposure(bright)[1] > 0.3 > exposure(image)[1]
    assert exposure(dark)[1] == 0
    half = np.zeros((10, 10, 3), np.uint8)
    half[:, :5] = 255
    assert exposure(half) == (0.5, 0.5)


def test_a_grey_picture_has_no_saturation() -> None:
    grey = np.repeat(photograph("coffee")[:, :, :1], 3, axis=2)
    assert saturation(np.ascontiguousarray(grey)) == 0
    assert saturation(photograph("coffee")) > 0.5


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_mirrors_hash_is_the_hash_of_the_mirror_image(name: str) -> None:
    image = photograph(name)
    straight, mirrored = perceptual_hashes(image)
    assert straight == perceptual_hash(image)
    flipped = np.ascontiguousarray(image[:, ::-1])
    assert hamming(mirrored, perceptual_hash(flipped)) <= 2
    assert hamming(straight, mirrored) > 10, "and is another one"
