"""A run in Phantom-Data's columns: read back, it gives the same references."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_files import film, frame_number
from PIL import Image
from written_run import SETTINGS, WritableRun

from s2v.datapipe.base.shards import ShardIndex
from s2v.datapipe.interop.ledger import Ledger
from s2v.datapipe.interop.phantom_data import CLIPS_FILE, PAIRS_FILE, PhantomData
from s2v.datapipe.interop.phantom_export import export
from s2v.datapipe.interop.settings import ImportSettings
from s2v.datapipe.interop.videos import Videos
from s2v.datapipe.interop.writing import ShardWriter
from s2v.datapipe.pair.select import select


def test_a_run_is_exported_in_columns_that_are_read_back_whole(
    tmp_path: Path, film_run: WritableRun
) -> None:
    tables = dict(film_run.world.tables())
    selection = select(tables, SETTINGS)
    tables |= {"samples": selection.samples, "subjects": selection.subjects}
    rows = {name: table.to_pylist() for name, table in tables.items()}
    done = export(rows, tmp_path)
    assert pq.read_schema(tmp_path / PAIRS_FILE).names == [
        "video_id",
        "video_caption",
        "cross_pair",
    ]
    assert {"vid", "youtube_url", "timestamp"} <= set(pq.read_schema(tmp_path / CLIPS_FILE).names)
    dataset = PhantomData(tmp_path / PAIRS_FILE, tmp_path / CLIPS_FILE, ImportSettings())
    ledger = Ledger()
    read = [s for s in dataset.samples(ledger) if s.pair_type == "cross"]
    assert ledger.left_out() == {}
    cross = [row for row in rows["samples"] if row["pair_type"] == "cross"]
    alone = done["left_out"].get("samples without a reference from a video", 0)
    assert len(read) == done["rows"] == len(cross) - alone > 3
    clips = {row["clip_id"]: row for row in rows["clips"]}
    detections = {row["detection_id"]: row for row in rows["detections"]}
    wanted = {}
    for sample in cross:
        clip = clips[sample["clip_id"]]
        shown = [detections[ref["detection_id"]] for ref in sample["references"]]
        shown = [d for d in shown if clips[d["clip_id"]]["kind"] == "video"]
        wanted[clip["video_id"], clip["start_us"]] = sorted(
            (d["pts_us"], [round(v, 2) for v in d["box"]]) for d in shown
        )
    for sample in read:
        found = []
        for one in (c for s in sample.subjects for c in s.candidates):
            begin, end = one.clip.seconds or (0.0, 0.0)
            clip = next(
                c for c in rows["clips"]
                if c["video_id"] == one.clip.long_name and abs(c["start_us"] / 1e6 - begin) < 1e-3
            )  # fmt: skip
            number = int(clip["frames"] * (one.moment.share or 0.0))
            at = clip["start_us"] + number * (end - begin) * 1e6 / clip["frames"]
            found.append((at, list(one.box)))
        begin = (sample.clip.seconds or (0.0, 0.0))[0]
        expected = wanted[sample.clip.long_name, round(begin * 1e6)]
        for (at, box), (pts, real) in zip(sorted(found), expected, strict=True):
            assert abs(at - pts) <= 1e6 / 8
            assert box == pytest.approx(real)


def one_pair(crop: list[float] | None) -> dict[str, list[dict[str, Any]]]:
    """Tables of a run with two clips of one film; boxes are counted from the crop's corner."""
    left, top = (crop or [0, 0])[:2]
    box = [40.0 - left, 20.0 - top, 100.0 - left, 80.0 - top]
    spans = {"one": (0, 1_000_000), "two": (1_000_000, 2_000_000)}
    moments = {"one": 250_000, "two": 1_500_000}
    return {
        "sources": [{"video_id": "my_film", "url": "https://host.example/v", "licence": "CC0"}],
        "probe": [{"video_id": "my_film", "width": 160, "height": 120}],
        "captions": [{"clip_id": "one", "caption": "A woman walks."}],
        "clips": [
            {"clip_id": name, "video_id": "my_film", "kind": "video", "start_us": start,
             "end_us": end, "frames": 12, "fps": 12.0, "crop": crop}
            for name, (start, end) in spans.items()
        ],
        "subjects": [
            {"subject_id": f"{name}-s0", "phrase": "A woman", "noun": "woman",
             "detection_id": f"{name}-d"}
            for name in spans
        ],
        "detections": [
            {"detection_id": f"{name}-d", "clip_id": name, "pts_us": moments[name], "box": box}
            for name in spans
        ],
        "samples": [
            {"sample_id": "s", "pair_type": "cross", "clip_id": "one", "caption": "A woman walks.",
             "references": [{"subject_id": "one-s0", "detection_id": "two-d", "similarity": 0.8}]},
            {"sample_id": "i", "pair_type": "in", "clip_id": "one", "references": []},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("crop", [None, [20.0, 10.0, 140.0, 110.0]])
def test_an_export_imported_again_shows_the_same_frame_and_box(
    tmp_path: Path, crop: list[float] | None
) -> None:
    done = export(one_pair(crop), tmp_path)
    assert (done["rows"], done["references"]) == (1, 1)
    assert done["left_out"] == {"samples of type in": 1}
    clips = pq.read_table(tmp_path / CLIPS_FILE).to_pylist()
    assert [row["timestamp"] for row in clips] == [
        "['0:00:00.000', '0:00:01.000']",
        "['0:00:01.000', '0:00:02.000']",
    ]
    film(tmp_path / "videos" / "my_film.mp4", box=(40, 20, 100, 80))
    settings, ledger = ImportSettings(), Ledger()
    dataset = PhantomData(tmp_path / PAIRS_FILE, tmp_path / CLIPS_FILE, settings)
    writer = ShardWriter(tmp_path, Videos(tmp_path / "videos"), settings, ledger, quiet=True)
    writer.write(dataset.samples(ledger))
    samples = {s.row["pair_type"]: s for s in ShardIndex.open(tmp_path / "shards")}
    for pair_type, frame in (("cross", 18), ("in", 3)):
        sample = samples[pair_type]
        picture = np.asarray(Image.open(io.BytesIO(sample.read("ref0.jpg"))))
        assert frame_number(picture) == frame
        ref = sample.meta().refs[0]
        x0, y0, x1, y1 = (round(v) for v in ref.box)
        assert (x1 - x0, y1 - y0) == (60, 60)
        inside = picture[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].astype(int)
        assert np.abs(inside - (220, 30, 30)).max() < 40
    meta = samples["cross"].meta()
    assert (meta.source.start_us, meta.source.end_us, meta.video.frames) == (0, 1_000_000, 12)
    assert meta.source.url == "https://host.example/v"
