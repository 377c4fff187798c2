"""Base of the stages that look at stored frames with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2v.datapipe.engine.stage import Row, Stage, Unit
from s2v.datapipe.measure.frames import FrameReader
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.roles import Image, Model


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


class Frames:
    """The stored frames of a unit, decoded when asked for; keeps the last clip's."""

    def __init__(self, unit: Unit) -> None:
        self._reader = FrameReader(unit.run)
        self._rows = {row["frame_id"]: row for row in unit.tables.get("frames", [])}
        self._by_clip: dict[str, list[Row]] = {}
        for row in self._rows.values():
            self._by_clip.setdefault(row["clip_id"], []).append(row)
        for rows in self._by_clip.values():
            rows.sort(key=lambda row: row["position"])
        self._kept: tuple[str, dict[str, Image]] = ("", {})

    def of(self, clip: str) -> list[Row]:
        """Frame rows of a clip in time order.

        Raises:
            LookupError: the clip has none.
        """
        rows = self._by_clip.get(clip, [])
        if not rows:
            raise LookupError(f"clip {clip} has no sampled frame")
        return rows

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
        clip, kept = self._kept
        if clip != row["clip_id"]:
            kept = {}
            self._kept = (row["clip_id"], kept)
        if row["frame_id"] not in kept:
            kept[row["frame_id"]] = self._reader.image(row)
        return kept[row["frame_id"]]
