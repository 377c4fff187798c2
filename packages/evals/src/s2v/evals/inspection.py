"""What can be known of a manifest's media before any model is loaded.

Each video is decoded to its end once: a truncated file opens without complaint and simply has
fewer frames than it declares, and a score over its first half would look like any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from s2v.datapipe.base.atomic import sha256_file, write_json
from s2v.datapipe.base.media.errors import MediaError
from s2v.evals import media
from s2v.evals.manifest import Manifest, Sample

SUFFIXES: Final = frozenset((".avi", ".gif", ".mkv", ".mov", ".mp4", ".mpg", ".webm"))
"""What counts as a video when looking for those that no line names."""
_SAME_RATE: Final = 0.02
"""23.976 and 24 frames a second are one rate to a manifest, 24 and 25 are two."""


@dataclass(frozen=True)
class Problem:
    """Something that keeps a sample from being scored.

    Attributes:
        sample_id: whose.
        kind: ``zero_frames``, ``wrong_fps``, ``duplicate``, ``mask_size``, or ``video_`` /
            ``reference_`` / ``mask_`` with the media room's kind (``missing``, ``truncated``,
            ``corrupt`` ...).
        path: the file, as the manifest names it.
        message: what was seen and the way out.
    """

    sample_id: str
    kind: str
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.sample_id}: {self.kind}: {self.message}"


@dataclass(frozen=True)
class Inspected:
    """A sample whose media can be used.

    Attributes:
        sample: as in the manifest.
        video: absolute path.
        video_sha256: of the file.
        times_us: presentation time of every frame.
        references: sha256 of (image, mask or None) of each reference, in order.
    """

    sample: Sample
    video: Path
    video_sha256: str
    times_us: tuple[int, ...]
    references: tuple[tuple[str, str | None], ...]


def inspect(
    manifest: Manifest,
    samples: Sequence[Sample],
    *,
    cache: Path | None = None,
    step: Callable[..., None] | None = None,
) -> tuple[list[Inspected], list[Problem]]:
    """Check the media of samples.

    Args:
        manifest: where relative paths start.
        samples: those to check, in the order the result shall have.
        cache: folder in which a video's frame times are kept by its digest, so that a second
            run need not decode it again.
        step: called once per sample.

    Returns:
        ``(usable samples, problems)``; every sample is in the first or has an entry in the
        second.
    """
    usable: list[Inspected] = []
    problems: list[Problem] = []
    seen: dict[tuple[object, ...], str] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    for sample in samples:
        found = _inspect_one(manifest, sample, cache, sizes)
        if isinstance(found, Inspected):
            key = (found.video_sha256, found.references, sample.prompt, sample.source, sample.model)
            if key in seen:
                found = Problem(
                    sample.sample_id,
                    "duplicate",
                    sample.video,
                    f"same video, references and prompt as sample {seen[key]}; leave one out",
                )
            else:
                seen[key] = sample.sample_id
        if isinstance(found, Problem):
            problems.append(found)
        else:
            usable.append(found)
        if step is not None:
            step(note=sample.sample_id)
    return usable, problems


def extra_videos(manifest: Manifest) -> list[str]:
    """Videos that lie beside those of the manifest and that no line names.

    They keep nothing from being scored, but a sampler that wrote more than was asked for, or
    wrote it under another name, is noticed here and nowhere else.

    Returns:
        Paths, relative to the manifest where they lie below it, sorted.
    """
    named = {manifest.resolve(s.video) for s in manifest.samples}
    named |= {manifest.resolve(ref.path) for s in manifest.samples for ref in s.refs}
    found = {
        path
        for folder in {path.parent for path in named if path.suffix.lower() in SUFFIXES}
        for path in _videos_in(folder)
    }
    return sorted(manifest.shorten(str(path)) for path in found - named)


def _videos_in(folder: Path) -> list[Path]:
    """Nothing of a folder that is not there or may not be listed: the samples say so themselves."""
    try:
        entries = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
        return [Path(os.path.realpath(path)) for path in entries if path.is_file()]
    except OSError:
        return []


def _inspect_one(
    manifest: Manifest, sample: Sample, cache: Path | None, sizes: dict[Path, tuple[int, int]]
) -> Inspected | Problem:
    def problem(kind: str, path: str, message: str | MediaError) -> Problem:
        if isinstance(message, MediaError) and message.transient:
            raise message  # the machine's fault: scoring the sample as failed would be wrong
        return Problem(sample.sample_id, kind, path, manifest.shorten(str(message)))

    references: list[tuple[str, str | None]] = []
    for ref in sample.refs:
        path = manifest.resolve(ref.path)
        try:
            if path not in sizes:
                sizes[path] = media.read_image(path).shape[:2]
        except MediaError as error:
            return problem(f"reference_{error.kind.value}", ref.path, error)
        digest = None
        if ref.mask is not None:
            mask_path = manifest.resolve(ref.mask)
            try:
                mask = media.read_mask(mask_path)
            except MediaError as error:
                return problem(f"mask_{error.kind.value}", ref.mask, error)
            if mask.shape != sizes[path]:
                return problem(
                    "mask_size",
                    ref.mask,
                    f"{mask_path}: {mask.shape[1]}x{mask.shape[0]} pixels, its image has "
                    f"{sizes[path][1]}x{sizes[path][0]}; a mask must have its image's size",
                )
            digest = sha256_file(mask_path)
        references.append((sha256_file(path), digest))
    video = manifest.resolve(sample.video)
    try:
        sha256 = _digest(video)
        times = _times(video, sha256, cache)
    except MediaError as error:
        return problem(f"video_{error.kind.value}", sample.video, error)
    if (wrong := _wrong(times, sample.fps)) is not None:
        return problem(wrong[0], sample.video, f"{video}: {wrong[1]}")
    return Inspected(sample, video, sha256, times, tuple(references))


def _wrong(times_us: Sequence[int], fps: float | None) -> tuple[str, str] | None:
    """Kind and message of what is wrong with a video's frames, if anything is."""
    if not times_us:
        return "zero_frames", "opens, but has no frame"
    span = times_us[-1] - times_us[0]
    if fps is None or span <= 0:  # a still has no rate
        return None
    seen = (len(times_us) - 1) * 1e6 / span
    if abs(seen - fps) <= _SAME_RATE * fps:
        return None
    return (
        "wrong_fps",
        f"{seen:.4g} frames a second, the manifest says {fps:g}; write the video anew with its "
        "rate, or mend fps",
    )


def _digest(path: Path) -> str:
    media.require_file(path)
    return sha256_file(path)


def _times(video: Path, sha256: str, cache: Path | None) -> tuple[int, ...]:
    """Frame times, from the cache when this very content was decoded to its end before."""
    stored = cache / f"{sha256}.json" if cache is not None else None
    if stored is not None and stored.is_file():
        try:
            return _stored_times(json.loads(stored.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, RecursionError):
            pass  # a damaged cache file is simply made again
    times = media.frame_times(video)
    if stored is not None:
        write_json(stored, {"times_us": list(times)})
    return times


def _stored_times(content: object) -> tuple[int, ...]:
    times = content["times_us"] if isinstance(content, dict) else None
    if not isinstance(times, list) or any(type(t) is not int for t in times):
        raise ValueError("no list of times")
    if any(later < earlier for earlier, later in pairwise(times)):
        raise ValueError("times that go back")
    return tuple(times)


def as_rows(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Problems as plain dicts, for JSON and CSV."""
    return [asdict(p) for p in problems]
