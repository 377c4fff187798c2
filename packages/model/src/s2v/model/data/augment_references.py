"""References changed apart from their clip, so that pasting one does not pay.

Video Alchemist's list (downscale, blur, colour jitter, brightness, flip, shear, rotate) and
Concat-ID's noise. A change is a function of (sample, variant, reference); variant 0 of a sample
is never touched. Persons and faces are never flipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from s2v.model.config import ReferenceAugmentConfig
from s2v.model.data.references import Mask, Pixels, Reference
from s2v.model.rng import generator


@dataclass(frozen=True)
class Recipe:
    """What happens to one reference, in this order; 0, 1 or None where nothing does.

    Attributes:
        flip: mirrored.
        rotate: degrees, counter-clockwise.
        shear: degrees, of columns along rows.
        downscale: each side shrunk by this and grown back.
        blur: sigma in pixels over the short side.
        jitter: factors of R, G, B.
        brightness: added, in shares of white.
        noise: standard deviation, in shares of white.
        noise_seed: of the noise.
    """

    flip: bool = False
    rotate: float = 0.0
    shear: float = 0.0
    downscale: float = 1.0
    blur: float = 0.0
    jitter: tuple[float, float, float] | None = None
    brightness: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0


def draw(
    config: ReferenceAugmentConfig, sample_id: str, variant: int, k: int, *, flips: bool
) -> Recipe:
    """What reference ``k`` of a variant undergoes, a function of these.

    Args:
        config: odds and limits.
        sample_id: of the sample.
        variant: 0 is left as it is.
        k: number of the reference.
        flips: False for persons and faces.
    """
    if variant == 0 or config.odds == 0:
        return Recipe()
    random = generator(0, sample_id, variant, k, "augment-reference")
    # Every number is drawn whether it is used or not: one limit changes no other draw.
    happens = random.random(8) < config.odds
    part = random.random(8)
    signed = 2 * part - 1
    channels = 1 + config.jitter * (2 * random.random(3) - 1)
    seed = int(random.integers(2**31))
    return Recipe(
        flip=bool(happens[0] and config.flip and flips and part[0] < 0.5),
        rotate=float(signed[1] * config.rotate) if happens[1] else 0.0,
        shear=float(signed[2] * config.shear) if happens[2] else 0.0,
        downscale=float(config.downscale ** part[3]) if happens[3] else 1.0,
        blur=float(part[4] * config.blur) if happens[4] else 0.0,
        jitter=(float(channels[0]), float(channels[1]), float(channels[2])) if happens[5] else None,
        brightness=float(signed[6] * config.brightness) if happens[6] else 0.0,
        noise=float(part[7] * config.noise) if happens[7] else 0.0,
        noise_seed=seed,
    )


def apply(reference: Reference, recipe: Recipe) -> Reference:
    """The changed crop and mask; the canvas grows so that nothing is cut off, filled white."""
    if recipe == Recipe():
        return reference
    crop, mask = reference.crop, reference.mask
    if recipe.flip:
        crop = np.ascontiguousarray(crop[:, ::-1])
        mask = None if mask is None else np.ascontiguousarray(mask[:, ::-1])
    if recipe.rotate or recipe.shear:
        crop, mask = _turned(crop, mask, recipe.rotate, recipe.shear)
    return replace(reference, crop=_looks(crop, recipe), mask=mask)


def _turned(
    crop: Pixels, mask: Mask | None, rotate: float, shear: float
) -> tuple[Pixels, Mask | None]:
    """Sheared, then rotated about the centre."""
    h, w = crop.shape[:2]
    a, s = math.radians(rotate), math.tan(math.radians(shear))
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    forth = turn @ np.array([[1.0, s], [0.0, 1.0]])
    corners = forth @ np.array([[-w, w, w, -w], [-h, -h, h, h]]) / 2
    width, height = (math.ceil(round(2 * float(np.abs(c).max()), 6)) for c in corners)
    back = np.linalg.inv(forth)
    centre = np.array([w, h]) / 2 - back @ (np.array([width, height]) / 2)
    matrix = (*back[0], centre[0], *back[1], centre[1])
    size = (width, height)
    affine = Image.Transform.AFFINE
    turned = Image.fromarray(crop).transform(
        size, affine, matrix, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)
    )
    if mask is None:
        return np.asarray(turned), None
    inside = Image.fromarray(mask.astype(np.uint8) * 255)
    inside = inside.transform(size, affine, matrix, Image.Resampling.NEAREST, fillcolor=0)
    kept = np.asarray(inside) > 127
    return np.asarray(turned), kept if kept.any() else None


def _looks(crop: Pixels, recipe: Recipe) -> Pixels:
    h, w = crop.shape[:2]
    image = Image.fromarray(crop)
    if recipe.downscale > 1:
        small = (max(1, round(w / recipe.downscale)), max(1, round(h / recipe.downscale)))
        image = image.resize(small, Image.Resampling.BOX).resize((w, h), Image.Resampling.BICUBIC)
    if recipe.blur:
        image = image.filter(ImageFilter.GaussianBlur(recipe.blur * min(h, w)))
    x: npt.NDArray[np.float64] = np.asarray(image).astype(np.float64)
    if recipe.jitter is not None:
        x = x * np.array(recipe.jitter)
    x = x + 255 * recipe.brightness
    if recipe.noise:
        random = generator(recipe.noise_seed, "noise")
        x = x + 255 * recipe.noise * random.standard_normal(x.shape)
    return np.asarray(x.clip(0, 255).round().astype(np.uint8))
