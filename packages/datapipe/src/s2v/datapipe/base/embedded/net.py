"""What the embedded nets share: identity, lazy loading, one thread, image checks."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.assets import asset, lookup
from s2v.datapipe.base.assets.extract import sha256_of

Image = npt.NDArray[np.uint8]
"""RGB, uint8, [H, W, 3]."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""

Vectors = npt.NDArray[np.float32]


class Net:
    """Base of the embedded nets.

    Subclasses set `name`, `revision` (counted up when pre- or post-processing changes the answers)
    and `asset_name`, and implement `_load`.
    """

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    asset_name: ClassVar[str]

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        """Remembers where the weights are; does not read them.

        Args:
            path: The weight file, or the folder of an asset with several files.
            sha256: Digest of the (main) weight file; computed when needed if absent.
        """
        self.path = Path(path)
        self._sha256 = sha256
        self._loaded = False

    @classmethod
    def from_assets(cls) -> Self:
        """Takes the pinned weights from the asset cache.

        Raises:
            AssetMissing: If they have not been fetched; the message has the command that does.
            AssetCorrupt: If they are damaged.
        """
        return cls(asset(cls.asset_name), lookup(cls.asset_name).digest)

    @property
    def model_id(self) -> str:
        """Name, revision and the first 12 hex digits of the weights' sha256."""
        if self._sha256 is None:
            self._sha256 = sha256_of(self._main_file())
        return f"{self.name}{self._variant()}-r{self.revision}-{self._sha256[:12]}"

    def load(self) -> None:
        """Loads the weights, once; the first call of the net does it too."""
        if not self._loaded:
            self._load()
            self._loaded = True

    def _variant(self) -> str:
        """What of the construction changes the answers, for `model_id`; starts with a dash."""
        return ""

    def _load(self) -> None:
        raise NotImplementedError

    def _main_file(self) -> Path:
        if self.path.is_file():
            return self.path
        files = [path for path in self.path.rglob("*") if path.is_file()]
        if not files:
            raise FileNotFoundError(f"{self.path} has no weights for {self.name}")
        return max(files, key=lambda path: (path.stat().st_size, path.as_posix()))


def require(module: str) -> ModuleType:
    """Imports a library of the extra `curate`.

    Raises:
        ImportError: With the install command, if it is absent.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed; the embedded nets need it: "
            "`pip install 's2v-datapipe[curate]'`"
        ) from error


def check_image(image: Image) -> None:
    """Raises ValueError unless `image` is RGB uint8 [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected RGB uint8 [H, W, 3], got {image.dtype} {image.shape}")


def fit_within(image: Image, longest: int) -> tuple[Image, float]:
    """Shrinks an image so that its longer side is at most `longest` pixels; never enlarges.

    Returns:
        The image and the factor by which its coordinates were multiplied.
    """
    factor = longest / max(image.shape[:2])
    if factor >= 1:
        return image, 1.0
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    return as_image(cv2.resize(image, size, interpolation=cv2.INTER_AREA)), factor


def clip_box(box: Box, width: int, height: int, margin: float = 0.0) -> tuple[int, int, int, int]:
    """Rounds a box outwards to whole pixels inside the image.

    Args:
        box: x0, y0, x1, y1 in pixels.
        width: Of the image, pixels.
        height: Of the image, pixels.
        margin: Added on every side, as a share of the box's width or height.

    Raises:
        ValueError: If nothing of the box lies inside the image.
    """
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    left, top = max(int(np.floor(x0 - dx)), 0), max(int(np.floor(y0 - dy)), 0)
    right, bottom = min(int(np.ceil(x1 + dx)), width), min(int(np.ceil(y1 + dy)), height)
    if left >= right or top >= bottom:
        raise ValueError(f"box {box} has no pixel inside the {width}x{height} image")
    return left, top, right, bottom


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Returns rows of length one, rounded to 6 decimals so that results store alike everywhere.

    A zero row stays zero: it is similar to nothing.
    """
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    scaled = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
    return rounded(scaled, 6)


def rounded(array: npt.NDArray[Any], decimals: int) -> npt.NDArray[np.float32]:
    """Returns float32, rounded so that a last-bit difference between machines does not show."""
    return np.asarray(np.round(array, decimals), dtype=np.float32)


def as_image(array: npt.NDArray[Any]) -> Image:
    """Tells the type checker what OpenCV returns; copies nothing."""
    return np.asarray(array, dtype=np.uint8)


@contextlib.contextmanager
def one_cv_thread() -> Iterator[None]:
    """Runs OpenCV on one thread inside the block; many actors share the machine's cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def quiet_cv() -> Iterator[None]:
    """Keeps OpenCV's warnings back: version 5 warns at each load that its graph engine has no
    targets to choose from.
    """
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Runs torch on one thread and without gradients inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def onnx_session(model: Path | bytes) -> Any:
    """Opens an ONNX model, a file or its bytes, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
