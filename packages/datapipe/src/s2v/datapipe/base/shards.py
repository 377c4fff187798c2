"""The shard sample and the reader of its index.

A shard folder holds ``*.tar`` files of WebDataset samples and ``index/samples.parquet``
with one row per sample, which names each member's shard, data offset, size and sha256.
The reader seeks: no tar is scanned, and any sample is one ``pread`` per member away.

Members of a sample: ``<id>.mp4 <id>.txt <id>.json`` and, per reference,
``<id>.ref0.jpg`` (crop with margin) and ``<id>.ref0.mask.png``, up to ``ref5``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from s2v.datapipe.base.index_rows import IndexRows

SCHEMA_VERSION: Final = "s2v-sample-1"
MAX_REFERENCES: Final = 6
INDEX_FILE: Final = "index/samples.parquet"
PairType = Literal["in", "cross", "image", "t2v"]
Part = Literal["train", "val", "test"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where the clip came from, and what was stated of it.

    ``start_us``/``end_us`` are on the source's time line, which begins ``offset_us`` into its
    long video. Fields with a default came later: older shards do not have them.
    """

    video_id: str
    long_video_id: str
    clip_id: str
    licence: str | None
    url: str | None
    credit: str | None
    start_us: int
    end_us: int
    offset_us: int | None = None
    consent: str | None = None
    minors: str | None = None
    face_policy: str | None = None


class Video(_Strict):
    """The encoded clip: number of frames, frames per second, pixels."""

    frames: int
    fps: float
    height: int
    width: int


class ReferenceSource(_Strict):
    """The frame a reference was cut from."""

    clip_id: str
    pts_us: int
    source: str  # video_id
    licence: str | None


class ReferenceScores(_Strict):
    """Scores of one reference; null when not measured or not applicable (in-pairs have no gap)."""

    similarity: float | None = None  # cosine between the two subjects' embeddings
    face_similarity: float | None = None
    background_similarity: float | None = None
    detector: float | None = None
    area_share: float | None = None
    blur: float | None = None
    distance_us: int | None = None  # from the span that is trained on; null in another file


class Verdicts(_Strict):
    """The pair verifier's two answers: ``yes``, ``no``, ``unsure`` or ``not asked``."""

    same_identity: str = "not asked"
    different_context: str = "not asked"
    verifier: str | None = None  # model id, or the rules' version
    prompt_sha256: str | None = None  # of a model


class SampleScores(_Strict):
    """Scores of the clip, from the tables ``clips`` and ``quality``."""

    motion: float | None = None
    luma: float | None = None
    blur: float | None = None
    text_share: float | None = None
    nsfw: float | None = None
    aesthetic: float | None = None


class Reference(_Strict):
    """One reference image: the subject of one phrase of the caption.

    ``box`` is the subject inside the *stored crop* (xyxy pixels); ``span`` are the
    phrase's character positions in the caption.
    """

    subject_id: str
    identity_id: str | None
    phrase: str
    span: tuple[int, int]
    class_: str  # person | creature | thing
    noun: str
    box: tuple[float, float, float, float]
    from_: ReferenceSource
    scores: ReferenceScores
    verdicts: Verdicts
    # human | animal | clothes | product | landmark | ip_character | other; older shards lack it
    category: str | None = None

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.rstrip("_"),
        populate_by_name=True,
    )


class SampleMeta(_Strict):
    """``<id>.json``: keys are always present, null when absent."""

    schema_: str
    pair_type: PairType
    split: Literal["train", "test"]
    heldout: bool
    scenario: str
    caption: str
    source: Source
    video: Video
    refs: tuple[Reference, ...]
    scores: SampleScores

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.rstrip("_"),
        populate_by_name=True,
    )

    def to_json(self, *, as_read: bool = False) -> bytes:
        """Serialise with sorted keys: same sample, same bytes.

        Args:
            as_read: leave out what was not in the JSON it was read from: an older shard's is as it
                was when its version wrote it.
        """
        data = self.model_dump(mode="json", by_alias=True, exclude_unset=as_read)
        return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> SampleMeta:
        """Parse and validate; unknown or missing keys raise ``pydantic.ValidationError``."""
        return cls.model_validate_json(raw)


MEMBER: Final = pa.struct(
    [
        pa.field("suffix", pa.string()),  # mp4, txt, json, ref0.jpg, ref0.mask.png
        pa.field("offset", pa.int64()),  # of the data, in the shard
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
    ]
)

INDEX: Final = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("shard", pa.string()),  # file name in the folder
        pa.field("pair_type", pa.string()),
        pa.field("split", pa.string()),
        pa.field("heldout", pa.bool_()),
        pa.field("part", pa.string()),  # train | val | test: what readers of other people choose
        pa.field("scenario", pa.string()),
        pa.field("video_id", pa.string()),
        pa.field("long_video_id", pa.string()),
        pa.field("clip_id", pa.string()),
        pa.field("identity_ids", pa.list_(pa.string())),
        pa.field("caption", pa.string()),
        pa.field("frames", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        pa.field("references", pa.int64()),
        pa.field("members", pa.list_(MEMBER)),
    ]
)


_TAR_BLOCK: Final = 512
_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}\.tar")


def part_of(split: str, heldout: bool) -> Part:
    """The part of the dataset that a sample belongs to; a shard holds samples of one part.

    ``test`` shares no source and no identity with the others; ``val`` are other scenes of
    training sources, for validation losses.
    """
    if split == "test":
        return "test"
    return "val" if heldout else "train"


def _header(block: bytes) -> tuple[str, int]:
    """Name and size of a member as its ustar header says, ``("", -1)`` of anything else."""
    try:
        return block[:100].rstrip(b"\0").decode(), int(block[124:135], 8)
    except ValueError:
        return "", -1


def kind_of(pair_type: str, split: str, heldout: bool) -> str:
    """What the shards of such samples are named by: ``in``, ``in-val``, ``in-test``, ..."""
    part = part_of(split, heldout)
    return pair_type if part == "train" else f"{pair_type}-{part}"


class ShardError(RuntimeError):
    """A shard folder or member that is not what its index says."""


@dataclass(frozen=True)
class Sample:
    """One row of the index, bound to its folder; members are read on demand."""

    folder: Path
    row: dict[str, Any]

    @property
    def id(self) -> str:
        """The sample id, which is also the WebDataset key."""
        return str(self.row["sample_id"])

    @property
    def suffixes(self) -> list[str]:
        """Names of the members: ``mp4``, ``txt``, ``json``, ``ref0.jpg``, ..."""
        return [str(m["suffix"]) for m in self.row["members"]]

    def read(self, suffix: str, *, verify: bool = False) -> bytes:
        """Read one member.

        Args:
            suffix: e.g. ``"mp4"`` or ``"ref0.mask.png"``.
            verify: also check the member's sha256 against the index.

        Raises:
            KeyError: the sample has no such member.
            ShardError: the shard is missing, short or changed.
        """
        for member in self.row["members"]:
            if member["suffix"] == suffix:
                return self._pread(member, verify)
        raise KeyError(f"sample {self.id} has no member {suffix!r}; it has {self.suffixes}")

    def _pread(self, member: dict[str, Any], verify: bool) -> bytes:
        path = self.folder / str(self.row["shard"])
        where = f"{path}: sample {self.id}, member {member['suffix']}"
        size, at = int(member["size"]), int(member["offset"]) - _TAR_BLOCK
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ShardError(
                f"{where}: the shard is missing; write it again: `s2v-data select --config FILE`"
            ) from None
        try:
            if min(size, at) < 0 or at + size > os.fstat(opened).st_size:
                raise ShardError(
                    f"{where}: {size} bytes at {member['offset']} are not in the shard; it is "
                    "cut short, or the index is not of it"
                )
            # Two reads: cutting the header off one would copy the data.
            header = os.pread(opened, _TAR_BLOCK, at)
            data = os.pread(opened, size, at + _TAR_BLOCK)
        finally:
            os.close(opened)
        if len(data) != size:
            raise ShardError(f"{where}: {len(data)} of {size} bytes; the shard is cut short")
        # The header stands before the data: a folder that was written anew since its index was
        # read is found out, at the price of one block.
        if _header(header) != (f"{self.id}.{member['suffix']}", size):
            raise ShardError(
                f"{where}: something else stands there; was the folder written anew since it was "
                "opened? open it again"
            )
        if verify and hashlib.sha256(data).hexdigest() != member["sha256"]:
            raise ShardError(f"{where}: sha256 differs from the index; the shard was changed")
        return data

    def meta(self) -> SampleMeta:
        """Parse ``<id>.json``, its sha256 checked: a changed letter is a caption of another clip.

        Raises:
            ShardError: as :meth:`read`.
        """
        return SampleMeta.from_json(self.read("json", verify=True))


def _with_nulls(table: pa.Table) -> list[str]:
    """Columns that say nothing somewhere; only the identity of a reference may be unknown."""
    empty = [name for name in table.schema.names if table[name].null_count]
    if "members" in table.schema.names and "members" not in empty:
        members = pa.chunked_array([chunk.flatten() for chunk in table["members"].chunks], MEMBER)
        inside = [] if not len(members) else [c.null_count for c in members.flatten()]
        empty += ["members"] * bool(members.null_count or sum(inside))
    return empty


#: Rows above which members and captions stay in the file until they are asked for.
LARGE_ROWS: Final = 65_536
_HEAVY: Final = ("members", "caption")


class ShardIndex:
    """All samples of a shard folder, in index order (by pair type, shard and position).

    Attributes:
        folder: of the shards.
        table: the columns of :data:`INDEX`; of a large index all but ``members`` and ``caption``.
    """

    def __init__(self, folder: Path, table: pa.Table, rows: IndexRows | None = None) -> None:
        self.folder = folder
        self.table = table
        self._rows = rows

    @classmethod
    def open(cls, folder: str | Path, *, large: int = LARGE_ROWS) -> ShardIndex:
        """Open ``folder/index/samples.parquet``.

        Args:
            folder: of the shards.
            large: rows above which single rows are read when they are asked for.

        Raises:
            ShardError: when the folder has no index or one of another schema.
        """
        folder = Path(folder)
        path = folder / INDEX_FILE
        if not path.is_file():
            raise ShardError(f"{path}: no index; write the shards first: `s2v-data run`")
        try:
            # The same open file for columns and rows: it may be replaced meanwhile.
            rows = IndexRows(path)
            named = set(rows.names)
            light = [n for n in rows.names if len(rows) <= large or n not in _HEAVY]
            table = rows.columns(light)
        except pa.ArrowInvalid as error:
            raise ShardError(
                f"{path}: the index is damaged ({error}); write it anew: `s2v-data run`"
            ) from None
        except OSError as error:  # Arrow's, which has no name
            raise ShardError(
                f"{path}: cannot be read ({error.strerror or error}); change its permissions, or "
                "see that its disk is there"
            ) from None
        if "part" not in table.schema.names and {"split", "heldout"} <= set(table.schema.names):
            flags = zip(table["split"].to_pylist(), table["heldout"].to_pylist(), strict=True)
            parts = [part_of(split, heldout) for split, heldout in flags]  # an older folder
            table = table.append_column("part", pa.array(parts, pa.string()))
        if missing := set(INDEX.names) - named - set(table.schema.names):
            raise ShardError(
                f"{path}: columns {sorted(missing)} are missing; written by another version?"
            )
        try:
            schema = pa.schema([field for field in INDEX if field.name in table.schema.names])
            table = table.select(schema.names).cast(schema)
        except pa.ArrowInvalid as error:
            raise ShardError(f"{path}: is not of this version ({error})") from None
        for name in table["shard"].unique().to_pylist():
            # Indexes are downloaded, and could name any file of this machine.
            if name is not None and not _SHARD_NAME.fullmatch(name):
                raise ShardError(f"{path}: {name!r} is no name of a shard; fetch the index again")
        if empty := _with_nulls(table):
            raise ShardError(
                f"{path}: has rows without {', '.join(empty)}; fetch it again, or write it anew: "
                "`s2v-data run`"
            )
        return cls(folder, table, rows if len(rows) > large else None)

    def __len__(self) -> int:
        return len(self._rows) if self._rows is not None else int(self.table.num_rows)

    def __iter__(self) -> Iterator[Sample]:
        if self._rows is not None:
            for table in self._rows.batches():
                yield from map(self._checked, table.to_pylist())
            return
        for batch in self.table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                yield Sample(self.folder, row)

    def __getitem__(self, i: int) -> Sample:
        if self._rows is not None:
            return self._checked(self._rows[i])
        row = self.table.slice(i, 1).to_pylist()
        if not row:
            raise IndexError(f"sample {i} of {len(self)}")
        return Sample(self.folder, row[0])

    def _checked(self, row: dict[str, Any]) -> Sample:
        """A row of a large index, which was not looked at when the index was opened."""
        members, name = row["members"], row["shard"]
        named = isinstance(name, str) and _SHARD_NAME.fullmatch(name)
        if not named or not members or any(m is None or None in m.values() for m in members):
            raise ShardError(
                f"{self.folder / INDEX_FILE}: sample {row['sample_id']} has no shard or members; "
                "fetch it again, or write it anew: `s2v-data run`"
            )
        row.setdefault("part", part_of(row["split"], row["heldout"]))
        return Sample(self.folder, row)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a large index goes as its file, not as its columns."""
        table = self.table if self._rows is None else self.table.schema.empty_table()
        return {"folder": self.folder, "table": table, "_rows": self._rows}
