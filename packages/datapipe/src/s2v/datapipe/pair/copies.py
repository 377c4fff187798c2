"""Near copies by perceptual hash: the same shot in another file, the same picture twice.

Phantom cleans its face pairs with *imagededup* (supplement 4); we compare all sampled
frames, because a trailer's shot has another path, another clip and another cut than the
film's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from s2v.datapipe.pair.rows import Row, Tables, group, read
from s2v.datapipe.pair.settings import PairRules

Hashes = npt.NDArray[np.uint64]
NOT_COMPARED = 65  # one more than two hashes can differ by
_CHUNK = 1024


def parse_hash(text: str | None) -> int | None:
    """A 64-bit perceptual hash from 16 hex digits.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    if len(text) != 16:
        raise ValueError(f"perceptual hash {text!r} has {len(text)} hex digits; 16 are expected")
    return int(text, 16)


class FrameHashes:
    """Hashes of every clip's sampled frames, for distances between clips.

    Attributes:
        clips: clip ids, sorted.
        hashes: ``[clips, frames]``; unused places are masked by ``valid``.
        valid: ``[clips, frames]``.
    """

    def __init__(self, tables: Tables, rules: PairRules) -> None:
        frames = group(read(tables, "frames"), "clip_id")
        self.clips: list[str] = sorted(row["clip_id"] for row in read(tables, "clips"))
        self.index = {clip: n for n, clip in enumerate(self.clips)}
        width = max((len(rows) for rows in frames.values()), default=1)
        self.hashes: Hashes = np.zeros((len(self.clips), width), np.uint64)
        self.valid = np.zeros((len(self.clips), width), np.bool_)
        for clip, rows in frames.items():
            if clip not in self.index:
                raise ValueError(f"table 'frames' has clip {clip!r}, which table 'clips' lacks")
            for n, row in enumerate(rows):
                value = parse_hash(row["phash"])
                if value is not None and not _flat(row, rules):
                    self.hashes[self.index[clip], n] = value
                    self.valid[self.index[clip], n] = True

    def distance(self, a: Sequence[int], b: Sequence[int]) -> npt.NDArray[np.int64]:
        """Smallest distance in bits between any two sampled frames of clips ``a[i]``, ``b[i]``.

        Returns:
            ``[n]``, 65 where one of the two has no frame to compare.
        """
        first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
        found = np.empty(len(first), np.int64)
        for at in range(0, len(first), _CHUNK):
            i, j = first[at : at + _CHUNK], second[at : at + _CHUNK]
            found[at : at + _CHUNK] = self._between(i, j).min(axis=(1, 2), initial=NOT_COMPARED)
        return found

    def _between(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        bits = np.bitwise_count(self.hashes[i][:, :, None] ^ self.hashes[j][:, None, :])
        both = self.valid[i][:, :, None] & self.valid[j][:, None, :]
        return np.where(both, bits.astype(np.int64), NOT_COMPARED)

    def alike(self, bits: int) -> list[tuple[int, int, int]]:
        """Pairs of clips ``(i, j, frames)``, ``i < j``, with at least one pair of frames alike.

        ``frames`` is how many frames of the one have a match in the other, the smaller of
        the two directions. All pairs are compared, in blocks; quadratic in the number of
        frames, at about a billion comparisons a second per core.
        """
        clip_of, _ = np.nonzero(self.valid)
        flat = self.hashes[self.valid]
        pairs: set[tuple[int, int]] = set()
        for at in range(0, len(flat), _CHUNK):
            near = np.bitwise_count(flat[at : at + _CHUNK, None] ^ flat[None, at:]) <= bits
            rows, columns = np.nonzero(near)
            a, b = clip_of[rows + at], clip_of[columns + at]
            pairs |= {(int(i), int(j)) for i, j in zip(a[a < b], b[a < b], strict=True)}
        ordered = sorted(pairs)
        if not ordered:
            return []
        i, j = (np.array(side, np.int64) for side in zip(*ordered, strict=True))
        near = self._between(i, j) <= bits
        count = np.minimum(near.any(axis=2).sum(axis=1), near.any(axis=1).sum(axis=1))
        return [(a, b, int(n)) for (a, b), n in zip(ordered, count, strict=True)]


def _flat(row: Row, rules: PairRules) -> bool:
    """Fades and title cards: hashes of flat frames say nothing."""
    return row["blur"] is not None and row["blur"] < rules.min_frame_detail


def duplicates(
    hashes: FrameHashes, alike: Sequence[tuple[int, int, int]], clips: dict[str, Row], needed: int
) -> dict[str, str]:
    """Clips of the same content in different files, to the smallest id among them.

    Two videos are duplicates when ``needed`` of their frames are alike, two photographs
    when their one frame is. A photograph never stands for a video. Inside one file two clips
    alike are a camera that stands still, not a copy; they are only not paired.

    Args:
        hashes: of all clips.
        alike: what :meth:`FrameHashes.alike` found.
        clips: rows of table CLIPS of those to be considered, by id.
        needed: frames alike.

    Returns:
        Duplicate clip to the clip that is kept.
    """
    matches: dict[str, set[str]] = defaultdict(set)  # clip -> smaller clips it repeats
    for i, j, frames in alike:  # i < j, so the first id is the smaller
        a, b = clips.get(hashes.clips[i]), clips.get(hashes.clips[j])
        if a is None or b is None or a["kind"] != b["kind"] or a["video_id"] == b["video_id"]:
            continue
        if frames >= (1 if a["kind"] == "image" else needed):
            matches[b["clip_id"]].add(a["clip_id"])
    found: dict[str, str] = {}
    for clip in sorted(matches):
        # Only a clip that stays stands for others: two halves of one shot that a trailer
        # repeats as one piece are no copies of each other.
        if kept := matches[clip] - found.keys():
            found[clip] = min(kept)
    return found
