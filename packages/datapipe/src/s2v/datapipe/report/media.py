"""Small pictures and clips for the page, made from what the run stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base import atomic, ids
from s2v.datapipe.base.markup import Markup, element
from s2v.datapipe.base.media.cut import preview_clip
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.images import encode_jpeg, resize
from s2v.datapipe.base.media.probe import probe

# Of a preview; part of its name, so that another setting makes another file.
HEIGHT: Final = 180
SECONDS: Final = 4.0
CRF: Final = 30
_VERSION: Final = 1
_SPECK: Final = 12.0  # square pixels of a thumbnail: outlines smaller than this are noise


@dataclass(frozen=True)
class Preview:
    """A small clip and its middle frame as JPEG."""

    mp4: bytes
    poster: bytes


def preview(read: Callable[[], bytes], sha256: str, folder: Path) -> Preview:
    """A preview of a clip, kept below ``folder`` so that it is made once.

    Args:
        read: gives the clip's bytes; asked only when there is no preview yet.
        sha256: of the clip; names the preview.
        folder: where previews are kept.

    Raises:
        MediaError: the clip does not decode whole.
        ShardError: the clip cannot be read.
    """
    key = ids.stable_hash([sha256, *map(str, (HEIGHT, SECONDS, CRF, _VERSION))])
    mp4, jpeg = folder / f"{key}.mp4", folder / f"{key}.jpg"
    if not mp4.exists():
        with tempfile.TemporaryDirectory() as aside:
            clip = Path(aside) / "clip.mp4"
            clip.write_bytes(read())
            preview_clip(clip, mp4, height=HEIGHT, max_seconds=SECONDS, crf=CRF)
    if not jpeg.exists():
        facts = probe(mp4)
        ((_, rgb),) = frames_at(mp4, [facts.duration_us // 2], backend="pyav")
        atomic.write_bytes(jpeg, encode_jpeg(rgb, 72))
    return Preview(mp4.read_bytes(), jpeg.read_bytes())


def thumbnail(rgb: npt.NDArray[np.uint8], width: int = 300, height: int = 200) -> bytes:
    """JPEG of an image shrunk to fit; never enlarged."""
    return encode_jpeg(resize(rgb, fitted(rgb.shape[1], rgb.shape[0], width, height)), 78)


def fitted(across: int, up: int, width: int, height: int) -> tuple[int, int]:
    """Size that fits a frame and keeps the shape."""
    scale = min(1.0, width / across, height / up)
    return max(1, round(across * scale)), max(1, round(up * scale))


def outline(mask: npt.NDArray[np.bool_], width: int = 300, height: int = 200) -> Markup:
    """The outline of a mask as an overlay of its thumbnail."""
    w, h = fitted(mask.shape[1], mask.shape[0], width, height)
    small = np.asarray(
        cv2.resize(mask.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST), np.uint8
    )
    found, _ = cv2.findContours(small, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    paths = []
    for contour in found:
        if cv2.contourArea(contour) >= _SPECK:
            points = cv2.approxPolyDP(contour, 0.8, True).reshape(-1, 2).tolist()
            paths.append("M" + "L".join(f"{x} {y}" for x, y in points) + "Z")
    return _overlay(element("path", d="".join(paths)), w, h)


def box_overlay(box: tuple[float, ...], width: int, height: int) -> Markup:
    """A box over an image of ``width`` x ``height``."""
    x0, y0, x1, y1 = (round(value) for value in box)
    return _overlay(element("rect", x=x0, y=y0, width=x1 - x0, height=y1 - y0), width, height)


def _overlay(shape: Markup, width: int, height: int) -> Markup:
    return element(
        "svg", shape, viewBox=f"0 0 {width} {height}", aria_hidden="true", class_="overlay"
    )
