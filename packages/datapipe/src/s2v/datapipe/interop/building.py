"""From an imported sample to its members: frames are decoded, references cut, the clip encoded.

Strangers' videos are opened in child processes only; what is wrong with one is the reason of its
row or reference, and the import goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from s2v.datapipe.backends.nouns import BANK_OF_CLASS, category_of
from s2v.datapipe.base import ids, shards
from s2v.datapipe.base.atomic import sha256_file
from s2v.datapipe.base.exclusions import ExclusionIndex, read_exclusions
from s2v.datapipe.base.media import boxes
from s2v.datapipe.base.media.encode import Shape
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.images import encode_jpeg, encode_png_mask
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.sandbox import run_isolated
from s2v.datapipe.interop.errors import RowError
from s2v.datapipe.interop.imported import Candidate, Clip, Imported, Subject
from s2v.datapipe.interop.locating import Found, locate
from s2v.datapipe.interop.pixels import frame_at, mask_and_box
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos, unusable
from s2v.datapipe.pair.scenario import scenario

_CUT: Final = "s2v.datapipe.base.media.cut:cut_clip"


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
        pts_us, frame = frame_at(found.film.path, found.time_of(candidate.moment))
        if found.crop:
            x0, y0, x1, y1 = found.crop
            frame = frame[y0:y1, x0:x1]
        height, width = frame.shape[:2]
        mask, box = mask_and_box(candidate, width, height)
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
        shape = {"shape": Shape.of(encoding["shape"])} if "shape" in encoding else {}
        try:
            run_isolated(
                _CUT,
                [str(path), target.start_us, target.end_us, str(out)],
                {"crop": crop, **encoding, **shape},
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
            scenario=scenario(category_of(ref.noun, ref.phrase) for ref in references),
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
    asked = sample.verifier if sample.pair_type == "cross" else None
    verdict = "yes" if asked else "not asked"
    return shards.Reference(
        subject_id=subject_id,
        identity_id=None,  # datasets pair objects; none names who they are
        phrase=subject.phrase,
        span=subject.span,
        class_=BANK_OF_CLASS[subject.category],
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
        verdicts=shards.Verdicts(same_identity=verdict, different_context=verdict, verifier=asked),
        category=subject.category,
    )


@lru_cache(maxsize=4096)
def _sha256(path: Path) -> str:
    return sha256_file(path)


def _even(crop: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
    """The largest part of even pixels inside: what video can be cut to."""
    if crop is None:
        return None
    x0, y0, x1, y1 = crop
    return x0 + x0 % 2, y0 + y0 % 2, x1 - x1 % 2, y1 - y1 % 2
