"""Phantom-Data's columns from a run of ours: the cross pairs, without pixels.

Clip ids are ``<video_id>_<begin>_<end>`` in seconds, frames shares of the clip, boxes pixels of
the uncropped frame shrunk to a longer side of 768: what :mod:`.phantom_data` reads.
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base import atomic
from s2v.datapipe.interop.phantom_data import CANVAS, CLIPS_FILE, PAIRS_FILE

Row = dict[str, Any]

PAIRS: Final = pa.schema(
    [
        pa.field("video_id", pa.string()),
        pa.field("video_caption", pa.string()),
        pa.field("cross_pair", pa.string()),  # JSON
    ]
)
CLIPS: Final = pa.schema(
    [
        pa.field("vid", pa.string()),
        pa.field("youtube_url", pa.string()),
        pa.field("timestamp", pa.string()),  # as Koala-36M writes it
        pa.field("caption", pa.string()),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("fps", pa.float64()),
        pa.field("num_frames", pa.int64()),
        pa.field("licence", pa.string()),
    ]
)


def export_run(run: Path, out: Path, videos: Path | None = None) -> dict[str, Any]:
    """Write both Parquet files from a finished run.

    Args:
        run: the run folder.
        out: where to.
        videos: also write the files of the run's sources there, as CSV of name and file: with it
            ``s2v-data import phantom-data --videos`` reads the export back.

    Returns:
        Counts of what was written and of what has no place in the format.

    Raises:
        RunFolderError: the folder is no finished run.
    """
    from s2v.datapipe.report.run import RunFolder

    opened = RunFolder(run)
    names = ("samples", "subjects", "detections", "clips", "sources", "probe", "captions")
    found = export({name: opened.rows(name) for name in names}, out)
    if videos is not None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("name", "file"))
        for row in opened.rows("sources"):
            if row["kind"] == "video":
                table.writerow((row["video_id"], str(Path(row["path"]).absolute())))
        atomic.write_bytes(videos, text.getvalue().encode())
    return found


def export(tables: Mapping[str, Sequence[Row]], out: Path) -> dict[str, Any]:
    """Write both Parquet files from rows of a run's tables.

    Args:
        tables: ``samples, subjects, detections, clips, sources, probe, captions``.
        out: folder of ``koala36M_multi_ref_*.parquet``.
    """
    exporter = _Exporter(tables)
    pairs = [row for row in map(exporter.row, tables["samples"]) if row]
    clips = [exporter.clip_row(clip) for clip in sorted(exporter.named)]
    for name, schema, rows in ((PAIRS_FILE, PAIRS, pairs), (CLIPS_FILE, CLIPS, clips)):
        with atomic.replacing(out / name) as path:
            table = pa.Table.from_pylist(sorted(rows, key=lambda r: r[schema.names[0]]), schema)
            pq.write_table(table, path, compression="zstd")
    return {
        "pairs": str(out / PAIRS_FILE),
        "clips": str(out / CLIPS_FILE),
        "rows": len(pairs),
        "references": exporter.references,
        "left_out": dict(sorted(exporter.left.items())),
    }


class _Exporter:
    """Joins samples with where their subjects were seen."""

    def __init__(self, tables: Mapping[str, Sequence[Row]]) -> None:
        self._clips = {row["clip_id"]: row for row in tables["clips"]}
        self._sources = {row["video_id"]: row for row in tables["sources"]}
        self._probe = {row["video_id"]: row for row in tables["probe"]}
        self._captions = {row["clip_id"]: row["caption"] for row in tables["captions"]}
        self._subjects = {row["subject_id"]: row for row in tables["subjects"]}
        self._detections = {row["detection_id"]: row for row in tables["detections"]}
        self.named: set[str] = set()
        self.references = 0
        self.left: dict[str, int] = defaultdict(int)

    def row(self, sample: Row) -> Row | None:
        """One row of the pairs' file; ``None`` for what the format cannot hold."""
        if sample["pair_type"] != "cross":
            self.left[f"samples of type {sample['pair_type']}"] += 1
            return None
        pairs: dict[str, Any] = {}
        for ref in sample["references"]:
            shown = self._detections[ref["detection_id"]]
            subject = self._subjects[ref["subject_id"]]
            if self._clips[shown["clip_id"]]["kind"] != "video":
                self.left["references that are photographs"] += 1
                continue
            own = self._detections[subject["detection_id"]]
            reference = self._object(shown, subject["noun"])
            reference["bbox_loc"] = [reference["bbox_loc"]]
            reference["scores"] = ref["similarity"]
            pairs[subject["phrase"]] = {
                "obj_from_tgt_video": [self._object(own, subject["noun"])],
                "refer_result": [[reference]],
            }
            self.references += 1
        if not pairs:
            self.left["samples without a reference from a video"] += 1
            return None
        self.named.add(sample["clip_id"])
        return {
            "video_id": self.vid(sample["clip_id"]),
            "video_caption": sample["caption"],
            "cross_pair": json.dumps(pairs, ensure_ascii=False, sort_keys=True),
        }

    def vid(self, clip_id: str) -> str:
        """``<video_id>_<begin>_<end>``, in seconds on the file's time line."""
        clip = self._clips[clip_id]
        return f"{clip['video_id']}_{clip['start_us'] / 1e6:.6f}_{clip['end_us'] / 1e6:.6f}"

    def _object(self, detection: Row, noun: str) -> Row:
        clip = self._clips[detection["clip_id"]]
        self.named.add(clip["clip_id"])
        probe = self._probe[clip["video_id"]]
        scale = min(1.0, CANVAS / max(probe["width"], probe["height"]))
        left, top = (clip["crop"] or (0.0, 0.0))[:2]
        shift = (left, top, left, top)
        box = [round((v + s) * scale, 2) for v, s in zip(detection["box"], shift, strict=True)]
        return {
            "vid": self.vid(clip["clip_id"]),
            "frame_idx": _share(clip, detection["pts_us"]),
            "bbox_loc": box,
            "bbox_cls": noun,
        }

    def clip_row(self, clip_id: str) -> Row:
        """One row of the clips' file."""
        clip = self._clips[clip_id]
        source, probe = self._sources[clip["video_id"]], self._probe[clip["video_id"]]
        times = [_clock(clip["start_us"]), _clock(clip["end_us"])]
        return {
            "vid": self.vid(clip_id),
            "youtube_url": source["url"],
            "timestamp": str(times),
            "caption": self._captions.get(clip_id),
            "width": probe["width"],
            "height": probe["height"],
            "fps": clip["fps"],
            "num_frames": clip["frames"],
            "licence": source["licence"],
        }


def _share(clip: Row, pts_us: int) -> float:
    """A share from which ``int(num_frames * share)`` gives the frame: its middle."""
    frames = max(1, clip["frames"])
    length = max(1, clip["end_us"] - clip["start_us"])
    number = min(frames - 1, round((pts_us - clip["start_us"]) * frames / length))
    return float(round((number + 0.5) / frames, 9))


def _clock(time_us: int) -> str:
    """``h:mm:ss.mmm``, as Koala-36M and Panda-70M write times."""
    milliseconds = round(time_us / 1000)
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"
