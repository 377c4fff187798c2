"""OpenS2V-5M's JSON (2505.20292): objects of one frame with run-length masks, and pairs of clips.

A ``total_part<N>.json`` is one JSON object, 32 to 66 GB, of entries like::

    "<key>": {"metadata": {"path", "cut", "face_cut", "crop": [x0, x1, y0, y1], "fps",
                           "num_frames", "resolution": {"height", "width"}, "cap", "face_cap_qwen",
                           "aesthetic", ...},
              "word_tags": {"background", "subject", "object", "pre_define"},
              "annotation": {"ann_frame_data": {"ann_frame_idx", "annotations": [{"class_name",
                                                "bbox", "gme_score", "aes_score"}]},
                             "mask_map": {"1": {"class_name"}},
                             "mask_annotation": {"<frame>": {"1": {"size", "counts", "score"}}}}}

Frame numbers count from the first frame of the file at ``path``, whatever ``cut`` is; masks and
boxes are of the frame after ``crop``, whose order is x, x, y, y. Pairs are lists, one file per
long video, of ``{"cur_id", "aft_id", "cur_class_name", "aft_class_name", "image_similarity"}``,
where an id is ``<part>/<key>`` and objects are named by class only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from s2v.datapipe.backends.nouns import refusal
from s2v.datapipe.base import ids
from s2v.datapipe.base.media import masks
from s2v.datapipe.base.media.boxes import area_share
from s2v.datapipe.interop.bounded import Fields, entries, load
from s2v.datapipe.interop.errors import InteropError, RowError
from s2v.datapipe.interop.imported import (
    Candidate,
    Clip,
    Imported,
    Moment,
    Subject,
    find_phrase,
    head_noun,
    subject,
)
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.pixels import decode_mask
from s2v.datapipe.interop.settings import ImportSettings

_MAX_OBJECTS: Final = 1000
_MAX_PIXELS: Final = 8192 * 4352


@dataclass(frozen=True)
class Entry:
    """One clip of the dataset, checked.

    Attributes:
        key: its key, unique in the files given.
        clip: where it is.
        caption: ``face_cap_qwen``, else the first of ``cap``.
        objects: those that may be references: words of the caption first, larger masks first.
        named: how many objects of each class the entry has, usable or not.
    """

    key: str
    where: str
    clip: Clip
    caption: str
    aesthetic: float | None
    objects: tuple[Object, ...]
    named: dict[str, int]


@dataclass(frozen=True)
class Object:
    """An object with its mask."""

    name: str
    candidate: Candidate


@dataclass(frozen=True)
class _Sized:
    """An object with its place among those of its frame, and its mask as packed bits."""

    rank: tuple[bool, int, int, str]
    object: Object
    pixels: int
    bits: np.ndarray


class OpenS2V:
    """Files of the dataset, opened for import."""

    def __init__(self, files: Iterable[Path], pairs: Path | None, settings: ImportSettings) -> None:
        """Take the files.

        Args:
            files: ``total_part<N>.json``; keys must differ between them.
            pairs: a JSON of cross-frame pairs, or a folder of them; ``None`` makes no pairs.
            settings: pair types, part, bounds.
        """
        self.files, self.pairs, self.settings = sorted(files), pairs, settings

    def samples(self, ledger: Ledger) -> list[Imported]:
        """All samples of the part, with what could not be used in the ledger."""
        found: dict[str, Entry] = {}
        for path in self.files:
            for key, value in entries(path):
                if not self._ours(key):
                    continue
                ledger.found("row")
                where = f"{path.name}, entry {key[:200]!r}"
                try:
                    if key in found:
                        raise RowError("id twice", f"also in {found[key].where}")
                    found[key] = self._entry(key, value, where, ledger)
                except RowError as error:
                    ledger.leave("row", key, where, error)
        made: dict[str, list[Imported]] = {key: [] for key in found}
        if "in" in self.settings.pair_types:
            for key, entry in found.items():
                if entry.objects:
                    made[key].append(_in_pair(entry))
        if self.pairs is not None and "cross" in self.settings.pair_types:
            for sample in self._cross(found, self.pairs, ledger):
                made[sample.row].append(sample)
        for key, entry in found.items():
            if not made[key]:
                why = "no object could be used" if not entry.objects else "it is in no pair"
                ledger.leave("row", key, entry.where, RowError("no usable reference", why))
        return [sample for key in found for sample in made[key]]

    def _ours(self, key: str) -> bool:
        part = self.settings.part
        return part.of == 1 or ids.bucket(long_name(key), part.of) == part.number

    def _entry(self, key: str, value: Any, where: str, ledger: Ledger) -> Entry:
        entry = Fields(value, "entry")
        metadata = entry.object("metadata")
        caption = _caption(metadata)
        x0, x1, y0, y1 = metadata.integers("crop", 4)
        if not (0 <= x0 < x1 and 0 <= y0 < y1 and (x1 - x0) * (y1 - y0) <= _MAX_PIXELS):
            raise RowError("crop outside the frame", f"crop is {[x0, x1, y0, y1]} (x, x, y, y)")
        span = metadata.integers("face_cut" if "face_cut" in metadata else "cut", 2)
        if not 0 <= span[0] < span[1]:
            raise RowError("span outside the video", f"cut is {span}")
        clip = Clip(
            name=key,
            path=metadata.text("path", 1000),
            long_name=long_name(key),
            frames=(span[0], span[1]),
            crop=(x0, y0, x1, y1),
        )
        aesthetic = metadata.number("aesthetic") if "aesthetic" in metadata else None
        # Objects count as references where samples of the clip itself are made.
        account = ledger if "in" in self.settings.pair_types else Ledger()
        objects, named = self._objects(entry, clip, caption, where, account)
        return Entry(key, where, clip, caption, aesthetic, tuple(objects), named)

    def _objects(
        self, entry: Fields, clip: Clip, caption: str, where: str, ledger: Ledger
    ) -> tuple[list[Object], dict[str, int]]:
        annotation = entry.object("annotation")
        names = annotation.object("mask_map")
        frame = annotation.object("ann_frame_data").integer("ann_frame_idx")
        on_frame = annotation.object("mask_annotation").object(str(frame))
        numbers = sorted(on_frame, key=lambda n: (len(n), n))[:_MAX_OBJECTS]
        background, general = _tags(entry, "background"), _tags(entry, "pre_define")
        ledger.found("reference", len(on_frame))
        size = (clip.crop[3] - clip.crop[1], clip.crop[2] - clip.crop[0]) if clip.crop else (0, 0)
        sized: list[_Sized] = []
        named: dict[str, int] = defaultdict(int)
        for number in on_frame:
            label = f"{clip.name}/{number}"
            try:
                if number not in numbers:
                    raise RowError("unreadable reference", f"over {_MAX_OBJECTS} objects")
                name = names.object(number).text("class_name", 200)
                named[name] += 1
                _check_name(name, background, caption)
                rle = _rle(on_frame.object(number))
                mask = decode_mask(rle, size)
                around = masks.bounding_box(mask)
                if around is None:
                    raise RowError("mask empty", label)
                self._check_size(mask, around)
                candidate = Candidate(
                    id=f"{clip.name}@{frame}#{number}",
                    clip=clip,
                    moment=Moment(index=frame),
                    box=(float(around[0]), float(around[1]), float(around[2]), float(around[3])),
                    mask=rle,
                )
                small = np.packbits(mask)
                rank = (name in general, -int(mask.sum()), len(number), number)
                sized.append(_Sized(rank, Object(name, candidate), int(mask.sum()), small))
            except RowError as error:
                ledger.leave("reference", label, where, _of_reference(error))
        return self._distinct(sized, where, ledger), dict(named)

    def _check_size(self, mask: np.ndarray, around: tuple[int, int, int, int]) -> None:
        height, width = mask.shape
        share = int(mask.sum()) / mask.size
        covered = area_share(around, width, height)
        if share < self.settings.min_share or covered > self.settings.max_share:
            raise RowError(
                "too small or too large", f"mask {share:.3f}, box {covered:.3f} of the frame"
            )

    def _distinct(self, sized: list[_Sized], where: str, ledger: Ledger) -> list[Object]:
        """One object per thing: the detector finds a woman as woman, person and individual.

        The words that the dataset looks for in every clip yield to those of the caption.
        """
        kept: list[_Sized] = []
        for one in sorted(sized, key=lambda item: item.rank):
            twin = next((k for k in kept if _overlap(k, one) > self.settings.same_mask), None)
            if twin is None:
                kept.append(one)
            else:
                error = RowError(
                    "same object under another name",
                    f"{one.object.name!r} is {twin.object.name!r}",
                )
                ledger.leave("reference", one.object.candidate.id, where, error)
        return [one.object for one in kept]

    def _cross(self, found: dict[str, Entry], pairs: Path, ledger: Ledger) -> Iterator[Imported]:
        """A sample per target that has an acceptable partner: the most alike below the bound."""
        offered: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
        for where, record in _pair_records(pairs):
            for target, partner in (("cur", "aft"), ("aft", "cur")):
                self._pair(found, record, target, partner, where, offered, ledger)
        by_target: dict[str, list[Subject]] = defaultdict(list)
        for (key, name), candidates in sorted(offered.items()):
            entry = found[key]
            best = sorted(candidates, key=lambda c: (-(c.similarity or 0.0), c.id))
            by_target[key].append(subject(name, find_phrase(name, entry.caption), best))
        for key, subjects in by_target.items():
            entry = found[key]
            yield Imported(
                pair_type="cross",
                row=key,
                where=entry.where,
                clip=entry.clip,
                caption=entry.caption,
                subjects=tuple(subjects),
                aesthetic=entry.aesthetic,
            )

    def _pair(
        self,
        found: dict[str, Entry],
        record: Any,
        target: str,
        partner: str,
        where: str,
        offered: dict[tuple[str, str], list[Candidate]],
        ledger: Ledger,
    ) -> None:
        name = f"{where} ({target} from {partner})"
        try:
            fields = Fields(record, "pair", "unreadable reference")
            mine, other = (_key(fields.text(f"{side}_id", 500)) for side in (target, partner))
            if mine not in found and other not in found and self.settings.part.of > 1:
                return  # of another part
            ledger.found("reference")
            for key in (mine, other):
                if key not in found:
                    raise RowError("partner unknown", f"{key!r} is in none of the files")
            if mine == other:
                raise RowError("from the target itself", mine)
            similarity = fields.number("image_similarity")
            if similarity > self.settings.max_similarity:
                raise RowError(
                    "near copy", f"similarity {similarity} over {self.settings.max_similarity}"
                )
            phrase = fields.text(f"{target}_class_name", 200)
            _only(found[mine], phrase)
            shown = _only(found[other], fields.text(f"{partner}_class_name", 200)).candidate
            offered[mine, phrase].append(
                Candidate(
                    id=shown.id,
                    clip=shown.clip,
                    moment=shown.moment,
                    box=shown.box,
                    mask=shown.mask,
                    similarity=round(similarity, 6),
                )
            )
        except RowError as error:
            if error.reason == "unreadable reference" and not isinstance(record, dict):
                ledger.found("reference")
            ledger.leave("reference", name, where, error)


def _pair_records(pairs: Path) -> Iterator[tuple[str, Any]]:
    files = sorted(pairs.rglob("*.json")) if pairs.is_dir() else [pairs]
    if not files:
        raise InteropError(f"{pairs}: holds no .json of cross-frame pairs")
    for path in files:
        records = load(path)
        if not isinstance(records, list):
            raise InteropError(
                f"{path}: is no list of pairs; give the folder of cross-frame JSON files, not "
                "the clusters"
            )
        for number, record in enumerate(records):
            yield f"{path.name}, pair {number}", record


def _in_pair(entry: Entry) -> Imported:
    """References of the target clip itself, one per phrase, largest mask first."""
    by_name: dict[str, list[Candidate]] = defaultdict(list)
    for one in entry.objects:
        by_name[one.name].append(one.candidate)
    subjects = [
        subject(name, find_phrase(name, entry.caption), found) for name, found in by_name.items()
    ]
    return Imported(
        pair_type="in",
        row=entry.key,
        where=entry.where,
        clip=entry.clip,
        caption=entry.caption,
        subjects=tuple(subjects),
        aesthetic=entry.aesthetic,
    )


def _only(entry: Entry, name: str) -> Object:
    """The one object of a class; pairs name no other mark."""
    if entry.named.get(name, 0) > 1:
        raise RowError(
            "object not named uniquely", f"{entry.key} has {entry.named[name]} of {name!r}"
        )
    found = [one for one in entry.objects if one.name == name]
    if not found:
        raise RowError("partner unknown", f"{entry.key} has no usable {name!r}")
    return found[0]


def long_name(key: str) -> str:
    """The long video of a clip, by the rule of the dataset's own ``step6-1_get_cluster.py``."""
    name = key.split("_segment", maxsplit=1)[0]
    return name if name != key else key.split("_part", maxsplit=1)[0]


def _key(pair_id: str) -> str:
    """``<part>/<key>`` as the key of its entry."""
    return pair_id.rsplit("/", 1)[-1]


def _caption(metadata: Fields) -> str:
    """``face_cap_qwen`` describes ``face_cut``, ``cap`` describes ``cut``."""
    if "face_cap_qwen" in metadata:
        return metadata.text("face_cap_qwen").strip()
    if "cap" not in metadata:
        raise RowError("no caption", "neither face_cap_qwen nor cap")
    first = metadata.items("cap")[:1]
    if not first or not isinstance(first[0], str) or not first[0].strip():
        raise RowError("no caption", f"cap is {repr(first)[:80]}")
    return first[0].strip()[:20_000]


def _tags(entry: Fields, kind: str) -> frozenset[str]:
    if "word_tags" not in entry:
        return frozenset()
    tags = entry.object("word_tags")
    words = tags.items(kind) if kind in tags else []
    return frozenset(str(word) for word in words)


def _check_name(name: str, background: frozenset[str], caption: str) -> None:
    if name in background:
        raise RowError("background", f"{name!r} is tagged as background")
    if why := refusal(head_noun(name), name, singular=True):
        raise RowError("no subject", f"{name!r}: {why}")
    find_phrase(name, caption)


def _rle(fields: Fields) -> masks.Rle:
    return {"size": fields.integers("size", 2), "counts": fields.text("counts", 4 << 20)}


def _of_reference(error: RowError) -> RowError:
    """What is unreadable in an object makes the object unreadable, not its row."""
    if error.reason == "unreadable row":
        return RowError("unreadable reference", error.message)
    return error


def _overlap(one: _Sized, other: _Sized) -> float:
    both = int(np.bitwise_count(one.bits & other.bits).sum())
    return both / (one.pixels + other.pixels - both)
