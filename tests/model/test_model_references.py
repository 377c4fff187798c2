"""References as the release prepares them, and changed so that pasting does not pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from s2v.datapipe.base import shards
from s2v.model.config import ReferenceAugmentConfig
from s2v.model.data import augment_references
from s2v.model.data.augment_references import Recipe, apply, draw
from s2v.model.data.reader import _flips
from s2v.model.data.references import Reference, fit_and_pad

ALWAYS = ReferenceAugmentConfig(odds=1.0)


def _picture(h: int, w: int) -> np.ndarray:
    random = np.random.default_rng(h * 1000 + w)
    y, x = np.mgrid[:h, :w]
    waves = np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 9)], -1)
    return (127 + 80 * waves + random.integers(-20, 20, (h, w, 3))).clip(0, 255).astype(np.uint8)


def _reference(h: int = 40, w: int = 30) -> Reference:
    mask = np.zeros((h, w), np.bool_)
    mask[5:-5, 5:-8] = True
    return Reference(_picture(h, w), mask, "here")


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (97, 161), (48, 80)])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (333, 577), (97, 161), (7, 5), (50, 83)])
def test_it_is_the_releases_preparation_to_the_pixel(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    image = _picture(*shape)
    h, w = size
    img = Image.fromarray(image)
    img_ratio = img.width / img.height
    to = (w, int(w / img_ratio)) if img_ratio > w / h else (int(h * img_ratio), h)
    img = img.resize(to, Image.Resampling.LANCZOS)
    dw, dh = w - img.size[0], h - img.size[1]
    padding = (dw // 2, dh // 2, dw - dw // 2, dh - dh // 2)
    wanted = np.asarray(ImageOps.expand(img, padding, fill=(255, 255, 255)))
    assert np.array_equal(fit_and_pad(image, size, "white"), wanted)


def test_padding_has_the_colour_that_is_asked_for() -> None:
    image = np.full((10, 10, 3), 7, np.uint8)
    for pad, value in (("white", 255), ("grey", 128), ("black", 0)):
        out = fit_and_pad(image, (20, 60), pad)
        assert (out[:, :20] == value).all()
        assert (out[:, 20:40] == 7).all()
        assert (out[:, 40:] == value).all()
    assert fit_and_pad(np.zeros((900, 1, 3), np.uint8), (16, 16), "white").shape == (16, 16, 3)


def test_changes_depend_on_sample_variant_and_reference_only() -> None:
    one = draw(ALWAYS, "s", 1, 0, flips=True)
    assert one == draw(ALWAYS, "s", 1, 0, flips=True)
    for other in (("t", 1, 0), ("s", 2, 0), ("s", 1, 1)):
        assert draw(ALWAYS, *other, flips=True) != one
    reference = _reference()
    a, b = apply(reference, one), apply(reference, one)
    assert np.array_equal(a.crop, b.crop)
    # One limit changes no other draw.
    still = draw(ALWAYS.model_copy(update={"rotate": 0.0}), "s", 1, 0, flips=True)
    assert replace(still, rotate=one.rotate) == one


def test_the_sample_itself_is_never_changed_and_off_is_off() -> None:
    assert draw(ALWAYS, "s", 0, 0, flips=True) == Recipe()
    assert draw(ReferenceAugmentConfig(), "s", 3, 0, flips=True) == Recipe()
    reference = _reference()
    assert apply(reference, Recipe()) is reference


def test_each_change_happens_as_often_as_asked_and_within_its_limit() -> None:
    config = ReferenceAugmentConfig(odds=0.3)
    drawn = [draw(config, f"s{i}", 1, 0, flips=True) for i in range(2000)]
    rates = {
        "rotate": sum(r.rotate != 0 for r in drawn),
        "shear": sum(r.shear != 0 for r in drawn),
        "downscale": sum(r.downscale != 1 for r in drawn),
        "blur": sum(r.blur != 0 for r in drawn),
        "jitter": sum(r.jitter is not None for r in drawn),
        "brightness": sum(r.brightness != 0 for r in drawn),
        "noise": sum(r.noise != 0 for r in drawn),
        "flip twice": 2 * sum(r.flip for r in drawn),
    }
    for name, n in rates.items():
        assert n / 2000 == pytest.approx(0.3, abs=0.06), name
    assert max(abs(r.rotate) for r in drawn) <= config.rotate
    assert max(r.downscale for r in drawn) <= config.downscale
    assert max(r.noise for r in drawn) <= config.noise


def test_a_face_is_never_flipped() -> None:
    drawn = [draw(ALWAYS, f"s{i}", 1, 0, flips=False) for i in range(500)]
    assert not any(r.flip for r in drawn)
    assert any(r.flip for r in (draw(ALWAYS, f"s{i}", 1, 0, flips=True) for i in range(20)))


@pytest.mark.parametrize(
    ("class_", "category", "face", "flips"),
    [
        ("thing", None, None, True),
        ("creature", "animal", None, True),
        ("person", None, None, False),
        ("creature", "human", None, False),
        ("thing", None, 0.4, False),
    ],
)
def test_who_has_a_face_is_read_from_the_sample(
    class_: str, category: str | None, face: float | None, flips: bool
) -> None:
    said = shards.Reference(
        subject_id="s", identity_id=None, phrase="x", span=(0, 1), class_=class_, noun="x",
        box=(0, 0, 1, 1),
        from_=shards.ReferenceSource(clip_id="c", pts_us=0, source="v", licence=None),
        scores=shards.ReferenceScores(face_similarity=face), verdicts=shards.Verdicts(),
        category=category,
    )  # fmt: skip
    assert _flips(said) is flips


def test_each_change_does_what_its_name_says(tmp_path: Path) -> None:
    reference = _reference()
    crop = reference.crop.astype(float)
    flipped = apply(reference, Recipe(flip=True))
    assert np.array_equal(flipped.crop, reference.crop[:, ::-1])
    assert flipped.mask is not None
    assert np.array_equal(flipped.mask, reference.mask[:, ::-1])
    brighter = apply(reference, Recipe(brightness=0.1)).crop.astype(float)
    assert (brighter - crop)[crop < 200].mean() == pytest.approx(25.5, abs=1)
    redder = apply(reference, Recipe(jitter=(1.2, 1.0, 1.0))).crop.astype(float)
    assert np.array_equal(redder[..., 1:], crop[..., 1:])
    assert redder[..., 0].mean() > crop[..., 0].mean()
    rough = apply(reference, Recipe(noise=0.05, noise_seed=3)).crop.astype(float)
    assert (rough - crop)[(crop > 60) & (crop < 190)].std() == pytest.approx(12.75, rel=0.15)

    def detail(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image.astype(float), axis=1)).mean())

    assert detail(apply(reference, Recipe(blur=0.05)).crop) < 0.5 * detail(crop)
    coarse = apply(reference, Recipe(downscale=4.0)).crop
    assert coarse.shape == reference.crop.shape
    assert detail(coarse) < 0.7 * detail(crop)


@pytest.mark.parametrize(
    ("rotate", "shear"), [(90.0, 0.0), (12.0, 0.0), (0.0, 30.0), (-20.0, 10.0)]
)
def test_turning_keeps_the_subject_whole(rotate: float, shear: float) -> None:
    reference = _reference()
    turned = apply(reference, Recipe(rotate=rotate, shear=shear))
    assert turned.mask is not None
    assert reference.mask is not None
    assert turned.crop.shape[:2] == turned.mask.shape
    # Both keep areas; the mask is not cut at any side.
    assert turned.mask.sum() == pytest.approx(reference.mask.sum(), rel=0.03)
    assert not turned.mask[0].any()
    assert not turned.mask[:, 0].any()
    if rotate == 90.0:
        assert np.abs(turned.crop.astype(int) - np.rot90(reference.crop)).max() <= 1
        assert np.array_equal(turned.mask, np.rot90(reference.mask))
    else:
        assert (turned.crop[0, 0] == 255).all()  # what comes in is white


def test_every_recipe_gives_an_image() -> None:
    wild = ReferenceAugmentConfig(odds=1.0, downscale=16, blur=0.1, shear=45, rotate=180, noise=1.0)
    for i in range(30):
        out = apply(_reference(3 + i, 2 + i // 2 + 12), draw(wild, f"s{i}", 1, 0, flips=True))
        assert out.crop.dtype == np.uint8
        assert out.mask is None or out.mask.any()
    assert augment_references.Recipe() == Recipe()
