"""When subjects were shown, on clocks that can be compared.

The time between two clips means something on one clock only: that of a file, also where a manifest
uses it in several parts, and that of a long video where each file states its ``offset_us`` in it,
as imported clips do. A film and its trailer share a ``long_video_id`` and no clock. A photograph
has no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from s2v.datapipe.pair.columns import Flags, Ints, Places, codes
from s2v.datapipe.pair.pool import Pool
from s2v.datapipe.pair.rows import Row, Tables, measured

_STATED = ("video_id", "long_video_id", "kind", "path", "offset_us")


@dataclass(frozen=True)
class Clocks:
    """Times by position of a subject, in microseconds.

    Attributes:
        clock: code of the clock.
        start, end: of the subject's clip.
        shown: of the frame that shows the subject best.
        image: of a photograph, which is on no clock but its own.
    """

    clock: Places
    start: Ints
    end: Ints
    shown: Ints
    image: Flags

    def same_frame(self, a: Ints, b: Ints) -> Flags:
        """Whether two subjects are shown by one picture."""
        return np.asarray(
            (self.clock[a] == self.clock[b]) & (self.shown[a] == self.shown[b]), np.bool_
        )

    def gap_us(self, a: Ints, b: Ints) -> Ints:
        """Time between two clips; 0 where they touch, -1 where they share no clock."""
        gap = np.maximum(0, np.maximum(self.start[a] - self.end[b], self.start[b] - self.end[a]))
        shared = (self.clock[a] == self.clock[b]) & ~self.image[a]
        return np.where(shared, gap, np.int64(-1))


def clocks_of(pool: Pool, tables: Tables) -> Clocks:
    """The clock of every subject of a pool, by what table SOURCES says of its file."""
    sources = measured(tables, "sources").select(_STATED).to_pylist()
    of = {row["video_id"]: _clock(row) for row in sources}
    code, videos = codes(pool.table["video_id"])
    named = [of.get(video, (f"video {video}", 0)) for video in videos.to_pylist()]
    clock, _ = codes(pa.array([name for name, _ in named], pa.string()))
    offset = np.array([shift for _, shift in named], np.int64)[code]
    return Clocks(
        clock=clock[code],
        start=pool.number("start_us") + offset,
        end=pool.number("end_us") + offset,
        shown=pool.number("pts_us") + offset,
        image=pool.image,
    )


def _clock(source: Row) -> tuple[str, int]:
    """Its name, and where the file begins on it."""
    if source["kind"] == "image" or source["path"] is None:
        return f"video {source['video_id']}", 0
    if source["offset_us"] is not None:
        return f"long video {source['long_video_id']}", int(source["offset_us"])
    return f"file {source['path']}", 0
