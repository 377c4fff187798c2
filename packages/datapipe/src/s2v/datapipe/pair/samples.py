"""Samples: drafts that the quotas keep, with their ids, as table SAMPLES.

Each pair type goes its own way: drafts, quotas, and where a minimum is not reached a second
pass. It looks at the clips that got no sample of that type, gives references that were used up
once more, up to ``quota.top_up_uses``, and takes what the minimum waits for. What still misses is
in :attr:`Made.quotas`, with the numbers that say why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pyarrow as pa

from s2v.datapipe.base import ids, records
from s2v.datapipe.base.shards import kind_of
from s2v.datapipe.pair import quotas
from s2v.datapipe.pair.columns import Floats, Ints
from s2v.datapipe.pair.drafts import (
    Collected,
    Drafts,
    Matcher,
    kind,
    kinds,
    own_drafts,
    reference_quality,
    references,
)
from s2v.datapipe.pair.inpair import distances
from s2v.datapipe.pair.quotas import Bounds, Counts, Key
from s2v.datapipe.pair.sample_pool import Pool
from s2v.datapipe.pair.sample_rules import QuotaSettings
from s2v.datapipe.pair.scenario import scenario
from s2v.datapipe.pair.settings import ShardCounts
from s2v.datapipe.roles import CLASSES

PAIR_TYPES = ("in", "cross", "image")

#: Every sample that was made, kept or not.
SAMPLE_REASONS = pa.schema(
    [
        pa.field("sample_id", pa.string()),
        pa.field("pair_type", pa.string()),
        pa.field("clip_id", pa.string()),
        pa.field("scenario", pa.string()),
        pa.field("classes", pa.list_(pa.string())),  # of its references, each once
        pa.field("score", pa.float64()),  # quality of its worst reference picture, 0..1
        pa.field("topped_up", pa.bool_()),  # made by the second pass
        pa.field("reason", pa.string()),  # null when kept
    ]
)


@dataclass(frozen=True)
class Made:
    """What :func:`make_samples` made.

    Attributes:
        samples: table SAMPLES, what is kept, sorted by id.
        reasons: :data:`SAMPLE_REASONS`, sorted by id.
        quotas: :data:`.quotas.QUOTAS`.
        excluded: samples a reviewer refused, with the reason; nothing takes their place.
    """

    samples: pa.Table
    reasons: pa.Table
    quotas: pa.Table
    excluded: dict[str, str]


@dataclass
class _Some:
    """The samples of one pair type."""

    pair_type: str
    drafts: Drafts
    kinds: Ints  # of drafts.kinds
    ids: list[str]
    score: Floats
    reasons: list[str | None]  # null: kept
    first: int  # how many of them the first pass made

    def keys(self) -> list[tuple[Key, ...]]:
        return [keys_of(kind) for kind in self.kinds.tolist()]

    def kept(self) -> Ints:
        return np.array([n for n, why in enumerate(self.reasons) if why is None], np.int64)

    def counted(self, at: Ints) -> Counter[Key]:
        found: Counter[Key] = Counter({("total", ""): len(at)})
        for one, count in zip(*np.unique(self.kinds[at], return_counts=True), strict=True):
            for key in keys_of(int(one)):
                found[key] += int(count)
        return found


def make_samples(
    pool: Pool,
    quota: QuotaSettings,
    shards: ShardCounts,
    refused: Mapping[str, str],
) -> Made:
    """Make all samples.

    Args:
        pool: what they can be made of.
        quota: how many of which kind.
        shards: how many shards each pair type has.
        refused: sample ids that a reviewer refused, with the reason.
    """
    matcher = Matcher(pool)
    drafts = (own_drafts(pool), *matcher.drafts())
    some = [_described(pool, t, d) for t, d in zip(PAIR_TYPES, drafts, strict=True)]
    wanted = [quotas.bounds(quota.of(one.pair_type), one.first) for one in some]
    for one, asked in zip(some, wanted, strict=True):
        if asked.most or asked.total is not None:
            one.reasons = quotas.thin(one.keys(), quotas.best_first(one.score, one.ids), asked)
    paired = [one for one in some if one.pair_type != "in"]
    for one, asked in zip(paired, wanted[1:], strict=True):
        matcher.count(other.drafts.take(other.kept()) for other in paired)
        _top_up(pool, matcher, one, asked, quota)
    told = [_tally(pool, one, asked) for one, asked in zip(some, wanted, strict=True)]
    excluded = {}
    for one in some:
        for n in one.kept().tolist():
            if (why := refused.get(one.ids[n])) is not None:
                excluded[one.ids[n]], one.reasons[n] = why, f"excluded: {why}"
    return Made(
        samples=pa.concat_tables([_samples(pool, one, shards) for one in some]).sort_by(
            "sample_id"
        ),
        reasons=pa.concat_tables([_reasons(pool, one) for one in some]).sort_by("sample_id"),
        quotas=pa.concat_tables(told),
        excluded=dict(sorted(excluded.items())),
    )


def _described(pool: Pool, pair_type: str, drafts: Drafts) -> _Some:
    return _Some(
        pair_type,
        drafts,
        kinds=kinds(pool, drafts),
        ids=_ids(pool, pair_type, drafts),
        score=reference_quality(pool, drafts),
        reasons=[None] * len(drafts),
        first=len(drafts),
    )


@cache
def keys_of(kind: int) -> tuple[Key, ...]:
    """What a sample of a kind counts for: its scenario, then its classes."""
    names = [name for bit, name in enumerate(CLASSES) if kind >> bit + 1 & 1]
    named = scenario(names * 2 if kind & 1 and len(names) == 1 else names)
    return (("scenario", named), *(("class", name) for name in names))


def _top_up(pool: Pool, matcher: Matcher, one: _Some, wanted: Bounds, quota: QuotaSettings) -> None:
    """Add samples that a minimum waits for, of clips that have none of this type.

    Limits on uses rise one by one, so that no reference is used more often than need be.
    """
    counts = Counts(wanted)
    counts.start(one.counted(one.kept()))
    is_image = one.pair_type == "image"
    if not counts.short() or (is_image and not pool.rules.image_samples):
        return
    there = set(one.drafts.clip.tolist())
    waiting = [clip for clip in matcher.clips(is_image) if clip not in there]
    class_at = pool.class_at.tolist()
    added = Collected()
    for limit in range(pool.rules.max_uses, max(quota.top_up_uses, pool.rules.max_uses) + 1):
        still: list[int] = []
        for clip in waiting:
            chosen = matcher.choose(clip, limit)
            keys = keys_of(kind(class_at[subject] for subject, _ in chosen)) if chosen else ()
            if counts.waited_for(keys) and counts.full(keys) is None:
                matcher.use(chosen)
                counts.add(keys)
                added.add(clip, chosen)
            else:
                still.append(clip)
        waiting = still
        if not counts.short():
            break
    more = _described(pool, one.pair_type, added.drafts())
    one.drafts = one.drafts.and_(more.drafts)
    one.ids += more.ids
    one.kinds = np.concatenate((one.kinds, more.kinds))
    one.score = np.concatenate((one.score, more.score))
    one.reasons += more.reasons


def _tally(pool: Pool, one: _Some, wanted: Bounds) -> pa.Table:
    kept = one.kept()
    image = pool.clips.image[pool.clip] == (one.pair_type == "image")
    paired = np.zeros(len(pool.ids), np.bool_)
    paired[pool.pairs.target] = True
    if one.pair_type == "in":
        paired[:] = True
    there = {
        name: (
            int((image & (pool.class_at == n)).sum()),
            int((image & paired & (pool.class_at == n)).sum()),
        )
        for n, name in enumerate(CLASSES)
    }
    return quotas.tally(
        one.pair_type,
        one.counted(np.arange(one.first)),
        one.counted(kept),
        one.counted(kept[kept >= one.first]),
        wanted,
        there,
    )


def _ids(pool: Pool, pair_type: str, drafts: Drafts) -> list[str]:
    clips = pool.clips.clip_id.take(pa.array(drafts.clip)).to_pylist()
    shown = _detections(pool, drafts).to_pylist()
    spans = pairwise(drafts.edges.tolist())
    return [
        ids.sample_id(pair_type, clip, shown[a:b])
        for clip, (a, b) in zip(clips, spans, strict=True)
    ]


def _detections(pool: Pool, drafts: Drafts) -> pa.Array:
    """The picture of each reference."""
    shown = references(pool, drafts)
    if len(drafts) and drafts.pair[0] < 0:
        return pool.own.take(pa.array(shown))
    return pool.picture.take(pa.array(shown))


def _samples(pool: Pool, one: _Some, shards: ShardCounts) -> pa.Table:
    """Kept samples of one pair type, as table SAMPLES."""
    kept = one.kept()
    drafts = one.drafts.take(kept)
    clips, at = pool.clips, pa.array(drafts.clip)
    count = shards.of(one.pair_type)
    shard = cache(lambda video, kind: shard_name(kind, video, 1 if "-" in kind else count))
    videos = clips.video_id.take(at)
    test = clips.test[drafts.clip]
    held = clips.held[drafts.clip] & ~test
    kinds = [
        kind_of(one.pair_type, "test" if other else "train", later)
        for other, later in zip(test.tolist(), held.tolist(), strict=True)
    ]
    columns = {
        "sample_id": pa.array([one.ids[n] for n in kept.tolist()], pa.string()),
        "pair_type": pa.repeat(one.pair_type, len(kept)),
        "clip_id": clips.clip_id.take(at),
        "video_id": videos,
        "long_video_id": clips.long_video_id.take(at),
        "split": pa.array(np.where(test, "test", "train"), pa.string()),
        "heldout": pa.array(held),
        "scenario": _by_kind(one.kinds[kept])[0],
        "caption": clips.caption.take(at),
        "shard": pa.array(map(shard, videos.to_pylist(), kinds), pa.string()),
        "references": _reference_lists(pool, drafts),
    }
    return pa.table(columns, schema=records.SAMPLES)


def _reference_lists(pool: Pool, drafts: Drafts) -> pa.ListArray:
    shown = references(pool, drafts)
    own = drafts.pair < 0
    pair = np.where(own, 0, drafts.pair)

    def score(values: Floats) -> pa.Array:
        found = np.full(len(own), np.nan)
        if len(values):
            found = np.where(own, np.nan, values[pair])
        return pa.array(found, mask=np.isnan(found))

    fields = {
        "subject_id": pool.ids.take(pa.array(drafts.target)),
        "reference_subject_id": pool.ids.take(pa.array(shown)),
        "detection_id": _detections(pool, drafts),
        "similarity": score(pool.pairs.similarity),
        "face_similarity": score(pool.pairs.face),
        "background_similarity": score(pool.pairs.background),
        "distance_us": _distance(pool, drafts, shown),
    }
    struct = pa.StructArray.from_arrays(
        [fields[f.name] for f in records.REFERENCE], fields=list(records.REFERENCE)
    )
    return pa.ListArray.from_arrays(pa.array(drafts.edges, pa.int32()), struct)


def _distance(pool: Pool, drafts: Drafts, shown: Ints) -> pa.Array:
    """Time of each reference's frame from the trained span; null in another file."""
    clips = pool.clips
    target, other = pool.clip[drafts.target], pool.clip[shown]
    video = np.asarray(clips.video_id.dictionary_encode().indices.to_numpy(), np.int64)
    same = (video[target] == video[other]) & ~clips.image[target]
    when = np.where(drafts.pair < 0, pool.own_us[shown], pool.picture_us[shown])
    outside, _ = distances(when, clips.start_us[target], clips.end_us[target], pool.rules)
    return pa.array(outside, pa.int64(), mask=~same)


def _reasons(pool: Pool, one: _Some) -> pa.Table:
    scenarios, classes = _by_kind(one.kinds)
    columns = {
        "sample_id": pa.array(one.ids, pa.string()),
        "pair_type": pa.repeat(one.pair_type, len(one.ids)),
        "clip_id": pool.clips.clip_id.take(pa.array(one.drafts.clip)),
        "scenario": scenarios,
        "classes": classes,
        "score": pa.array(one.score),
        "topped_up": pa.array(np.arange(len(one.ids)) >= one.first),
        "reason": pa.array(one.reasons, pa.string()),
    }
    return pa.table(columns, schema=SAMPLE_REASONS)


def _by_kind(found: Ints) -> tuple[pa.Array, pa.Array]:
    """Scenario and classes of each sample."""
    known, at = np.unique(found, return_inverse=True)
    keys = [keys_of(int(one)) for one in known]
    scenarios = pa.array([name for (_, name), *_ in keys], pa.string())
    classes = pa.array([[name for _, name in rest] for _, *rest in keys], pa.list_(pa.string()))
    return scenarios.take(pa.array(at)), classes.take(pa.array(at))


def shard_name(kind: str, video_id: str, shards: int) -> str:
    """``<kind>-<n>.tar``: a stable hash of the source video modulo the shard count."""
    return f"{kind}-{ids.bucket(video_id, shards):06d}.tar"
