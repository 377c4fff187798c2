"""What a verifier is asked about a pair, and the id that the question has.

The id is a hash over everything the answer depends on besides the model: the words of the
prompt, and of each side the source's content, the moment, the crop, the box and the phrase. An
answer stands for its question as long as all of that stays, whatever else is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base import ids
from s2v.datapipe.pair.classes import class_of
from s2v.datapipe.pair.rows import Row, Tables, by
from s2v.datapipe.roles import CLASSES, PromptId

_FRAME: Final = ("frame_id", "clip_id", "tar", "offset", "size", "width", "height", "crop")


class Questions:
    """Questions about pairs of detections of a run.

    Args:
        tables: the measure tables.
        content: ``video_id`` -> digest of the source's bytes.
        drawn: videos that state that they are drawn (:mod:`.classes`).
        frames: fingerprint of the stage that stored the frames.
        prompts: class -> prompt.
    """

    def __init__(
        self,
        tables: Tables,
        content: Mapping[str, str],
        drawn: Collection[str],
        frames: str,
        prompts: Mapping[str, PromptId],
    ) -> None:
        self._tables, self._content, self._drawn = tables, content, drawn
        self._stored, self._prompts = frames, prompts
        self._sides: dict[str, Row] = {}
        self._hashes: dict[str, str] = {}

    def look_up(self, detections: Iterable[str]) -> None:
        """Read what is to be shown of these detections; those that are no more are left out."""
        wanted = sorted(set(detections) - self._sides.keys())
        found = _rows(self._tables, "detections", "detection_id", wanted)
        phrases = by(
            _rows(self._tables, "phrases", "subject_id", {r["subject_id"] for r in found}),
            "subject_id",
        )
        frames = by(
            _rows(self._tables, "frames", "frame_id", {r["frame_id"] for r in found}), "frame_id"
        )
        clips = by(
            _rows(self._tables, "clips", "clip_id", {r["clip_id"] for r in found}), "clip_id"
        )
        for row in found:
            phrase, frame = phrases.get(row["subject_id"]), frames.get(row["frame_id"])
            clip = clips.get(row["clip_id"])
            if phrase is None or frame is None or clip is None:
                continue  # gated or withdrawn since: no pair can have it
            side = {
                "detection_id": row["detection_id"],
                "subject_id": row["subject_id"],
                "phrase": phrase["phrase"],
                "class": self._class(phrase, clip["video_id"]),
                "box": [float(v) for v in row["box"]],
                "frame": {name: frame[name] for name in _FRAME},
            }
            self._sides[row["detection_id"]] = side
            self._hashes[row["detection_id"]] = self._hash(side, clip["video_id"])

    def question(self, one: str, other: str) -> Row:
        """What is asked about two detections that were looked up, the lesser id first.

        Raises:
            ValueError: one of them has no frame, phrase or clip.
        """
        first, second = min(one, other), max(one, other)
        verdict_id = self.id_of(first, second)
        if verdict_id is None:
            raise ValueError(f"pair {first}, {second}: no frame, phrase or clip of one of them")
        target, reference = self._sides[first], self._sides[second]
        return {
            "verdict_id": verdict_id,
            "class": self._class_of(target, reference),
            "target": target,
            "reference": reference,
        }

    def id_of(self, one: str, other: str) -> str | None:
        """The id of that question; ``None`` if one of the detections is gone."""
        first, second = min(one, other), max(one, other)
        if first not in self._sides or second not in self._sides:
            return None
        prompt = self._prompts[self._class_of(self._sides[first], self._sides[second])]
        return ids.stable_hash([prompt.sha256, self._hashes[first], self._hashes[second]])

    @staticmethod
    def _class_of(target: Row, reference: Row) -> str:
        name: str = min(target["class"], reference["class"], key=CLASSES.index)
        return name

    def _class(self, phrase: Row, video: str) -> str:
        """As table SUBJECTS names it."""
        noun, words, bank, said = (phrase[name] for name in ("noun", "phrase", "bank", "class"))
        return class_of(noun, words, bank, said, drawn=video in self._drawn)[0]

    def _hash(self, side: Row, video: str) -> str:
        crop = side["frame"]["crop"]
        shown = [side["frame"]["frame_id"], None if crop is None else list(crop), side["box"]]
        parts = [self._content.get(video, ""), self._stored, json.dumps(shown), side["phrase"]]
        return ids.stable_hash([side["detection_id"], *parts])


def _rows(tables: Tables, name: str, key: str, wanted: Iterable[Any]) -> list[Row]:
    """Rows of a table whose ``key`` is wanted; only these become Python's."""
    table = tables[name]
    keep = pc.is_in(table[key], value_set=pa.array(sorted(wanted), pa.string()))
    rows: list[Row] = table.filter(keep).to_pylist()
    return rows
