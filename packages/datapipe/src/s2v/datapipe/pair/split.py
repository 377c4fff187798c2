"""Splits that do not leak.

``split``: sources that share a long video, an identity, an accepted pair or a shot are one
group, and a group is train or test as a whole. ``heldout``: other scenes of training
sources, for validation losses; scenes that share a shot go together, whether one copies it from
the other or it runs on from one into the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import pairwise

from s2v.datapipe.base.ids import bucket
from s2v.datapipe.pair.rows import Row
from s2v.datapipe.pair.sample_rules import SplitSettings
from s2v.datapipe.pair.unionfind import UnionFind

_PARTS = 1_000_000
_RUNS_ON = ("length", "window")  # a clip's bound where its shot does not end
Edge = tuple[str, str]


class SplitError(ValueError):
    """Sources pinned to both splits turned out to belong together."""


def split_of_sources(
    long_videos: Iterable[str], shared: Iterable[Edge], settings: SplitSettings
) -> dict[str, str]:
    """``train`` or ``test`` for each long video.

    Args:
        long_videos: all of them.
        shared: pairs of long videos that share an identity or a shot.
        settings: share, salt and pinned sources.

    Raises:
        SplitError: a group holds a source pinned to train and one pinned to test.
    """
    sets = UnionFind(sorted(long_videos))
    for a, b in sorted(shared):
        sets.union(a, b)
    found: dict[str, str] = {}
    for smallest, members in sets.groups().items():
        train = sorted(set(members) & set(settings.train_only))
        test = sorted(set(members) & set(settings.test_only))
        if train and test:
            raise SplitError(
                f"{train[0]!r} is pinned to train and {test[0]!r} to test, but they share an "
                "identity or a shot; unpin one of them or exclude it"
            )
        share = bucket(f"split {settings.salt} {smallest}", _PARTS) / _PARTS
        is_test = bool(test) or (not train and share < settings.test_share)
        found.update(dict.fromkeys(members, "test" if is_test else "train"))
    return found


def unknown_pins(long_videos: Iterable[str], settings: SplitSettings) -> Iterator[str]:
    """A line for each pinned name that no source has: mistyped, or not listed yet."""
    known = set(long_videos)
    for field in ("train_only", "test_only"):
        for name in sorted(set(getattr(settings, field)) - known):
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"split.{field}: no source has the long_video_id {name!r}{hint}"


def heldout_clips(
    clips: Iterable[Row], alike: Iterable[Edge], settings: SplitSettings
) -> dict[str, bool]:
    """Whether a clip lies in a held-out scene.

    A scene is a stretch of ``scene_seconds`` of a file; clips belong to it by their middle.
    Scenes that share a shot are held out together: a near-copied one, or a long one that was cut
    into several clips, whose last frame and the next one's first are neighbours. Photographs never
    are held out: they are references first.

    Args:
        clips: rows of table CLIPS.
        alike: pairs of clips with a near-copied frame.
        settings: share, scene length and salt.
    """
    rows = sorted(clips, key=lambda row: row["clip_id"])
    scene_us = int(settings.scene_seconds * 1e6)
    scene = {
        row[
            "clip_id"
        ]: f"{row['video_id']}/{(row['start_us'] + row['end_us']) // 2 // scene_us:08d}"
        for row in rows
        if row["kind"] != "image"
    }
    sets = UnionFind(sorted(set(scene.values())))
    for a, b in sorted([*alike, *_one_shot(rows)]):
        if a in scene and b in scene:
            sets.union(scene[a], scene[b])
    limit = settings.heldout_share * _PARTS
    held = {
        name: bucket(f"heldout {settings.salt} {sets.find(name)}", _PARTS) < limit
        for name in sorted(set(scene.values()))
    }
    return {row["clip_id"]: held.get(scene.get(row["clip_id"], ""), False) for row in rows}


def _one_shot(rows: Iterable[Row]) -> Iterator[Edge]:
    """Neighbours in a file that were one shot."""
    ordered = sorted(rows, key=lambda row: (row["video_id"], row["start_us"], row["clip_id"]))
    for one, other in pairwise(ordered):
        if one["video_id"] == other["video_id"] and (
            one.get("ends_with") in _RUNS_ON and other.get("starts_with") in _RUNS_ON
        ):
            yield one["clip_id"], other["clip_id"]
