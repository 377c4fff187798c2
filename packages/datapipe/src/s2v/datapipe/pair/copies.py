"""Near copies by perceptual hash: the same shot in another file, the same picture twice.

Phantom cleans its face pairs with *imagededup* (supplement 4); we compare all sampled frames,
because a trailer's shot has another path, another clip and another cut than the film's. Copies
that were encoded again, scaled, or got bars are as near as the same file (hashes are of the
picture inside its borders); mirrored ones are found by a second hash.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.pair import columns
from s2v.datapipe.pair.near import Hashes, near_pairs
from s2v.datapipe.pair.rows import Row, Tables
from s2v.datapipe.pair.settings import PairRules

NOT_COMPARED = 65  # one more than two hashes can differ by
_CHUNK = 1024


class FrameHashes:
    """Hashes of every clip's sampled frames, for distances between clips.

    Attributes:
        clips: clip ids, sorted; positions in it are those of the other arrays.
        hashes: ``[clips, frames]``, frames in order of time; unused places are masked by
            ``valid``.
        mirrored: of the frames mirrored left to right, or the same as ``hashes`` where table
            ``frames`` has none.
        valid: ``[clips, frames]``.
    """

    def __init__(self, tables: Tables, rules: PairRules) -> None:
        names = tables["clips"]["clip_id"] if "clips" in tables else pa.array([], pa.string())
        known = columns.whole(names).take(pc.sort_indices(names))
        self.clips = columns.Names(known, np.arange(len(known)))
        frames = tables.get("frames")
        rows = 0 if frames is None else frames.num_rows
        if frames is None or not rows:
            shape = (len(known), 1)
            self.hashes: Hashes = np.zeros(shape, np.uint64)
            self.mirrored: Hashes = np.zeros(shape, np.uint64)
            self.valid = np.zeros(shape, np.bool_)
            return
        clip = columns.positions(frames["clip_id"], known)
        if (clip < 0).any():
            lost = frames["clip_id"][int(np.flatnonzero(clip < 0)[0])].as_py()
            raise ValueError(f"table 'frames' has clip {lost!r}, which table 'clips' lacks")
        ids = pc.rank(frames["frame_id"], tiebreaker="first").to_numpy(zero_copy_only=False)
        order = np.lexsort((ids, columns.floats(frames["position"]), clip))
        row = clip[order]
        place = columns.ordinals(columns.runs(row), rows)
        straight, there = columns.hashes(frames["phash"])
        turned, both = columns.hashes(frames["phash_mirror"])
        # Fades and title cards: hashes of flat frames say nothing.
        detail = columns.floats(frames["blur"])
        there &= ~(detail < rules.min_frame_detail)
        width = int(place.max()) + 1
        self.hashes = np.zeros((len(known), width), np.uint64)
        self.mirrored = np.zeros((len(known), width), np.uint64)
        self.valid = np.zeros((len(known), width), np.bool_)
        self.hashes[row, place] = np.where(there, straight, np.uint64(0))[order]
        mirrored = np.where(there, np.where(both, turned, straight), np.uint64(0))
        self.mirrored[row, place] = mirrored[order]
        self.valid[row, place] = there[order]

    def distance(
        self, a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.int64]:
        """Smallest distance in bits between any two sampled frames of clips ``a[i]``, ``b[i]``.

        One of the two may be mirrored.

        Returns:
            ``[n]``, 65 where one of the two has no frame to compare.
        """
        first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
        found = np.empty(len(first), np.int64)
        for at in range(0, len(first), _CHUNK):
            i, j = first[at : at + _CHUNK], second[at : at + _CHUNK]
            found[at : at + _CHUNK] = self._nearest(i, j).min(axis=(1, 2), initial=NOT_COMPARED)
        return found

    def _between(
        self, one: Hashes, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """``[n, frames, frames]`` between hashes ``one`` of clips ``i`` and frames of ``j``."""
        bits = np.bitwise_count(one[i][:, :, None] ^ self.hashes[j][:, None, :])
        both = self.valid[i][:, :, None] & self.valid[j][:, None, :]
        return np.where(both, bits.astype(np.int64), NOT_COMPARED)

    def _turned(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The same with either side mirrored: a mirror's hash is off by a bit or two."""
        back = self._between(self.mirrored, j, i).swapaxes(1, 2)
        return np.minimum(self._between(self.mirrored, i, j), back)

    def _nearest(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.minimum(self._between(self.hashes, i, j), self._turned(i, j))

    def alike(self, bits: int) -> list[tuple[int, int, int]]:
        """Pairs of clips ``(i, j, frames)``, ``i < j``, with at least one pair of frames alike.

        ``frames`` is how many frames of the one have a match in the other, all of them straight
        or all mirrored, the smaller of the two directions. Exact, as if all frames were compared
        with all; see :mod:`s2v.datapipe.pair.near` for why they need not be.
        """
        clip_of, _ = np.nonzero(self.valid)
        flat = self.hashes[self.valid]
        straight = near_pairs(flat, None, bits)
        turned = near_pairs(self.mirrored[self.valid], flat, bits)
        a, b = (clip_of[np.concatenate(side)] for side in zip(straight, turned, strict=True))
        other = a != b
        a, b = a[other], b[other]
        ordered = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1), axis=0)
        found: list[tuple[int, int, int]] = []
        for at in range(0, len(ordered), _CHUNK):
            i, j = ordered[at : at + _CHUNK].T
            counts = np.maximum(
                _matched(self._between(self.hashes, i, j) <= bits),
                _matched(self._turned(i, j) <= bits),
            )
            found += zip(i.tolist(), j.tolist(), counts.tolist(), strict=True)
        return found

    def repeats(self, i: int, j: int, bits: int, moves: int) -> bool:
        """Whether clip ``j`` shows all that clip ``i`` shows, frame by frame in the same order.

        Args:
            i, j: places in ``clips``.
            bits: by which frames of the same place may differ.
            moves: some two frames of clip ``i`` must differ by more, or it is a standing camera.
        """
        if not np.array_equal(self.valid[i], self.valid[j]) or self.valid[i].sum() < 2:
            return False
        one, other = self.hashes[i][self.valid[i]], self.hashes[j][self.valid[j]]
        inner = np.bitwise_count(one[:, None] ^ one[None]).max()
        return bool(inner > moves and np.bitwise_count(one ^ other).max() <= bits)


def _matched(near: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """``[n, frames, frames]`` to the number of frames with a match, the smaller of both sides."""
    counts = np.minimum(near.any(axis=2).sum(axis=1), near.any(axis=1).sum(axis=1))
    return np.asarray(counts, np.int64)


def duplicates(
    hashes: FrameHashes,
    alike: Sequence[tuple[int, int, int]],
    clips: dict[str, Row],
    rules: PairRules,
) -> dict[str, str]:
    """Clips of the same content, to the smallest id among them.

    Two videos are duplicates when ``duplicate_frames`` of their frames are alike, straight or
    mirrored, two photographs when their one frame is. A photograph never stands for a video.
    Inside one file clips alike are mostly a camera that returns to its place, which is no copy
    (they are only not paired); a replay is one, and a loop: all frames alike in their order, of a
    scene that moves, and ``repeat_gap_seconds`` apart.

    Args:
        hashes: of all clips.
        alike: what :meth:`FrameHashes.alike` found.
        clips: rows of table CLIPS of those to be considered, by id.
        rules: bits and frames.

    Returns:
        Duplicate clip to the clip that is kept.
    """
    matches: dict[str, set[str]] = defaultdict(set)  # clip -> smaller clips it repeats
    for i, j, frames in alike:  # i < j, so the first id is the smaller
        a, b = clips.get(hashes.clips[i]), clips.get(hashes.clips[j])
        if a is None or b is None or a["kind"] != b["kind"]:
            continue
        if a["video_id"] == b["video_id"]:
            gap_us = max(a["start_us"], b["start_us"]) - min(a["end_us"], b["end_us"])
            apart = gap_us >= rules.repeat_gap_seconds * 1e6
            same = apart and hashes.repeats(i, j, rules.repeat_bits, rules.frame_bits)
        else:
            same = frames >= (1 if a["kind"] == "image" else rules.duplicate_frames)
        if same:
            matches[b["clip_id"]].add(a["clip_id"])
    found: dict[str, str] = {}
    for clip in sorted(matches):
        # Only a clip that stays stands for others: two halves of one shot that a trailer
        # repeats as one piece are no copies of each other.
        if kept := matches[clip] - found.keys():
            found[clip] = min(kept)
    return found
