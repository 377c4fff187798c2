"""Base of the stages that look at stored frames with a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.frames import FrameReader, cut_to_crop
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Image, Model, Served


class ModelStage(Stage):
    """A stage with one model and the gates in front of it.

    Models are loaded once per actor; their ids enter the fingerprint without loading them.
    """

    def __init__(self, model: Model, gates: GateSettings) -> None:
        self.model = model
        self.gates = gates

    def identity(self) -> Mapping[str, Any]:
        """The model's id."""
        return {"model": self.model.model_id}

    def setup(self) -> None:
        """Load the model."""
        self.model.load()

    def gate(self, row: Row) -> str | None:
        """The common gates."""
        return self.gates.stops(row)

    def each(self, unit: Unit, clips: Iterable[str], work: Callable[[str], list[Row]]) -> list[Row]:
        """Rows of every clip, in order of its id; a clip whose work raises gives none.

        A served model is asked for several clips at once. Each call returns the rows of the clip
        that it was given, so whatever order answers come in, none can land on another clip.

        Args:
            unit: where clips that fail are quarantined.
            clips: the clips to work on.
            work: clip id -> its rows; called from threads when the model is served.
        """
        wanted = sorted(clips)
        workers = self.model.concurrency if isinstance(self.model, Served) else 1
        if workers <= 1:
            calls: list[Callable[[], list[Row]]] = [lambda c=c: work(c) for c in wanted]  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            return self._collect(unit, wanted, calls)
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work, clip) for clip in wanted]
            try:
                return self._collect(unit, wanted, [future.result for future in futures])
            finally:
                for future in futures:  # after a fault that is no row's, the rest is not started
                    future.cancel()

    def _collect(
        self, unit: Unit, clips: list[str], calls: Iterable[Callable[[], list[Row]]]
    ) -> list[Row]:
        rows: list[Row] = []
        for clip, call in zip(clips, calls, strict=True):
            with unit.guard(clip, self.name):
                rows += call()
        return rows


class Frames:
    """The stored frames of a unit, cut to their clip's crop, decoded when asked for.

    Keeps the last clip's; may be used from several threads.
    """

    def __init__(self, unit: Unit) -> None:
        self._reader = FrameReader(unit.run)
        crops = {row["clip_id"]: row["crop"] for row in unit.tables.get("overlays", [])}
        frames = cut_to_crop(unit.tables.get("frames", []), crops)
        self._rows = {row["frame_id"]: row for row in frames}
        self._by_clip: dict[str, list[Row]] = {}
        for row in self._rows.values():
            self._by_clip.setdefault(row["clip_id"], []).append(row)
        for rows in self._by_clip.values():
            rows.sort(key=lambda row: row["position"])
        self._kept = threading.local()

    def of(self, clip: str) -> list[Row]:
        """Frame rows of a clip in time order; width, height and crop are those of the crop.

        Raises:
            LookupError: the clip has none.
        """
        rows = self._by_clip.get(clip, [])
        if not rows:
            raise LookupError(f"clip {clip} has no sampled frame")
        return rows

    def row(self, frame: str) -> Row:
        """A frame's row by its id, as in :meth:`of`."""
        return self._rows[frame]

    def middle(self, clip: str) -> Row:
        """The frame nearest to the middle of the clip, the earlier of two as near.

        Of a slow film there may be one or two: the frame of 5 % is then still on the screen
        half-way, so the earlier one is what a viewer sees there.
        """
        return min(
            self.of(clip),
            key=lambda row: (round(abs(row["position"] - 0.5), 6), row["position"]),
        )

    def image(self, row: Row) -> Image:
        """RGB pixels of a frame row."""
        kept: dict[str, Image] = getattr(self._kept, "images", {})
        if getattr(self._kept, "clip", None) != row["clip_id"]:
            kept = {}
            self._kept.clip, self._kept.images = row["clip_id"], kept
        if row["frame_id"] not in kept:
            kept[row["frame_id"]] = self._reader.image(row)
        return kept[row["frame_id"]]
