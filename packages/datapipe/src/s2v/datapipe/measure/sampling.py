"""Which frames of a clip are looked at, and how they are stored: once, as JPEG members of a tar."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from s2v.datapipe.base import ids
from s2v.datapipe.base.atomic import replacing
from s2v.datapipe.base.media.held import nearest
from s2v.datapipe.engine.stage import Stage, Unit
from s2v.datapipe.roles import Image

TOLERANCE: Final = 0.05
"""How far a picture that the scan kept may lie from the wanted moment, as a share of the clip.
None so near: the exact frame is decoded."""


class FrameSettings(BaseModel):
    """Which frames of a clip are looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positions: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        default=(0.05, 0.5, 0.95),
        min_length=1,
        description="shares of the clip (Phantom, Phantom-Data)",
    )
    jpeg_quality: int = Field(default=95, ge=50, le=100)
    max_side: int = Field(default=2560, description="longer photographs are scaled down to this")


def moments(start_us: int, end_us: int, positions: Sequence[float]) -> list[tuple[float, int]]:
    """``(position, time)`` of the wanted frames of a clip."""
    return [(share, start_us + int((end_us - start_us) * share)) for share in positions]


def taken(
    times: list[int], start_us: int, end_us: int, positions: Sequence[float]
) -> dict[float, int]:
    """Which of the pictures at ``times`` (sorted) serve a clip ``[start_us, end_us)``.

    Returns:
        position -> time, for positions that have a picture inside the clip near enough. Of
        several that one picture is nearest to, only the nearest has it.
    """
    found: dict[int, tuple[int, float]] = {}
    for share, wanted in moments(start_us, end_us, positions):
        time = nearest(times, wanted, start_us, end_us)
        if time is None or abs(time - wanted) > TOLERANCE * (end_us - start_us):
            continue
        found[time] = min(found.get(time, (end_us, 1.0)), (abs(time - wanted), share))
    return {share: time for time, (_, share) in sorted(found.items(), key=lambda f: f[1][1])}


def inside(image: Image, content: Sequence[float] | None, size: tuple[int, int]) -> Image:
    """The part of a picture inside black borders, rounded inwards.

    Args:
        image: uint8 ``[h, w]`` or ``[h, w, 3]``, the frame at any size.
        content: box in pixels of the displayed frame, ``None`` without borders.
        size: width and height of the displayed frame.
    """
    if content is None:
        return image
    across, down = image.shape[1] / size[0], image.shape[0] / size[1]
    x0, y0 = math.ceil(content[0] * across), math.ceil(content[1] * down)
    x1, y1 = math.floor(content[2] * across), math.floor(content[3] * down)
    part = image[max(y0, 0) : y1, max(x0, 0) : x1]
    return np.ascontiguousarray(part) if part.size else image


class FrameTar:
    """A tar of JPEG files below the run folder, being written; begun with its first picture.

    Args:
        run: the run folder.
        name: path of the tar below it.
        opened: what closes it.
    """

    def __init__(self, run: Path, name: str, opened: ExitStack) -> None:
        self._path, self._name, self._opened = run / name, name, opened
        self._tar: tarfile.TarFile | None = None

    def add(self, member: str, jpeg: bytes) -> dict[str, Any]:
        """Append a picture; returns the columns that say where it lies."""
        if self._tar is None:
            path = self._opened.enter_context(replacing(self._path))
            tar = tarfile.open(path, "w")  # noqa: SIM115  closed by the stack
            self._tar = self._opened.enter_context(tar)
        info = tarfile.TarInfo(f"{member}.jpg")
        info.size = len(jpeg)
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(jpeg))
        return {"tar": self._name, "offset": offset, "size": len(jpeg)}


@contextmanager
def frame_tar(folder: str, stage: Stage, unit: Unit, made_of: Sequence[str]) -> Iterator[FrameTar]:
    """Write ``<folder>/<unit>-<digest>.tar``; it appears whole when the block ends.

    Args:
        folder: below the run folder.
        made_of: what the pictures are of. The name tells every content apart, so that no older
            commit's tar is overwritten.
    """
    digest = ids.stable_hash([str(stage.version), str(stage.identity()), *made_of], 12)
    with ExitStack() as opened:
        yield FrameTar(unit.run, f"{folder}/{unit.name}-{digest}.tar", opened)


def made_by(tar: str) -> str:
    """The stage that wrote a tar of pictures, by its path below the run folder."""
    return _MADE_BY.get(tar.partition("/")[0], "frames")


_MADE_BY: Final[Mapping[str, str]] = {"stills": "shots", "frames": "frames"}
