"""Nothing that a test sample shows may be in training: no film, no source of pictures, nobody."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from s2v.datapipe.base.shards import SampleMeta


class Leaks:
    """Collects which side of the split everything was seen on."""

    def __init__(self, folder: Path) -> None:
        """Begin with nothing seen; ``folder`` is named in what is wrong."""
        self._folder = folder
        self._sides: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)

    def see(self, meta: SampleMeta) -> None:
        """Take a sample in: its film, the sources of its references, and who is in them."""
        shown = {("long video", meta.source.long_video_id), ("source", meta.source.video_id)}
        shown |= {("source", ref.from_.source) for ref in meta.refs}
        shown |= {("identity", ref.identity_id) for ref in meta.refs if ref.identity_id}
        for one in shown:
            self._sides[one].setdefault(meta.split, meta.source.clip_id)

    def found(self) -> Iterator[str]:
        """What is on both sides, with a clip of each."""
        for (what, name), sides in sorted(self._sides.items()):
            if len(sides) > 1:
                clips = ", ".join(f"{side} by clip {clip}" for side, clip in sorted(sides.items()))
                yield f"{self._folder}: {what} {name!r} is on both sides of the split ({clips})"
