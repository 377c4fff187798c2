"""Cutting: only what was kept is encoded, each clip once, on Ray.

A cut clip is filed under a hash of everything its bytes depend on, so it is made once for
any number of selections, and a stopped run goes on with the clips that are missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2v.datapipe import staging
from s2v.datapipe.base import ids
from s2v.datapipe.base.media.buckets import corner, fit
from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.cut_together import MAX_TOGETHER, Span, cut_together, together
from s2v.datapipe.base.media.encode import Shape
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.stills import still_clip
from s2v.datapipe.base.progress import track
from s2v.datapipe.engine.errors import FAULTS, NO_FAILURE, failure, raise_failure
from s2v.datapipe.engine.execute import start_ray
from s2v.datapipe.engine.stage import Row

CUT_VERSION = 1
_FAR_US = 12_000_000  # longer than the distance of key frames that encoders choose


@dataclass(frozen=True)
class Cutting:
    """Where each clip's file is, and what could not be cut."""

    files: dict[str, Path]
    quarantine: list[Row]


def cut_clips(
    folder: Path,
    clips: Iterable[Row],
    sources: Mapping[str, Row],
    encoding: Mapping[str, Any],
    *,
    keep: Mapping[str, Sequence[float]] | None = None,
    cpus: int | None = None,
    quiet: bool = False,
) -> Cutting:
    """Cut clips to mp4 below ``folder/clips``.

    Args:
        folder: the run folder.
        clips: rows of table ``clips`` to be cut, to their ``crop``; a photograph becomes a video
            of one frame.
        sources: table ``sources`` by ``video_id``.
        encoding: arguments of :func:`s2v.datapipe.base.media.cut.cut_clip`.
        keep: by clip what buckets should not cut into, ``x0, y0, x1, y1`` as shares of the clip's
            picture.
        cpus: CPUs of a local Ray.
        quiet: no progress.

    Raises:
        UnitFailedError: the machine failed a clip (disk full, unreadable mount).
    """
    folder = folder.absolute()  # actors on other machines stand in other folders
    jobs = []
    for clip in sorted(clips, key=lambda row: str(row["clip_id"])):
        subjects = (keep or {}).get(clip["clip_id"])
        jobs.append(_job(folder, clip, sources[clip["video_id"]], encoding, subjects))
    files = {job["clip_id"]: Path(job["target"]) for job in jobs}
    missing = [job for job in jobs if not Path(job["target"]).exists()]
    quarantine: list[Row] = []
    with track("cut clips", len(jobs), quiet=quiet) as step:
        step(len(jobs) - len(missing), note="cut before", before=True)
        for answer in _run(missing, cpus):
            raise_failure(f"clip {answer['clip_id']}", answer["failed"])
            step()
            if answer["message"]:
                quarantine.append(_quarantined(answer))
                del files[answer["clip_id"]]
    return Cutting(files, quarantine)


def _job(
    folder: Path,
    clip: Row,
    source: Row,
    encoding: Mapping[str, Any],
    keep: Sequence[float] | None = None,
) -> dict[str, Any]:
    content = str(source["sha256"] or source["etag"])  # of an object, before its bytes are read
    parts = [str(CUT_VERSION), content, json.dumps(dict(encoding), sort_keys=True)]
    crop = clip.get("crop")
    if crop is not None:
        parts.append(json.dumps([int(v) for v in crop]))
    if keep is not None and _moves(clip, encoding, keep):
        parts.append(json.dumps({"keep": list(keep)}))
    else:
        keep = None  # the middle is right: the clip has the name that it has always had
    target = folder / "clips" / ids.stable_hash(parts, 12) / f"{clip['clip_id']}.mp4"
    return {
        "folder": str(folder),
        "clip_id": clip["clip_id"],
        "source": source,
        "start_us": clip["start_us"],
        "end_us": clip["end_us"],
        "crop": crop,
        "keep": keep,
        "target": str(target),
        "encoding": dict(encoding),
    }


def _moves(clip: Row, encoding: Mapping[str, Any], keep: Sequence[float]) -> bool:
    """Whether the bucket of a clip is cut elsewhere than from its middle."""
    shape = _arguments(dict(encoding)).get("shape")
    if shape is None:
        return False
    picture = (int(clip["width"]), int(clip["height"]))
    found = fit(*picture, shape.buckets, shape.max_enlarge)
    return found is not None and corner(found.cover, found.size, keep) != corner(
        found.cover, found.size
    )


def _run(jobs: list[dict[str, Any]], cpus: int | None) -> Iterable[dict[str, Any]]:
    if not jobs:
        return
    import ray

    start_ray(cpus)
    rows = [{"jobs": json.dumps(batch)} for batch in neighbours(jobs)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    yield from dataset.flat_map(_cut_batch, num_cpus=1).iter_rows()


def neighbours(jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Deal clips to workers: those of one film that may share pictures to decode stay together.

    Whether they do is for the film's key frames to say, which are where the film is.
    """
    batches: list[list[dict[str, Any]]] = []
    end_us: dict[str, int] = {}
    for job in sorted(jobs, key=lambda one: (one["source"]["video_id"], one["start_us"])):
        video = job["source"]["video_id"]
        near = video in end_us and job["start_us"] - end_us[video] < _FAR_US
        if near and job["source"]["kind"] == "video" and len(batches[-1]) < MAX_TOGETHER:
            batches[-1].append(job)
        else:
            batches.append([job])
        end_us = {video: max(job["end_us"], end_us.get(video, 0))}
    return batches


def _cut_batch(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Cut clips of one film; what cannot be cut in company is tried, and judged, alone."""
    jobs = json.loads(row["jobs"])
    if len(jobs) > 1:
        with contextlib.suppress(*FAULTS):
            _cut_neighbours(jobs)
    return [_cut({"job": json.dumps(job)}) for job in jobs]


def _cut_neighbours(jobs: list[dict[str, Any]]) -> None:
    staging.use(Path(jobs[0]["folder"]))
    path = staging.local_path(jobs[0]["source"])
    spans = [
        Span(job["start_us"], job["end_us"], Path(job["target"]), job["crop"], job.get("keep"))
        for job in jobs
    ]
    for group in together(path, spans):
        if len(group) > 1:
            cut_together(path, group, **_arguments(jobs[0]["encoding"]))


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    job = json.loads(row["job"])
    error = message = ""
    failed = NO_FAILURE
    try:
        if Path(job["target"]).exists():  # cut with its neighbours
            return {"clip_id": job["clip_id"], "error": "", "message": "", "failed": failed}
        Path(job["target"]).parent.mkdir(parents=True, exist_ok=True)
        staging.use(Path(job["folder"]))
        path = staging.local_path(job["source"])
        if job["source"]["kind"] == "image":
            still_clip(path, job["target"], keep=job.get("keep"), **_arguments(job["encoding"]))
        else:
            span = (job["start_us"], job["end_us"])
            options = {**_arguments(job["encoding"]), "crop": job["crop"], "keep": job.get("keep")}
            cut_clip(path, *span, job["target"], **options)
    except MediaError as refused:
        if refused.transient:
            failed = failure(refused, Path(job["target"]))
        else:
            error, message = str(refused.kind), str(refused)
    except FAULTS as fault:
        failed = failure(fault, Path(job["target"]))
    return {"clip_id": job["clip_id"], "error": error, "message": message, "failed": failed}


def _arguments(encoding: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the encoders; a shape travels as plain data."""
    if "shape" not in encoding:
        return encoding
    return {**encoding, "shape": Shape.of(encoding["shape"])}


def _quarantined(answer: dict[str, Any]) -> Row:
    return {
        "id": answer["clip_id"],
        "stage": "cut",
        "unit": answer["clip_id"],
        "error": answer["error"],
        "message": answer["message"],
        "retry": "mend the source, then run again",
    }
