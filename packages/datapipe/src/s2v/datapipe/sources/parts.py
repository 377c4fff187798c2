"""The part of a film that is used: ``from_us`` to ``to_us`` of its own time.

The rest of the file is accounted for as dropped spans, so that every moment of it has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from s2v.datapipe.engine import units
from s2v.datapipe.engine.stage import Row

OUTSIDE = "outside the part to use"
BEYOND = "the part to use begins after the end"


def part(source: Row, duration_us: int) -> tuple[int, int]:
    """First and last moment to use, microseconds, inside the film.

    Args:
        source: a row of table ``sources``.
        duration_us: of the film, as probed. A ``to_us`` beyond it ends with the film; a
            ``from_us`` beyond it leaves ``(duration_us, duration_us)``, nothing.
    """
    start = min(source.get("from_us") or 0, duration_us)
    end = source.get("to_us")
    return start, duration_us if end is None else max(start, min(end, duration_us))


def windows(source: Row, duration_us: int, longest_us: int) -> list[tuple[int, int]]:
    """The part to use, cut into equal windows of at most ``longest_us``; ``(0, 0)`` of a picture.

    Equal windows share the work evenly; a shot that crosses a seam is cut there.
    """
    if source["kind"] == "image":
        return [(0, 0)]
    start, end = part(source, duration_us)
    return [(start + a, start + b) for a, b in units.windows(end - start, longest_us)]


def beyond(source: Row, duration_us: int) -> bool:
    """Whether nothing of the film lies in the part to use."""
    return (source.get("from_us") or 0) > 0 and (source.get("from_us") or 0) >= duration_us


def outside(sources: Iterable[Row], probes: Mapping[str, Row]) -> list[Row]:
    """Spans of everything before and after the parts, rows of table ``spans``.

    Args:
        sources: rows of table ``sources`` that are measured.
        probes: rows of table ``probe`` by ``video_id``.
    """
    spans: list[Row] = []
    for source in sources:
        if source["kind"] == "image":
            continue
        video = source["video_id"]
        duration = probes[video]["duration_us"]
        start, end = part(source, duration)
        for first, last in ((0, start), (end, duration)):
            if first < last:
                spans.append(
                    {
                        "video_id": video,
                        "start_us": first,
                        "end_us": last,
                        "clip_id": None,
                        "reason": OUTSIDE,
                    }
                )
    return spans


def window_note(source: Row) -> str:
    """What the name of a window's unit carries of the part; empty for a whole film."""
    if source.get("from_us") is None and source.get("to_us") is None:
        return ""
    return f":{source.get('from_us') or 0}-{source.get('to_us')}"


def mark_beyond(probe: list[Row], sources: Iterable[Row]) -> list[Row]:
    """Rows of table ``probe``; films of which nothing is to be used get the reason."""
    by_id = {row["video_id"]: row for row in sources}
    return [
        {**row, "reason": BEYOND}
        if row["reason"] is None and beyond(by_id[row["video_id"]], row["duration_us"])
        else row
        for row in probe
    ]
