"""What a shard's bytes depend on, as one digest: an unchanged shard is kept and not built again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from s2v.datapipe.base import atomic
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.write.members import SampleBuilder
from s2v.datapipe.write.plan import ShardPlan

#: Raise it with every change of the code in this folder that changes a sample's bytes.
WRITE_VERSION: Final = 1

_ENCODERS: Final = ("pillow", "opencv-python-headless", "numpy")
#: Where a source lies and how its bytes are named there is not in its samples.
_ELSEWHERE: Final = frozenset({"path", "sha256", "etag", "bytes", "duplicate_of"})


class Inputs:
    """Digests of shards from the tables that a :class:`SampleBuilder` joins."""

    def __init__(self, builder: SampleBuilder) -> None:
        self._builder = builder
        self._head = {
            "version": WRITE_VERSION,
            "settings": builder.settings.model_dump(mode="json", exclude={"max_shard_bytes"}),
            "encoders": {name: version(name) for name in _ENCODERS},
        }
        self._clips: dict[Path, str] = {}

    def digest(self, plan: ShardPlan) -> str:
        """Hex sha256 over everything that the samples of a shard are made of."""
        found = hashlib.sha256(_canonical(self._head))
        for sample in plan.samples:
            for part in self._parts(sample):
                found.update(_canonical(part))
        return found.hexdigest()

    def _parts(self, sample: Row) -> Iterator[Any]:
        b = self._builder
        clip = sample["clip_id"]
        yield {key: value for key, value in sample.items() if key != "shard"}
        yield b.clips[clip]
        yield _stated(b.sources[sample["video_id"]])
        yield [frame["blur"] for frame in b.frames_of[clip]]
        yield b.quality.get(clip)
        yield self._file(b.clip_files[clip])
        for ref in sample["references"]:
            detection = b.detections[ref["detection_id"]]
            shown = b.subjects[ref["reference_subject_id"]]
            yield [b.subjects[ref["subject_id"]], shown, detection]
            yield [b.frames[detection["frame_id"]], b.masks[ref["detection_id"]]]
            yield _stated(b.sources[shown["video_id"]])

    def _file(self, path: Path) -> str:
        """Of a cut clip; its name says what it was cut from, its bytes are what is written."""
        if path not in self._clips:
            self._clips[path] = atomic.sha256_file(path)
        return self._clips[path]


def _stated(source: Mapping[str, Any]) -> Row:
    return {key: value for key, value in source.items() if key not in _ELSEWHERE}


def _canonical(part: Any) -> bytes:
    return json.dumps(part, sort_keys=True, default=_plain).encode() + b"\n"


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, np.ndarray):  # an embedding: none is written
        return ""
    raise TypeError(f"{type(value).__name__} in a table")
