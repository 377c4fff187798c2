"""Identifiers: readable, sortable, stable across runs.

``video_id``      ``[A-Za-z0-9_-]{1,48}``, from the manifest, else a content hash
``clip_id``       ``<video_id>-<startms>-<endms>``
``frame_id``      ``<clip_id>-f<ms>``            (ms since the start of the source)
``detection_id``  ``<clip_id>-f<ms>-<n>``
``subject_id``    ``<clip_id>-s<n>``             (one phrase, its detections over the frames)
``sample_id``     20 hex of a hash over (pair type, clip, ordered references)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{1,48}")
_MS_DIGITS = 8  # 27 hours of source; fixed width, so that ids sort by time


def check_video_id(video_id: str) -> str:
    """Return ``video_id`` unchanged if it may stand in keys and member names.

    Raises:
        ValueError: naming the value and the allowed alphabet.
    """
    if not VIDEO_ID.fullmatch(video_id):
        raise ValueError(
            f"video_id {video_id!r} must match {VIDEO_ID.pattern}: letters, digits, '_' and '-', "
            "at most 48; leave it empty to have one made from the file's content"
        )
    return video_id


def content_video_id(sha256_hex: str) -> str:
    """Make a ``video_id`` of a file's sha256 (first 16 hex digits)."""
    return f"v{sha256_hex[:16]}"


def _ms(us: int) -> str:
    return f"{us // 1000:0{_MS_DIGITS}d}"


def clip_id(video_id: str, start_us: int, end_us: int) -> str:
    """``<video_id>-<startms>-<endms>``; times in microseconds of presentation time."""
    return f"{video_id}-{_ms(start_us)}-{_ms(end_us)}"


def frame_id(clip: str, pts_us: int) -> str:
    """``<clip_id>-f<ms>``."""
    return f"{clip}-f{_ms(pts_us)}"


def detection_id(clip: str, pts_us: int, n: int) -> str:
    """``<clip_id>-f<ms>-<n>``: the n-th detection on that frame."""
    return f"{frame_id(clip, pts_us)}-{n}"


def subject_id(clip: str, n: int) -> str:
    """``<clip_id>-s<n>``: the n-th phrase of the clip's caption."""
    return f"{clip}-s{n}"


def stable_hash(parts: Iterable[str], hex_digits: int = 20) -> str:
    """Hash a sequence of strings; the parts are length-prefixed, so ("ab","c") != ("a","bc")."""
    prefixed = []
    for part in parts:
        raw = part.encode()
        prefixed += [len(raw).to_bytes(8, "big"), raw]
    return hashlib.sha256(b"".join(prefixed)).hexdigest()[:hex_digits]


def sample_id(pair_type: str, clip: str, references: Iterable[str]) -> str:
    """20 hex of (pair type, clip, ordered reference detection ids).

    Scores and thresholds do not enter, so an unchanged triplet keeps its id after
    re-selection.
    """
    return stable_hash([pair_type, clip, *references])


def bucket(key: str, buckets: int) -> int:
    """Stable bucket of ``key`` in ``range(buckets)``; used for shards and splits."""
    return int(stable_hash([key], 16), 16) % buckets
