"""From an imported sample to its members: frames are decoded, references cut, the clip encoded.

Strangers' videos are opened in child processes only; what is wrong with one is the reason of its
row or reference, and the import goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from s2v.datapipe.base import ids, shards
from s2v.datapipe.base.atomic import sha256_file
from s2v.datapipe.base.media import boxes, isolated, masks
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg, encode_png_mask
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.interop.errors import RowError
from s2v.datapipe.interop.imported import (
    Candidate,
    Clip,
    Imported,
    Moment,
    Subject,
    name_to_id,
    to_frame,
)
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Film, Videos, film, unusable
from s2v.datapipe.pair.exclusions import ExclusionIndex, read_exclusions
from s2v.datapipe.pair.scenario import scenario

_CUT: Final = "s2v.datapipe.base.media.cut:cut_clip"
_MAX_RUNS: Final = 4 << 20  # characters of one mask's run lengths


@dataclass(frozen=True)
class Found:
    """A clip on the user's disk.

    Attributes:
        film: the file.
        video_id, long_video_id: ids of our alphabet.
        start_us, end_us: on the file's time line.
        whole: whether the file holds the whole long video and not the clip alone.
        crop: of the picture, ``None`` for all of it.
        size: width and height of what is used of the picture.
        url: where it was published.
    """

    film: Film
    video_id: str
    long_video_id: str
    start_us: int
    end_us: int
    whole: bool
    crop: tuple[int, int, int, int] | None
    size: tuple[int, int]
    url: str | None
    offset_us: int | None

    @property
    def clip_id(self) -> str:
        """``<video_id>-<startms>-<endms>``."""
        return ids.clip_id(self.video_id, self.start_us, self.end_us)

    def time_of(self, moment: Moment) -> int:
        """Microseconds in the file of a frame that a dataset names.

        Raises:
            RowError: it lies outside the file or the clip.
        """
        if moment.share is not None:
            if not 0 <= moment.share < 1:
                raise RowError(
                    "frame beyond the clip", f"share {moment.share} is not in [0, 1) of the clip"
                )
            if self.whole:
                return self.start_us + int(moment.share * (self.end_us - self.start_us))
            times = self.film.times()
            return times[int(len(times) * moment.share)]
        times, index = self.film.times(), moment.index
        if index is None or not 0 <= index < len(times):
            raise RowError(
                "frame beyond the clip", f"frame {index} of {len(times)} in {self.film.path.name}"
            )
        return times[index]


def locate(clip: Clip, videos: Videos) -> Found:
    """Find a clip's file and its span in it.

    Raises:
        RowError: not there, unusable, or shorter than the dataset says.
    """
    path = videos.at(clip.path) if clip.path else videos.named(clip.names)
    whole = path is None and clip.seconds is not None
    if whole:
        path = videos.named(clip.whole)
    if path is None:
        names = ", ".join((*clip.names, *clip.whole)[:4])
        raise RowError("video not found", f"no file is named {names}")
    found = film(path)
    start, end = _span(clip, found, whole)
    crop = _crop(clip, found)
    width, height = found.facts.width, found.facts.height
    size = (crop[2] - crop[0], crop[3] - crop[1]) if crop else (width, height)
    name = (clip.whole[0] if whole else clip.path) or clip.name
    return Found(
        film=found,
        video_id=name_to_id("v", name),
        long_video_id=name_to_id("l", clip.long_name or name),
        start_us=start,
        end_us=end,
        whole=whole,
        crop=crop,
        size=size,
        url=clip.url,
        offset_us=0 if whole else clip.offset_us,
    )


def _span(clip: Clip, found: Film, whole: bool) -> tuple[int, int]:
    facts = found.facts
    if whole:
        first, last = clip.seconds or (0.0, 0.0)
        start, end = round(first * 1e6), round(last * 1e6)
        if not 0 <= start < end <= facts.duration_us + 1_000_000:
            raise RowError(
                "span outside the video",
                f"{first}..{last} s of {found.path.name}, of {facts.duration_us / 1e6:.2f} s",
            )
        return start, min(end, facts.duration_us)
    if clip.frames is None:
        return 0, facts.duration_us
    times, (one, behind) = found.times(), clip.frames
    if not 0 <= one < behind <= len(times):
        raise RowError(
            "span outside the video",
            f"frames {one}..{behind} of {found.path.name}, which has {len(times)}",
        )
    return times[one], times[behind] if behind < len(times) else facts.duration_us


def _crop(clip: Clip, found: Film) -> tuple[int, int, int, int] | None:
    width, height = found.facts.width, found.facts.height
    if clip.crop is None or clip.crop == (0, 0, width, height):
        return None
    x0, y0, x1, y1 = clip.crop
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise RowError("crop outside the frame", f"x {x0}..{x1}, y {y0}..{y1} of {width}x{height}")
    return clip.crop


@dataclass(frozen=True)
class Built:
    """A sample ready to be written.

    Attributes:
        meta: what ``<id>.json`` says.
        members: bytes by suffix, in the order they are written.
        used: the candidates that became its references.
        refused: the others that were tried, with what was wrong.
    """

    meta: shards.SampleMeta
    members: dict[str, bytes]
    used: tuple[Candidate, ...]
    refused: tuple[tuple[Candidate, RowError], ...]


class UnbuiltError(Exception):
    """No sample came of it; what was wrong with the row and with each reference tried."""

    def __init__(
        self, error: RowError, refused: tuple[tuple[Candidate, RowError], ...] = ()
    ) -> None:
        self.error, self.refused = error, refused
        super().__init__(str(error))


class Builder:
    """Builds samples from the user's videos."""

    def __init__(self, videos: Videos, clips: Path, settings: ImportSettings) -> None:
        """Keep what to build with.

        Args:
            videos: of the user.
            clips: folder of encoded clips; one that is there is not encoded again.
            settings: sizes, margins, what is stated of the videos.
        """
        self.videos, self.clips, self.settings = videos, clips, settings
        listed = [one for path in settings.exclusions for one in read_exclusions(Path(path))]
        self.excluded = ExclusionIndex(listed)
        self._by_content = any(one.key_type == "sha256" for one in listed)

    def check_sample(self, sample_id: str) -> None:
        """Refuse a sample that is listed itself.

        Raises:
            RowError: it is.
        """
        if why := self.excluded.reason({"sample_id": sample_id}, "sample_id"):
            raise RowError("excluded", f"sample {sample_id}: {why}")

    def _locate(self, clip: Clip) -> Found:
        found = locate(clip, self.videos)
        row = {
            "video_id": found.video_id,
            "long_video_id": found.long_video_id,
            "clip_id": found.clip_id,
            "sha256": _sha256(found.film.path) if self._by_content else None,
        }
        if why := self.excluded.reason(row, "video_id", "long_video_id", "clip_id", "sha256"):
            raise RowError("excluded", f"{found.clip_id}: {why}")
        return found

    def build(self, sample: Imported, split: str) -> Built:
        """Build one sample.

        Raises:
            UnbuiltError: the clip or all references cannot be used.
            MediaError: only what may pass (disk full, a mount that is gone).
        """
        try:
            target = self._locate(sample.clip)
        except RowError as error:
            raise UnbuiltError(error) from None
        references: list[shards.Reference] = []
        used: list[Candidate] = []
        refused: list[tuple[Candidate, RowError]] = []
        images: dict[str, bytes] = {}
        for subject in sample.subjects:
            if len(references) == self.settings.max_references:
                break
            first = self._first(subject, refused)
            if first is None:
                continue
            n = len(references)
            subject_id = ids.subject_id(target.clip_id, n)
            references.append(_meta(first, sample, subject, subject_id, self.settings.licence))
            images |= {f"ref{n}.jpg": first.jpeg, f"ref{n}.mask.png": first.mask}
            used.append(first.candidate)
        if not references:
            what = RowError("no usable reference", f"none of {len(refused)} could be used")
            raise UnbuiltError(what, tuple(refused))
        try:
            path = self._cut(target)
        except RowError as error:
            raise UnbuiltError(error, tuple(refused)) from None
        meta = self._sample(sample, target, tuple(references), path, split)
        members = {
            "mp4": path.read_bytes(),
            "txt": sample.caption.encode(),
            "json": meta.to_json(),
            **images,
        }
        return Built(meta, members, tuple(used), tuple(refused))

    def _first(
        self, subject: Subject, refused: list[tuple[Candidate, RowError]]
    ) -> _Reference | None:
        """The first candidate that can be used, if any."""
        for candidate in subject.candidates:
            try:
                return self._reference(candidate)
            except RowError as error:
                refused.append((candidate, error))
        return None

    def _reference(self, candidate: Candidate) -> _Reference:
        found = self._locate(candidate.clip)
        pts_us, frame = _frame(found.film.path, found.time_of(candidate.moment))
        if found.crop:
            x0, y0, x1, y1 = found.crop
            frame = frame[y0:y1, x0:x1]
        height, width = frame.shape[:2]
        mask, box = _mask(candidate, width, height)
        crop, (left, top, _, _) = boxes.crop(frame, box, self.settings.write.crop_margin)
        mask_crop, _ = boxes.crop(mask, box, self.settings.write.crop_margin)
        down, across = crop.shape[:2]
        inside = boxes.clip(
            [box[0] - left, box[1] - top, box[2] - left, box[3] - top], across, down
        )
        return _Reference(
            candidate=candidate,
            found=found,
            pts_us=pts_us,
            jpeg=encode_jpeg(crop, self.settings.write.jpeg_quality),
            mask=encode_png_mask(mask_crop),
            box=tuple(round(v, 2) for v in inside),
            area_share=round(boxes.area_share(box, width, height), 6),
        )

    def _cut(self, target: Found) -> Path:
        """Encode the clip, unless an earlier import of the same file did."""
        path, crop = target.film.path, _even(target.crop)
        state = path.stat()
        encoding = self.settings.write.encoding()
        parts = [str(path.absolute()), str(state.st_size), str(state.st_mtime_ns)]
        parts += [repr(sorted(encoding.items())), repr(crop)]
        out = self.clips / ids.stable_hash(parts, 16) / f"{target.clip_id}.mp4"
        if out.exists():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        seconds = (target.end_us - target.start_us) / 1e6
        try:
            run_isolated(
                _CUT,
                [str(path), target.start_us, target.end_us, str(out)],
                {"crop": crop, **encoding},
                timeout_s=120 + 20 * seconds,
            )
        except MediaError as error:
            raise unusable(error) from None
        except ValueError as error:
            raise RowError("span outside the video", str(error)) from None
        return out

    def _sample(
        self,
        sample: Imported,
        target: Found,
        references: tuple[shards.Reference, ...],
        path: Path,
        split: str,
    ) -> shards.SampleMeta:
        facts = probe(path)
        return shards.SampleMeta(
            schema_=shards.SCHEMA_VERSION,
            pair_type=sample.pair_type,
            split="test" if split == "test" else "train",
            heldout=False,
            scenario=scenario(ref.class_ for ref in references),
            caption=sample.caption,
            source=shards.Source(
                video_id=target.video_id,
                long_video_id=target.long_video_id,
                clip_id=target.clip_id,
                licence=self.settings.licence,
                url=target.url,
                credit=None,
                start_us=target.start_us,
                end_us=target.end_us,
                offset_us=target.offset_us,
                consent=self.settings.consent,
            ),
            video=shards.Video(
                frames=facts.declared_frames or 0,
                fps=round(float(facts.avg_fps), 6),
                height=facts.height,
                width=facts.width,
            ),
            refs=references,
            scores=shards.SampleScores(aesthetic=sample.aesthetic),
        )


@dataclass(frozen=True)
class _Reference:
    """A reference that was cut."""

    candidate: Candidate
    found: Found
    pts_us: int
    jpeg: bytes
    mask: bytes
    box: tuple[float, ...]
    area_share: float


def _meta(
    made: _Reference, sample: Imported, subject: Subject, subject_id: str, licence: str
) -> shards.Reference:
    verdict = sample.verdict if sample.pair_type == "cross" else "not asked"
    return shards.Reference(
        subject_id=subject_id,
        identity_id=None,  # datasets pair objects; none names who they are
        phrase=subject.phrase,
        span=subject.span,
        class_=subject.bank,
        noun=subject.noun,
        box=(made.box[0], made.box[1], made.box[2], made.box[3]),
        from_=shards.ReferenceSource(
            clip_id=made.found.clip_id,
            pts_us=made.pts_us,
            source=made.found.video_id,
            licence=licence,
        ),
        scores=shards.ReferenceScores(
            similarity=made.candidate.similarity, area_share=made.area_share
        ),
        verdicts=shards.Verdicts(same_identity=verdict, different_context=verdict),
    )


def _mask(
    candidate: Candidate, width: int, height: int
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Bool ``(H, W)`` and the box around it; without a mask the box is filled."""
    if candidate.mask is None:
        box = to_frame(candidate.box, candidate.canvas, width, height)
        mask = np.zeros((height, width), np.bool_)
        x0, y0, x1, y1 = (round(v) for v in box)
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        return mask, box
    mask = decode_mask(candidate.mask, (height, width))
    around = masks.bounding_box(mask)
    if around is None:
        raise RowError("mask empty", f"{candidate.id}: no pixel is set")
    return mask, (float(around[0]), float(around[1]), float(around[2]), float(around[3]))


def decode_mask(rle: masks.Rle, size: tuple[int, int]) -> np.ndarray:
    """Bool ``(H, W)`` of a stranger's run lengths; nothing is allocated before they fit.

    Raises:
        RowError: of another size, or unreadable.
    """
    if tuple(rle["size"]) != size:
        raise RowError("mask of another size", f"{list(rle['size'])} on a frame of {list(size)}")
    if len(rle["counts"]) > _MAX_RUNS:
        raise RowError("mask unreadable", f"{len(rle['counts'])} characters of run lengths")
    try:
        return masks.decode(rle)
    except (ValueError, OverflowError) as error:
        raise RowError("mask unreadable", str(error)) from None


@lru_cache(maxsize=4096)
def _sha256(path: Path) -> str:
    return sha256_file(path)


@lru_cache(maxsize=8)
def _frame(path: Path, time_us: int) -> tuple[int, np.ndarray]:
    """One frame of a stranger's video; objects of one frame follow each other."""
    try:
        (found,) = isolated.frames_at(path, [time_us])
    except MediaError as error:
        raise unusable(error) from None
    except ValueError as error:
        raise RowError("frame beyond the clip", str(error)) from None
    found[1].setflags(write=False)  # shared by all that ask
    return found


def _even(crop: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
    """The largest part of even pixels inside: what video can be cut to."""
    if crop is None:
        return None
    x0, y0, x1, y1 = crop
    return x0 + x0 % 2, y0 + y0 % 2, x1 - x1 % 2, y1 - y1 % 2
