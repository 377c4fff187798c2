"""What a sample at a size needs of its entry, and what a stored entry says it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from s2v.datapipe.base.ids import stable_hash
from s2v.datapipe.base.shards import MAX_REFERENCES, Reference, Sample, SampleMeta
from s2v.model import binding
from s2v.model.config import DataConfig
from s2v.model.data.index import windows
from s2v.model.data.references import FORMS, Form

Size = tuple[int, int, int]  # frames, height, width in pixels
#: What an entry's tensors are called.
NAMES: Final = ("image", "reference_subject", "references", "text", "text_subject", "video")


@dataclass(frozen=True)
class Want:
    """What a run needs of a sample at one size.

    Attributes:
        size: ``(frames, height, width)``.
        windows: ``(start, stride)`` in source frames, per variant.
        references: candidates; 0 where the run takes none.
        forms: of each reference, those that the run draws from.
    """

    size: Size
    windows: tuple[tuple[int, int], ...]
    references: int
    forms: tuple[Form, ...]


def want(sample: Sample, config: DataConfig) -> Want:
    """What a run of this configuration needs of a sample, at the configuration's size."""
    row = sample.row
    spans = windows(int(row["frames"]), float(row["fps"]), config)
    return Want(
        size=(config.frames, config.height, config.width),
        windows=tuple((w.start, w.stride) for w in spans),
        references=min(int(row["references"]), MAX_REFERENCES) if config.max_references else 0,
        forms=tuple(form for form in FORMS if form in config.forms),
    )


def sized(config: DataConfig, size: Size) -> DataConfig:
    """The same settings for clips of another size."""
    frames, height, width = size
    if (config.frames, config.height, config.width) == size:
        return config
    return config.model_copy(update={"frames": frames, "height": height, "width": width})


def content(sample: Sample) -> str:
    """16 hex over the members' digests: a caption may change while the sample keeps its id."""
    return stable_hash([f"{m['suffix']}:{m['sha256']}" for m in sample.row["members"]], 16)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Parts(_Strict):
    """Digests of what each part of an entry was made from, so that only what changed is made.

    16 hex each: the clip and its windows; the reference images, forms and whether they may be
    mirrored; the caption with the phrases' places.
    """

    video: str
    references: str
    text: str


def parts(sample: Sample, meta: SampleMeta, wanted: Want) -> Parts:
    """Digests of a sample's parts.

    Args:
        sample: its row names the members' digests.
        meta: its JSON.
        wanted: at which size, in which windows and forms.
    """
    digests = {str(m["suffix"]): str(m["sha256"]) for m in sample.row["members"]}
    refs = meta.refs[: wanted.references]
    images = [
        # What the subject is says whether it may be mirrored.
        repr((digests.get(f"ref{k}.jpg"), digests.get(f"ref{k}.mask.png"), *_kind(ref)))
        for k, ref in enumerate(refs)
    ]
    subjects = binding.numbered([r.identity_id or r.subject_id for r in refs])
    spans = [tuple(r.span) for r in refs]
    shape = repr((wanted.size, len(wanted.windows), wanted.forms))
    return Parts(
        video=stable_hash([repr((digests.get("mp4"), wanted.size, wanted.windows))], 16),
        references=stable_hash([shape, *images], 16),
        text=stable_hash([repr((meta.caption, spans, subjects))], 16),
    )


def _kind(ref: Reference) -> tuple[str, str | None, bool]:
    return ref.class_, ref.category, ref.scores.face_similarity is None


class Entry(_Strict):
    """One stored sample at one size.

    Attributes:
        sample_id: of the sample.
        size: ``(frames, height, width)`` of its clip.
        content: of :func:`content` when it was made.
        parts: of :func:`parts` when it was made.
        windows: ``(start, stride)`` per stored variant.
        references: stored candidates.
        forms: stored of each.
        offset: of the data in the file.
        bytes: of the data.
        sha256: of the data.
    """

    sample_id: str
    size: Size
    content: str
    parts: Parts
    windows: tuple[tuple[int, int], ...]
    references: int
    forms: tuple[Form, ...]
    offset: int
    bytes: int
    sha256: str

    def has(self, wanted: Want) -> bool:
        """Whether all that is wanted is stored; more may be."""
        return (
            self.size == wanted.size
            and self.windows[: len(wanted.windows)] == wanted.windows
            and self.references >= wanted.references
            and set(wanted.forms) <= set(self.forms)
        )


class Fault(_Strict):
    """A sample that could not be encoded, as it was."""

    sample_id: str
    size: Size
    content: str
    message: str


class FileIndex(_Strict):
    """What one file of a latents folder holds.

    Attributes:
        format: of the file.
        fingerprint: of what made it.
        shard: the tar whose samples these are.
        entries: in the order of the file.
        faults: samples of the shard that could not be encoded.
    """

    format: str
    fingerprint: str
    shard: str
    entries: tuple[Entry, ...]
    faults: tuple[Fault, ...]
