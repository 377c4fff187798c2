"""The sampled frames of a run, as the shards need them; no video is decoded for a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2v.datapipe.engine.errors import StoreError
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.roles import Image
from s2v.datapipe.write.errors import WriteError

Row = dict[str, Any]


class FrameStore:
    """Frames by their row of table ``frames``; the last one decoded is kept."""

    def __init__(self, run: Path) -> None:
        self._reader = FrameReader(run)
        self._last: tuple[str, Image] | None = None

    def image(self, row: Row) -> Image:
        """RGB uint8 ``[H, W, 3]``.

        Raises:
            WriteError: the tar is missing, damaged, cut short, or outside the run folder.
        """
        if self._last is not None and self._last[0] == row["frame_id"]:
            return self._last[1]
        try:
            image = self._reader.image(row)
        except StoreError as error:
            raise WriteError(str(error)) from None
        self._last = (row["frame_id"], image)
        return image
