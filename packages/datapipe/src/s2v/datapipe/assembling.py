"""Putting the tables of a run together: what the manifest says, gates, withdrawn sources.

Committed rows hold only what was measured from a file's content. Facts that can be corrected
in a manifest, and gates, are applied each time the tables are read, so that a run gives the
same tables whatever its history.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from s2v.datapipe.base import records
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.measure.frames import cut_to_crop
from s2v.datapipe.measure.gates import GateSettings

SOURCE_IN_QUARANTINE = "source in quarantine"

#: Tables of the stages that gates stand in front of.
GATED = (
    *("captions", "phrases", "detections", "checks", "marks"),
    *("masks", "faces", "people", "embeddings"),
)


def rows(tables: Mapping[str, pa.Table], name: str) -> list[Row]:
    """Rows of a table, none when it is not there."""
    return list(tables[name].to_pylist()) if name in tables else []


def mark_duplicates(tables: dict[str, pa.Table], sources: list[Row]) -> dict[str, pa.Table]:
    """Drop byte-identical copies: the probe's reason names the source that is kept."""
    copies = {row["video_id"]: row["duplicate_of"] for row in sources if row["duplicate_of"]}
    probe = [
        {**row, "reason": f"duplicate file: same bytes as {copies[row['video_id']]}"}
        if row["video_id"] in copies
        else row
        for row in rows(tables, "probe")
    ]
    return {**tables, "probe": records.table("probe", probe)}


def withdraw(tables: dict[str, pa.Table], sources: list[Row]) -> dict[str, pa.Table]:
    """Take back the clips of sources of which any window is in quarantine.

    A film that breaks off half-way may decode well before; what is damaged is not trusted in
    part. The time line says so. The clips left get the long video that the manifest names now.
    """
    bad = {row["id"] for row in rows(tables, "quarantine")}
    long_video = {row["video_id"]: row["long_video_id"] for row in sources}
    clips = [
        {**row, "long_video_id": long_video[row["video_id"]]}
        for row in rows(tables, "clips")
        if row["video_id"] not in bad
    ]
    spans = [
        {**row, "clip_id": None, "reason": SOURCE_IN_QUARANTINE} if row["video_id"] in bad else row
        for row in rows(tables, "spans")
    ]
    return {
        **tables,
        "clips": records.table("clips", clips),
        "spans": records.table("spans", spans),
        "stills": records.table(
            "stills", [row for row in rows(tables, "stills") if row["video_id"] not in bad]
        ),
    }


def apply_crops(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Give clips and frames the crop that was used, so that sizes and boxes agree everywhere."""
    crops = {r["clip_id"]: r["crop"] for r in rows(tables, "overlays") if r["crop"] is not None}
    if not crops:
        return tables
    clips, frames = rows(tables, "clips"), rows(tables, "frames")
    videos = {row["clip_id"] for row in clips if row["kind"] == "video"}
    # A photograph may be stored smaller than it is; its size stays that of the file.
    of_video = {clip: crop for clip, crop in crops.items() if clip in videos}
    return {
        **tables,
        "clips": records.table("clips", cut_to_crop(clips, of_video)),
        "frames": records.table("frames", cut_to_crop(frames, crops)),
    }


def apply_gates(tables: dict[str, pa.Table], gates: GateSettings) -> dict[str, pa.Table]:
    """Leave out what was measured behind a gate that now stops the clip, and say which gate.

    A tightened gate thus gives the tables that it would have given from the start.
    """
    clips = {row["clip_id"]: row for row in rows(tables, "clips")}
    quality = [
        {**row, "gate": gates.stops({**row, **clips.get(row["clip_id"], {})})}
        for row in rows(tables, "quality")
    ]
    stopped = pa.array([row["clip_id"] for row in quality if row["gate"]], pa.string())
    out = {**tables, "quality": records.table("quality", quality)}
    for name in GATED:
        if name in tables and len(stopped):
            behind = pc.is_in(tables[name]["clip_id"], value_set=stopped)
            if pc.any(behind).as_py():  # a copy of all masks and vectors is not made for nothing
                out[name] = tables[name].filter(pc.invert(behind))
    return out
