"""A clip's training windows as pixels, through the media room."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.scan import scan
from s2v.model.data.index import Window
from s2v.model.errors import ModelError

Pixels = npt.NDArray[np.uint8]


def read_windows(
    mp4: bytes,
    windows: Sequence[Window],
    *,
    frames: int,
    size: tuple[int, int],
    source: tuple[int, int],
    fps: float,
    where: str,
) -> list[Pixels]:
    """Decode windows of an encoded clip, scaled to cover ``size`` and cut to its centre.

    Args:
        mp4: the file's bytes.
        windows: at least one.
        frames: per window.
        size: ``(H, W)`` wanted.
        source: ``(height, width)`` of the clip.
        fps: of the clip.
        where: names the sample in errors.

    Returns:
        One ``[frames, H, W, 3]`` RGB uint8 array per window.

    Raises:
        ModelError: the clip does not decode, or has fewer frames than its index says.
    """
    first = min(w.start for w in windows)
    last = max(w.start + (frames - 1) * w.stride for w in windows)
    wanted = {w.start + i * w.stride for w in windows for i in range(frames)}
    scale = max(size[0] / source[0], size[1] / source[1])
    short_side = max(1, int(np.ceil(min(source) * scale)))
    # Half a frame early, so that rounding of time stamps cannot skip the first one.
    start_us = max(0, round((first - 0.5) / fps * 1e6))
    found: dict[int, Pixels] = {}
    with tempfile.TemporaryDirectory(prefix="s2v-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(mp4)
        try:
            with closing(scan(path, start_us=start_us, short_side=short_side)) as seen:
                for index, (_, rgb) in enumerate(seen, start=first):
                    if index in wanted:
                        found[index] = cover(rgb, size)
                    if index >= last:
                        break
        except MediaError as error:
            raise ModelError(f"{where}: {error.kind.value}: {error.message}") from None
        except ValueError:
            raise ModelError(f"{where}: the clip ends before its frame {first}") from None
    if missing := wanted - found.keys():
        raise ModelError(f"{where}: frame {min(missing)} is missing; the clip is shorter than said")
    return [np.stack([found[w.start + i * w.stride] for i in range(frames)]) for w in windows]


def cover(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Scale ``[h, w, 3]`` to cover ``(H, W)``, keep the centre."""
    H, W = size
    h, w = rgb.shape[:2]
    scale = max(H / h, W / w)
    to = (max(W, round(w * scale)), max(H, round(h * scale)))
    if to != (w, h):
        shrinks = scale < 1
        rgb = np.asarray(
            cv2.resize(rgb, to, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC),
            dtype=np.uint8,
        )
    top, left = (rgb.shape[0] - H) // 2, (rgb.shape[1] - W) // 2
    return rgb[top : top + H, left : left + W]
