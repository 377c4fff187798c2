"""Reads the sampled frames of a run; no video is decoded for a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2v.datapipe.base.media.images import load_image
from s2v.datapipe.write.errors import WriteError

Row = dict[str, Any]


class FrameStore:
    """Frames by their row of table ``frames``; the last one decoded is kept."""

    def __init__(self, run: Path) -> None:
        self.run = run.resolve()
        self._last: tuple[str, npt.NDArray[np.uint8]] | None = None

    def image(self, row: Row) -> npt.NDArray[np.uint8]:
        """RGB uint8 ``[H, W, 3]``.

        Raises:
            WriteError: the tar is missing, cut short, or outside the run folder.
        """
        if self._last is not None and self._last[0] == row["frame_id"]:
            return self._last[1]
        image = load_image(self._jpeg(row))
        if image.shape[:2] != (row["height"], row["width"]):
            raise WriteError(
                f"frame {row['frame_id']} in {row['tar']} is {image.shape[1]}x{image.shape[0]}, "
                f"its row says {row['width']}x{row['height']}; measure the clip again"
            )
        self._last = (row["frame_id"], image)
        return image

    def _jpeg(self, row: Row) -> bytes:
        path = (self.run / row["tar"]).resolve()
        if not path.is_relative_to(self.run):
            raise WriteError(f"frame {row['frame_id']}: {row['tar']!r} is outside {self.run}")
        try:
            with path.open("rb") as handle:
                handle.seek(row["offset"])
                data: bytes = handle.read(row["size"])
        except FileNotFoundError:
            raise WriteError(
                f"{path}: frames are missing; delete the run's measure/frames-* and run again"
            ) from None
        if len(data) != row["size"]:
            raise WriteError(
                f"{path}: cut short at frame {row['frame_id']}; delete it and the run's "
                "measure/frames-* and run again"
            )
        return data
