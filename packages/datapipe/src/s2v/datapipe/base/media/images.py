"""Still images: guarded loading, deterministic encoding, resizing."""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from s2v.datapipe.base.media.errors import MediaError, MediaErrorKind, from_os_error

MAX_IMAGE_PIXELS: Final = 64_000_000
"""Pixel budget of a still image (a 64-megapixel camera); checked before decompression."""

MAX_IMAGE_BYTES: Final = 256 << 20

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "AVIF")  # JPEG opens MPO as well


def load_image(
    source: str | PathLike[str] | bytes, max_pixels: int = MAX_IMAGE_PIXELS
) -> np.ndarray:
    """Decode a stranger's still image as it is meant to be seen.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8.

    Args:
        source: a local file or its encoded bytes.
        max_pixels: width x height at most.

    Returns:
        RGB uint8 ``(H, W, 3)``, contiguous.

    Raises:
        MediaError: missing, empty, not_media, unsupported (also animations), too_large,
            truncated, corrupt.
    """
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else _read(source)
    if not data:
        raise MediaError(MediaErrorKind.EMPTY, name, "0 bytes; fetch it again")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check(image, name, max_pixels)
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise MediaError(
            _unidentified(data), name, f"not one of {', '.join(_FORMATS)}: starts {data[:12]!r}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(MediaErrorKind.TOO_LARGE, name, str(error)) from error
    except MemoryError as error:
        raise MediaError(MediaErrorKind.TOO_LARGE, name, "out of memory") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as error:
        # PIL's decoders raise whichever of these they stumble over in damaged data.
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        kind = MediaErrorKind.TRUNCATED if cut else MediaErrorKind.CORRUPT
        raise MediaError(kind, name, f"{type(error).__name__}: {error}") from error


def _read(path: str | PathLike[str]) -> bytes:
    try:
        size = Path(path).stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise MediaError(MediaErrorKind.TOO_LARGE, path, f"{size} bytes for one image")
        return Path(path).read_bytes()
    except OSError as error:
        raise from_os_error(error, path) from error


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise MediaError(
            MediaErrorKind.TOO_LARGE, name, f"{width}x{height} passes {max_pixels} pixels"
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise MediaError(MediaErrorKind.UNSUPPORTED, name, f"an animated {image.format}")


def _to_rgb(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, rgba)
    return np.ascontiguousarray(np.asarray(upright.convert("RGB")))


def _unidentified(data: bytes) -> MediaErrorKind:
    known = (b"GIF8", b"II*\x00", b"MM\x00*", b"%PDF", b"8BPS", b"<svg", b"\x00\x00\x00")
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"BM")) or data[8:12] == b"WEBP":
        return MediaErrorKind.TRUNCATED if len(data) < 64 else MediaErrorKind.CORRUPT
    return MediaErrorKind.UNSUPPORTED if data.startswith(known) else MediaErrorKind.NOT_MEDIA


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """JPEG bytes, baseline, 4:4:4, no metadata; the same pixels give the same bytes.

    Args:
        rgb: uint8 ``(H, W, 3)``.
        quality: 1 to 95.
    """
    _require_rgb(rgb)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(
        buffer, "JPEG", quality=quality, subsampling=0, optimize=False, progressive=False
    )
    return buffer.getvalue()


def encode_png_mask(mask: np.ndarray) -> bytes:
    """PNG bytes of a mask: one channel, 0 or 255.

    Args:
        mask: bool ``(H, W)``.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool (H, W), not {mask.dtype} {mask.shape}")
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def decode_png_mask(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Bool ``(H, W)`` of a mask PNG.

    Raises:
        MediaError: not a one-channel PNG of 0 and 255, or any reason of :func:`load_image`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            _check(image, "<mask>", max_pixels)
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise MediaError(MediaErrorKind.CORRUPT, "<mask>", f"{error}") from error
    if mode not in {"L", "1"} or not np.isin(np.unique(pixels), (0, 1, 255)).all():
        raise MediaError(
            MediaErrorKind.CORRUPT, "<mask>", f"a mask has one channel of 0 and 255, not {mode}"
        )
    return np.asarray(pixels > 0)


def resize(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to ``(width, height)``: area averaging when shrinking, bicubic when growing.

    Args:
        rgb: uint8 ``(H, W, 3)`` or ``(H, W)``.
        size: width and height in pixels.
    """
    height, width = rgb.shape[:2]
    if (width, height) == size:
        return rgb
    shrinks = size[0] * size[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, size, interpolation=method))


def resize_short_side(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Shrink so that the shorter side is at most ``short_side``; never enlarge."""
    height, width = rgb.shape[:2]
    factor = short_side / min(height, width)
    if factor >= 1:
        return rgb
    return resize(rgb, (max(1, round(width * factor)), max(1, round(height * factor))))


def fit_pad(
    rgb: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int] = (255, 255, 255)
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Scale the whole image into ``size`` and fill the rest.

    Args:
        rgb: uint8 ``(H, W, 3)``.
        size: canvas width and height.
        colour: RGB of the padding.

    Returns:
        The canvas, the scale, and the (x, y) of the image on it: a point p of the image lies at
        ``p * scale + offset``.
    """
    _require_rgb(rgb)
    height, width = rgb.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    x, y = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = np.empty((size[1], size[0], 3), np.uint8)
    canvas[:] = colour
    canvas[y : y + inner[1], x : x + inner[0]] = resize(rgb, inner)
    return canvas, scale, (x, y)


def _require_rgb(rgb: np.ndarray) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"an image is uint8 (H, W, 3), not {rgb.dtype} {rgb.shape}")
