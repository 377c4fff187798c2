"""Exclusion and takedown lists, honoured while training.

What the index says (source, clip, identity, sample) is passed over by the plan. What only the
sample itself says (its subjects, and the clips that its references were cut from) is found when
it is read: it is then left out like one that cannot be read, but counted apart. So a list may
grow between two starts of a run; no other sample changes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from s2v.datapipe.base.exclusions import Exclusion, ExclusionError, read_exclusions
from s2v.datapipe.base.shards import Sample, SampleMeta, ShardError
from s2v.model.errors import ModelError

_COLUMNS: Final = ("sample_id", "clip_id", "video_id", "long_video_id")


class Exclusions:
    """Lists, looked up against an index and against samples.

    Args:
        lines: of all lists.
        table: the index: columns ``sample_id clip_id video_id long_video_id identity_ids``.

    Attributes:
        reasons: per row None or why it is excluded; None where no line names a row.
        lines: by key type.
        unmatched: lines of key type ``sha256``. They name the bytes of a source, which no shard
            states: ``s2v-data takedown`` takes such sources out of the shards.
    """

    def __init__(self, lines: Sequence[Exclusion], table: pa.Table) -> None:
        keys: dict[str, set[str]] = {}
        for line in lines:
            keys.setdefault(line.key_type, set()).add(line.key)
        self.lines = dict(sorted(Counter(line.key_type for line in lines).items()))
        self.unmatched = self.lines.get("sha256", 0)
        reasons = np.full(table.num_rows, None, object)
        for name in _COLUMNS:
            _mark(reasons, name, _among(table[name], keys.get(name, set())))
        if wanted := keys.get("identity_id"):
            _mark(reasons, "identity_id", _lists_among(table["identity_ids"], wanted))
        self.reasons = reasons if (reasons != None).any() else None  # noqa: E711 - elementwise
        # A reference may be cut from another clip than its sample's: only its JSON says which.
        self._clips, self._subjects = keys.get("clip_id", set()), keys.get("subject_id", set())
        self._videos = set(keys.get("video_id", set()))
        if long := keys.get("long_video_id"):
            named = table["video_id"].filter(pa.array(_among(table["long_video_id"], long)))
            self._videos |= set(named.to_pylist())
            self._videos |= long  # a long video may be its own only source

    @classmethod
    def read(cls, paths: Sequence[str | Path], table: pa.Table) -> Exclusions:
        """Read lists.

        Raises:
            ModelError: naming file and line. A list that cannot be read stops the run.
        """
        try:
            return cls([line for path in paths for line in read_exclusions(Path(path))], table)
        except ExclusionError as error:
            raise ModelError(f"data.exclusions: {error}") from None
        except OSError as error:
            raise ModelError(
                f"data.exclusions: {error.filename}: {error.strerror}; name a JSONL file that this "
                "user may read, or take it out"
            ) from None

    @property
    def told(self) -> str:
        """What a user has to know of lines that cannot be honoured here."""
        return (
            f"data.exclusions: {self.unmatched} lines name a source by sha256, which shards do not "
            "state; take them out of the shards with `s2v-data takedown`"
        )

    @property
    def asks(self) -> bool:
        """Whether a sample's JSON has to be looked at."""
        return bool(self._clips or self._subjects or self._videos)

    def reason(self, meta: SampleMeta) -> str | None:
        """Why a sample is excluded by its references, or None."""
        for reference in meta.refs:
            if reference.subject_id in self._subjects:
                return _why("subject_id")
            if reference.from_.clip_id in self._clips:
                return _why("clip_id of a reference")
            if reference.from_.source in self._videos:
                return _why("video_id of a reference")
        return None

    def of_sample(self, sample: Sample) -> str | None:
        """As :meth:`reason`, of a sample whose JSON is read if it has to be looked at.

        Raises:
            ModelError: it cannot be read.
        """
        if not self.asks:
            return None
        try:
            return self.reason(sample.meta())
        except (ShardError, KeyError, ValidationError) as error:
            said = str(error).splitlines()[0]
            raise ModelError(f"{sample.folder}: sample {sample.id}, member json: {said}") from None


def _why(name: str) -> str:
    return f"excluded by {name}"


def _mark(reasons: npt.NDArray[np.object_], name: str, named: npt.NDArray[np.bool_]) -> None:
    reasons[named & (reasons == None)] = _why(name)  # noqa: E711 - elementwise


def _among(column: pa.ChunkedArray, keys: set[str]) -> npt.NDArray[np.bool_]:
    if not keys:
        return np.zeros(len(column), np.bool_)
    found = pc.is_in(column, value_set=pa.array(sorted(keys), pa.string()))
    return np.asarray(found.to_numpy(), np.bool_)


def _lists_among(column: pa.ChunkedArray, keys: set[str]) -> npt.NDArray[np.bool_]:
    named = np.zeros(len(column), np.bool_)
    parents = pc.list_parent_indices(column).to_numpy()
    named[parents[_among(pc.list_flatten(column), keys)]] = True
    return named
