"""Tables cut into pieces of some thousand clips, so that rows of Python fit the memory.

Everything that is asked of one clip is asked of its rows alone, so pieces can be joined one
after the other. Rows that name a clip which table ``clips`` lacks come with the first piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair.columns import Ints, positions
from s2v.datapipe.pair.rows import Tables

CLIPS: Final = 4096  # rows of their detections take about 200 MB
_BY_SOURCE: Final = ("sources", "probe")


def pieces(tables: Tables, names: tuple[str, ...], clips: int = CLIPS) -> Iterator[Tables]:
    """Cut tables by clip.

    Args:
        tables: the measure tables.
        names: those wanted, ``clips`` among them; what was not measured is left out.
        clips: of a piece.

    Yields:
        The named tables of some clips, in order of their ids, each clip in one piece. Tables
        with a row per source hold the piece's sources; ``quarantine`` is whole.
    """
    there = {name: tables[name] for name in names if name in tables}
    for name in _BY_SOURCE:  # of a table on disk: read once and not once a piece
        if name in there:
            there[name] = there[name].select(there[name].schema.names)
    if there["clips"].num_rows <= clips:
        yield there
        return
    known = there["clips"]["clip_id"].take(pc.sort_indices(there["clips"]["clip_id"]))
    by_clip = {
        name: _Cut(table, known, clips)
        for name, table in there.items()
        if "clip_id" in table.schema.names
    }
    for n in range(-(-len(known) // clips)):
        piece = {name: cut.piece(n) for name, cut in by_clip.items()}
        piece |= _of_sources(there, piece["clips"])
        yield {name: piece.get(name, table) for name, table in there.items()}


def _of_sources(there: Mapping[str, pa.Table], clips: pa.Table) -> dict[str, pa.Table]:
    wanted = clips["video_id"].unique()
    return {
        name: there[name].filter(pc.is_in(there[name]["video_id"], value_set=wanted))
        for name in _BY_SOURCE
        if name in there
    }


class _Cut:
    """Rows of one table by piece."""

    def __init__(self, table: pa.Table, known: pa.ChunkedArray, clips: int) -> None:
        at = np.maximum(positions(table["clip_id"], known), 0) // clips
        count = -(-len(known) // clips)
        self._table = table
        self._sorted = bool((at[1:] >= at[:-1]).all())
        self._order: Ints = np.argsort(at, kind="stable")
        self._edges: Ints = np.searchsorted(at[self._order], np.arange(count + 1))

    def piece(self, n: int) -> pa.Table:
        """Rows of the n-th piece."""
        begin, end = int(self._edges[n]), int(self._edges[n + 1])
        if self._sorted:
            return self._table.slice(begin, end - begin)
        return self._table.take(pa.array(self._order[begin:end]))
