"""Small real files in other people's formats, built after the published layouts.

None of them is the real dataset: those are terabytes and were not here. Field names and their
meaning follow Phantom-Data's README and OpenS2V-Nexus' ``data_process``, NeMo Curator's
``ClipWriterStage`` and video2dataset's ``data_writer``. The videos are real: every frame says its
own number by its grey, so that a reference cut from a wrong one is seen.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s2v.datapipe.base.media import ffmpeg, masks

STEP = 6
"""Grey levels from one frame to the next, above the first one's."""

FIRST_GREY = 30
RED = (220, 30, 30)
Box = tuple[int, int, int, int]


def film(
    path: Path,
    frames: int = 24,
    size: tuple[int, int] = (160, 120),
    box: Box = (40, 20, 100, 80),
    fps: int = 12,
) -> Path:
    """A film of ``frames`` grey pictures with a red box, its grey telling the frame's number."""
    width, height = size
    pictures = np.empty((frames, height, width, 3), np.uint8)
    pictures[:] = (FIRST_GREY + STEP * np.arange(frames) % 200)[:, None, None, None]
    x0, y0, x1, y1 = box
    pictures[:, y0:y1, x0:x1] = RED
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-",
        "-c:v", "libx264", "-preset", "ultrafast", "-crf", "4", "-g", "8", "-bf", "2",
        "-pix_fmt", "yuv420p", "-threads", "1", str(path),
    ]  # fmt: skip
    done = subprocess.run(
        command, input=pictures.tobytes(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return path


def frame_number(picture: np.ndarray) -> int:
    """Which frame a crop was cut from, by the grey of its corner."""
    return round((float(picture[:5, :5].mean()) - FIRST_GREY) / STEP)


def phantom_pairs(path: Path, rows: list[dict[str, Any]], *, id_column: str = "video_id") -> Path:
    """``...merged_filtered.parquet``: ``cross_pair`` as JSON text, one row group."""
    table = pa.table(
        {
            id_column: pa.array([row.get("vid") for row in rows], pa.string()),
            "video_caption": pa.array([row.get("caption") for row in rows], pa.string()),
            "cross_pair": pa.array(
                [
                    pair if isinstance(pair := row.get("pairs"), str | None) else json.dumps(pair)
                    for row in rows
                ],
                pa.string(),
            ),
        }
    )
    pq.write_table(table, path)
    return path


def phantom_clips(path: Path, urls: dict[str, str]) -> Path:
    """``...meta_info_merged.parquet`` with the columns that code for it reads."""
    pq.write_table(
        pa.table(
            {
                "vid": list(urls),
                "youtube_url": list(urls.values()),
                "timestamp": ["['0:00:01.000', '0:00:03.000']"] * len(urls),
                "width": [1280] * len(urls),
                "height": [720] * len(urls),
                "fps": [12.0] * len(urls),
            }
        ),
        path,
    )
    return path


def target(vid: str, share: float | str, box: Any) -> dict[str, Any]:
    """An object of ``obj_from_tgt_video``: its box is flat."""
    return {"vid": vid, "frame_idx": share, "bbox_loc": list(box), "bbox_cls": "woman"}


def reference(vid: str, share: float | str, box: Any) -> dict[str, Any]:
    """An object of ``refer_result``: its box is one list deeper."""
    return {**target(vid, share, box), "bbox_loc": [list(box)], "scores": 0.71}


def mask_of(size: tuple[int, int], box: Box) -> masks.Rle:
    """Run lengths of a filled box on a picture of width and height."""
    mask = np.zeros((size[1], size[0]), np.bool_)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return masks.encode(mask)


def opens2v_entry(
    path: str,
    objects: list[tuple[str, masks.Rle]],
    *,
    cut: tuple[int, int] = (0, 24),
    crop: tuple[int, int, int, int] = (0, 160, 0, 120),
    caption: str = "A woman in a red coat holds a cup near a dog in a park.",
    background: tuple[str, ...] = ("park",),
) -> dict[str, Any]:
    """One entry of ``total_part<N>.json``; the annotated frame is the first of the cut."""
    frame = cut[0]
    return {
        "metadata": {
            "cut": [cut[0], cut[1]],
            "face_cut": [cut[0], cut[1]],
            "crop": list(crop),  # x, x, y, y
            "tech": 2.0,
            "motion": 0.01,
            "aesthetic": 5.07,
            "fps": 12.0,
            "num_frames": cut[1] - cut[0],
            "resolution": {"height": 120, "width": 160},
            "cap": ["Somebody stands there."],
            "face_cap_qwen": caption,
            "path": path,
        },
        "word_tags": {
            "background": list(background),
            "subject": ["woman"],
            "object": ["cup"],
            "pre_define": ["person", "human head"],
        },
        "annotation": {
            "ann_frame_data": {
                "ann_frame_idx": frame,
                "annotations": [
                    {"class_name": name, "bbox": [0, 0, 1, 1], "gme_score": 0.3, "aes_score": 4.2}
                    for name, _ in objects
                ],
                "box_format": "xyxy",
            },
            "mask_map": {
                str(n): {"class_name": name} for n, (name, _) in enumerate(objects, start=1)
            },
            "mask_annotation": {
                str(frame): {
                    str(n): {**rle, "score": [0.99]} for n, (_, rle) in enumerate(objects, start=1)
                }
            },
        },
    }


def opens2v_pair(cur: str, aft: str, names: tuple[str, str], similarity: float) -> dict[str, Any]:
    """One record of a cross-frame JSON."""
    return {
        "cur_id": cur,
        "aft_id": aft,
        "cur_class_name": names[0],
        "aft_class_name": names[1],
        "text_similarity": 1.0,
        "image_similarity": similarity,
        "cur_frame_idx": 0,
        "aft_frame_idx": 0,
    }


def curator_meta(uuid: str, windows: list[tuple[int, int, str]], **changes: Any) -> dict[str, Any]:
    """One ``metas/v0/<uuid>.json``."""
    return {
        "span_uuid": uuid,
        "source_video": "/data/videos/street.mp4",
        "duration_span": [4.0, 6.0],
        "width_source": 160,
        "height_source": 120,
        "framerate_source": 12.0,
        "clip_location": f"/outputs/clips/{uuid}.mp4",
        "framerate": 12.0,
        "num_frames": 24,
        "motion_score": {"global_mean": 0.5, "per_patch_min_256": 0.3},
        "windows": [
            {"start_frame": first, "end_frame": last, "qwen_caption": caption}
            for first, last, caption in windows
        ],
        "valid": True,
        **changes,
    }


def v2d_shard(folder: Path, number: int, samples: list[dict[str, Any]]) -> Path:
    """``00000.tar``, its Parquet and its stats, as video2dataset leaves them."""
    path = folder / f"{number:05d}.tar"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(path, "w") as tar:
        for sample in samples:
            meta = {
                "url": sample.get("url"),
                "caption": sample.get("caption"),
                "key": sample["key"],
                "status": sample.get("status", "success"),
                "error_message": sample.get("error"),
                "clips": sample.get("clips"),
            }
            rows.append(meta)
            members = {"mp4": sample.get("video"), "txt": (sample.get("caption") or "").encode()}
            members["json"] = sample.get("json", json.dumps(meta, indent=4).encode())
            for suffix, data in members.items():
                if data is not None:
                    info = tarfile.TarInfo(f"{sample['key']}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    stats = {"count": len(rows), "successes": 1, "failed_to_download": 0, "status_dict": {}}
    path.with_name(f"{number:05d}_stats.json").write_text(json.dumps(stats))
    return path


def quarantined(out: Path) -> dict[str, str]:
    """Reason of everything that an import left out, by id."""
    lines = (out / "quarantine.jsonl").read_text().splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}
