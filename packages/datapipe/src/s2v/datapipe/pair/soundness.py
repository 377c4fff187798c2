"""What contradicts what in the tables of a run, column by column; nothing does in a sound one.

Rows of Python are made of the few that are wrong, so a million of sound ones cost seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base import ids
from s2v.datapipe.pair.columns import Flags, Ints, codes, ints, positions, runs, there, whole
from s2v.datapipe.pair.rows import KEYS, measured
from s2v.datapipe.pair.select import Selection
from s2v.datapipe.pair.settings import SelectSettings

All = Mapping[str, pa.Table]

_HASHED: Final = 1 << 17  # samples whose ids are hashed again; of more, evenly spread ones
#: Tables that a selection makes, or adds to.
MADE: Final = frozenset({"subjects", "pairs", "verdicts", "samples"})

_PARENTS: Final = (
    ("probe", "video_id", "sources"),
    ("spans", "video_id", "sources"),
    ("clips", "video_id", "sources"),
    ("frames", "clip_id", "clips"),
    ("overlays", "clip_id", "clips"),
    ("quality", "clip_id", "clips"),
    ("captions", "clip_id", "clips"),
    ("phrases", "clip_id", "clips"),
    ("detections", "subject_id", "phrases"),
    ("detections", "frame_id", "frames"),
    ("masks", "detection_id", "detections"),
    ("embeddings", "detection_id", "detections"),
    ("faces", "frame_id", "frames"),
    ("people", "clip_id", "clips"),
)


def of_measured(tables: All) -> Iterator[str]:
    """Everything that is wrong with the measure tables, in the order of the pipeline."""
    yield from _unique_keys({name: tables[name] for name in tables if name not in MADE})
    yield from _parents(tables)
    yield from _sources(tables)
    yield from _time(tables)
    yield from _clips_and_spans(tables)


def of_selection(tables: All, selection: Selection, settings: SelectSettings) -> Iterator[str]:
    """Everything that is wrong with what was made of them.

    Args:
        tables: the measure tables, SUBJECTS, PAIRS and SAMPLES.
        selection: what was made of them.
        settings: with which it was made.
    """
    yield from _unique_keys({name: tables[name] for name in tables if name in MADE})
    yield from _fan_out(tables, selection)
    yield from _pairs(tables)
    places = _places(tables)
    yield from _samples(tables, selection, settings, places)
    yield from _splits(tables, places)


def scanned(tables: All) -> pa.Table:
    """Probes of videos whose every moment must be accounted for."""
    probe, sources = measured(tables, "probe"), measured(tables, "sources")
    images = sources.filter(pc.equal(sources["kind"], "image"))["video_id"]
    lost = measured(tables, "quarantine")["id"]
    return probe.filter(
        pa.array(
            ~there(probe["reason"])
            & ~_among(probe["video_id"], images)
            & ~_among(probe["video_id"], lost)
        )
    )


def _among(column: pa.ChunkedArray, known: pa.ChunkedArray) -> Flags:
    return positions(column, known) >= 0


def _found(at: Ints) -> Ints:
    return at[at >= 0]


def _told(column: pa.ChunkedArray, at: Flags | Ints) -> list[object]:
    rows = np.flatnonzero(at) if at.dtype == np.bool_ else at
    found: list[object] = column.take(pa.array(rows, pa.int64())).to_pylist()
    return found


def _unique_keys(tables: All) -> Iterator[str]:
    for name in sorted(set(tables) & set(KEYS) - {"quarantine"}):
        table = tables[name]
        keys = [codes(table[key])[0] for key in KEYS[name]]
        order = np.lexsort(keys[::-1])
        starts = runs(*(key[order] for key in keys))
        counts = np.diff(starts)
        for at in np.flatnonzero(counts > 1).tolist():
            row = int(order[starts[at]])
            key = "/".join(str(table[k][row].as_py()) for k in KEYS[name])
            yield f"{name}: {key} is there {counts[at]} times"


def _parents(tables: All) -> Iterator[str]:
    for child, column, parent in _PARENTS:
        if child not in tables:
            continue
        known = measured(tables, parent)[KEYS[parent][0]]
        lost = ~_among(tables[child][column], known)
        for value in sorted(map(repr, _told(tables[child][column], lost))):
            yield f"{child}: {column} {value} is not in table {parent}"


def _sources(tables: All) -> Iterator[str]:
    videos = measured(tables, "sources")["video_id"]
    probed = measured(tables, "probe")["video_id"]
    lost = ~_among(videos, probed) & ~_among(videos, measured(tables, "quarantine")["id"])
    for video in _told(videos, lost):
        yield f"sources: {video!r} is neither probed nor quarantined"


def _time(tables: All) -> Iterator[str]:
    """Spans of a video must follow each other from its first moment to its last."""
    videos, spans = scanned(tables), measured(tables, "spans")
    names, length = videos["video_id"].to_pylist(), ints(videos["duration_us"], 0)
    video = positions(spans["video_id"], videos["video_id"])
    start, end = ints(spans["start_us"], 0), ints(spans["end_us"], 0)
    # Each video begins with a span that ends at 0 and ends with one that begins at its length.
    here = video >= 0
    every = np.arange(len(names))
    which = np.concatenate([every, video[here], every])
    begin = np.concatenate([np.full(len(names), -1), start[here], length])
    until = np.concatenate([np.zeros(len(names), np.int64), end[here], length])
    kind = np.repeat([0, 1, 2], [len(names), int(here.sum()), len(names)])
    order = np.lexsort((until, begin, kind, which))
    which, begin, until = which[order], begin[order], until[order]
    empty = ~np.isin(every, video)
    for n in np.flatnonzero(empty).tolist():
        yield f"spans: {names[n]!r} has none for its {length[n]} us"
    torn = (which[1:] == which[:-1]) & (begin[1:] != until[:-1])
    torn &= ~empty[which[1:]] if len(names) else torn
    for n in np.flatnonzero(torn).tolist():
        what = "lost" if begin[n + 1] > until[n] else "there twice"
        first, last = sorted((int(until[n]), int(begin[n + 1])))
        yield f"spans: {names[which[n]]!r} between {first} and {last} us is {what}"


def _clips_and_spans(tables: All) -> Iterator[str]:
    spans, clips = measured(tables, "spans"), measured(tables, "clips")
    clip, dropped = there(spans["clip_id"]), there(spans["reason"])
    for n in np.flatnonzero(clip == dropped).tolist():
        at = f"{spans['video_id'][n].as_py()!r} at {spans['start_us'][n].as_py()} us"
        yield f"spans: {at} needs a clip or a reason"
    mine = np.flatnonzero(clip)
    place = positions(spans["clip_id"], clips["clip_id"])[mine]
    same = place >= 0
    for side in ("start_us", "end_us"):
        theirs = np.append(ints(clips[side], -1), -1)[place]
        same &= ints(spans[side], -1)[mine] == theirs
    for name in _told(spans["clip_id"], mine[~same]):
        yield f"spans: clip {name!r} is not in table clips with these times"
    image = whole(pc.fill_null(pc.equal(clips["kind"], "image"), False))
    unlisted = ~_among(clips["clip_id"], spans["clip_id"])
    unlisted &= ~image.to_numpy(zero_copy_only=False)
    for name in _told(clips["clip_id"], unlisted):
        yield f"clips: {name!r} is in no span"


def _fan_out(tables: All, selection: Selection) -> Iterator[str]:
    for name, before, after, keys in (
        ("clips", measured(tables, "clips"), selection.clips, ("clip_id",)),
        ("subjects", measured(tables, "phrases"), selection.subjects, ("subject_id",)),
        ("boxes", measured(tables, "detections"), selection.boxes, ("detection_id",)),
        ("faces", measured(tables, "faces"), selection.faces, ("frame_id", "face")),
    ):
        yield from same_ids(name, before, after, keys)
    kept = selection.clips.filter(pc.is_null(selection.clips["reason"]))["clip_id"]
    for table in ("frames", "overlays", "quality", "captions"):
        known = measured(tables, table)["clip_id"]
        if kept.equals(known):
            continue
        lost = np.ones(len(kept), np.bool_)  # by the smaller table's values
        lost[_found(positions(known, kept))] = False
        for clip in _told(kept, lost):
            yield f"{table}: kept clip {clip!r} has no row, no reason and no quarantine"


def same_ids(name: str, before: pa.Table, after: pa.Table, keys: tuple[str, ...]) -> Iterator[str]:
    """Rows that were lost on the way, or came from nowhere, by their ids."""
    one, other = (_joined(table, keys) for table in (before, after))
    if one.equals(other):  # as nearly always, and a tenth of the work
        return
    for lost in sorted(_told(one, ~_among(one, other)), key=str):
        yield f"{name}: {lost!r} was lost"
    for invented in sorted(_told(other, ~_among(other, one)), key=str):
        yield f"{name}: {invented!r} came from nowhere"


def _joined(table: pa.Table, keys: tuple[str, ...]) -> pa.ChunkedArray:
    if len(keys) == 1:
        return table[keys[0]]
    texts = [table[key].cast(pa.string()) for key in keys]
    return pc.binary_join_element_wise(*texts, "/")


def _pairs(tables: All) -> Iterator[str]:
    pairs, subjects = measured(tables, "pairs"), measured(tables, "subjects")["subject_id"]
    sides = ("target_subject_id", "reference_subject_id")

    def named(n: int) -> str:
        target, reference = (pairs[side][n].as_py() for side in sides)
        return f"pairs: {target} with {reference}"

    fails = pc.fill_null(pc.list_value_length(pairs["rules"]), 0)
    accepted = whole(pairs["accepted"]).to_numpy(zero_copy_only=False)
    wrong = accepted != (ints(fails, 0) == 0)
    for n in np.flatnonzero(wrong).tolist():
        rules = pairs["rules"][n].as_py()
        yield f"{named(n)} is accepted={bool(accepted[n])} but fails {rules}"
    unknown = np.zeros(pairs.num_rows, np.bool_)
    for side in sides:
        code, names = codes(pairs[side])
        unknown |= ~np.append(_among(names, subjects), False)[code]
    yield from (f"{named(n)}: unknown subject" for n in np.flatnonzero(unknown).tolist())


def _places(tables: All) -> tuple[Ints, Ints]:
    """Rows of SUBJECTS of every reference's two subjects, -1 for an unknown one."""
    flat = pc.list_flatten(whole(measured(tables, "samples")["references"]))
    names = measured(tables, "subjects")["subject_id"]
    target, reference = (
        pc.struct_field(flat, name) for name in ("subject_id", "reference_subject_id")
    )
    at = positions(target, names)
    own = whole(pc.equal(target, reference)).to_numpy(zero_copy_only=False)
    other = np.flatnonzero(~own)  # an in-pair names one subject twice
    found = at.copy()
    found[other] = positions(reference.take(pa.array(other)), names)
    return at, found


def _samples(
    tables: All, selection: Selection, settings: SelectSettings, places: tuple[Ints, Ints]
) -> Iterator[str]:
    samples, subjects = measured(tables, "samples"), measured(tables, "subjects")
    reasons = selection.sample_reasons
    kept = reasons.filter(pc.is_null(reasons["reason"]))
    yield from same_ids("samples", kept, samples, ("sample_id",))
    clip, kind = (codes(samples[name])[0] for name in ("clip_id", "pair_type"))
    order = np.lexsort((kind, clip))
    starts = runs(clip[order], kind[order])
    for n in np.flatnonzero(np.diff(starts) > 1).tolist():
        row = samples.slice(int(order[starts[n]]), 1).to_pylist()[0]
        count = int(starts[n + 1] - starts[n])
        yield f"samples: {row['clip_id']} has {count} {row['pair_type']!r} samples"
    clips = selection.clips.filter(pc.is_null(selection.clips["reason"]))["clip_id"]
    dropped = ~_among(samples["clip_id"], clips)
    for row in samples.filter(pa.array(dropped)).to_pylist():
        yield f"samples: {row['sample_id']} is of dropped clip {row['clip_id']}"
    yield from _references(tables, selection, whole(subjects["subject_id"]), places)
    lists = whole(samples["references"])
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    boxes = pc.struct_field(pc.list_flatten(lists), "detection_id").to_pylist()
    edges = np.concatenate(([0], np.cumsum(counts))).tolist()
    names = (samples[name].to_pylist() for name in ("sample_id", "pair_type", "clip_id"))
    step = -(-samples.num_rows // _HASHED) or 1
    for n, (sample, pair_type, name) in enumerate(zip(*names, strict=True)):
        if n % step == 0 and sample != (
            wanted := ids.sample_id(pair_type, name, boxes[edges[n] : edges[n + 1]])
        ):
            yield f"samples: {sample} should be {wanted}"
    for n in np.flatnonzero((counts < 1) | (counts > settings.sample.max_references)).tolist():
        yield f"samples: {samples['sample_id'][n].as_py()} has {counts[n]} references"


def _references(
    tables: All, selection: Selection, names: pa.Array, places: tuple[Ints, Ints]
) -> Iterator[str]:
    """References must be of kept subjects, accepted, and cut from a box that passes."""
    samples, subjects = measured(tables, "samples"), measured(tables, "subjects")
    pairs = measured(tables, "pairs")
    lists = whole(samples["references"])
    owner = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists)
    target, reference, box = (
        pc.struct_field(flat, name)
        for name in ("subject_id", "reference_subject_id", "detection_id")
    )
    a, b = places
    kept = np.append(~there(subjects["reason"]), False)

    def said(n: int) -> str:
        sample = samples["sample_id"][int(owner[n])].as_py()
        return f"samples: {sample}: {(target[n].as_py(), reference[n].as_py())}"

    clips = whole(pc.coalesce(whole(subjects["clip_id"]).take(pa.array(a, mask=a < 0)), ""))
    mine = whole(samples["clip_id"]).take(pa.array(owner))
    own_clip = pc.equal(clips, mine).to_numpy(zero_copy_only=False)
    for n in np.flatnonzero(~(kept[a] & kept[b] & own_clip)).tolist():
        yield f"{said(n)} are no kept subjects of its clip"
    fine = whole(pairs["accepted"]).to_numpy(zero_copy_only=False)
    sides = []
    for side in ("target_subject_id", "reference_subject_id"):
        code, known = codes(pairs[side])
        sides.append(np.append(positions(known, names), -1)[code[fine]])
    span = len(names) + 1
    own = whole(pc.equal(samples["pair_type"], "in")).to_numpy(zero_copy_only=False)
    paired = np.isin(a * span + b, sides[0] * span + sides[1])
    for n in np.flatnonzero(~own[owner] & ~paired).tolist():
        yield f"{said(n)} is no accepted pair"
    fit = selection.boxes.filter(pc.is_null(selection.boxes["reason"]))["detection_id"]
    for n in np.flatnonzero(~_among(box, fit)).tolist():
        sample = samples["sample_id"][int(owner[n])].as_py()
        yield f"samples: {sample}: {box[n].as_py()} fails a rule"


def _splits(tables: All, places: tuple[Ints, Ints]) -> Iterator[str]:
    samples, subjects = measured(tables, "samples"), measured(tables, "subjects")
    lists = whole(samples["references"])
    owner = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists)
    split, _ = codes(samples["split"])
    keys, sides = [samples["long_video_id"].combine_chunks()], [split]
    for name, at in zip(("subject_id", "reference_subject_id"), places, strict=True):
        subject = pc.struct_field(flat, name)
        there_at = pa.array(at, mask=at < 0)
        for shared in ("identity_id", "long_video_id"):  # a reference's source leaks too
            keys.append(pc.coalesce(whole(subjects[shared]).take(there_at), subject))
            sides.append(split[owner])
    code, names = codes(pa.chunked_array(keys))
    span = int(split.max(initial=0)) + 2  # a split that is not there is one too
    both = np.unique(code.astype(np.int64) * span + np.concatenate(sides) + 1) // span
    for key in names.take(pa.array(both[1:][both[1:] == both[:-1]])).to_pylist():
        yield f"samples: {key!r} is in train and in test"
    held = pc.and_(samples["heldout"], pc.not_equal(samples["split"], "train"))
    for sample in samples.filter(held)["sample_id"].to_pylist():
        yield f"samples: {sample} is held out of a split it is not in"
