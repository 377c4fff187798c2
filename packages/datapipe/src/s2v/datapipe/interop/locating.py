"""Where a clip of a dataset lies on the user's disk, and when its frames are shown."""

from __future__ import annotations

from dataclasses import dataclass

from s2v.datapipe.base import ids
from s2v.datapipe.interop.errors import RowError
from s2v.datapipe.interop.imported import Clip, Moment, name_to_id
from s2v.datapipe.interop.videos import Film, Videos, film


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
