"""A whole run folder of the planted film world, with real clips: what a report is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from synthetic_tables import World, film_world
from synthetic_vectors import rng

from s2v.datapipe.base.media.images import encode_jpeg
from s2v.datapipe.base.media.stills import animate_still
from s2v.datapipe.pair.select import Selection, select
from s2v.datapipe.pair.settings import (
    DetectionRules,
    PairRules,
    RetrievalSettings,
    SelectSettings,
    ShardCounts,
    SplitSettings,
)
from s2v.datapipe.write.settings import WriteSettings
from s2v.datapipe.write.write import write_shards

HOSTILE = "<script>document.title='taken'</script>"
CREDIT = "the makers of film"
SETTINGS = SelectSettings(
    detection=DetectionRules(min_side=64),  # the pictures are small
    pair=PairRules(),
    retrieval=RetrievalSettings(floor_margin=None),  # planted strangers are far apart; list them
    split=SplitSettings(heldout_share=0.3),
    shards=ShardCounts(in_=2, cross=1, image=1),
)


def hostile_world() -> World:
    """The film world with one caption that tries to be markup, and a source that is broken."""
    world = film_world()
    first = next(row for row in world.rows["phrases"] if row["clip_id"].startswith("film"))
    clip = first["clip_id"]
    world._phrases[clip] = [f"{HOSTILE} {phrase}" for phrase in world._phrases[clip]]
    for row in world.rows["phrases"]:
        if row["clip_id"] == clip:
            row["phrase"] = f"{HOSTILE} {row['phrase']}"
    world.rows["sources"].append(
        {**world.rows["sources"][0], "video_id": "broken", "long_video_id": "broken"}
    )
    # It was probed: what is cut short is only found out by decoding.
    world.rows["probe"].append({**world.rows["probe"][0], "video_id": "broken"})
    world.rows["quarantine"].append(
        {
            "id": "broken",
            "stage": "shots",
            "unit": "broken",
            "error": "truncated",
            "message": "broken.mp4: <b>240</b> frames are declared, 120 are there",
            "retry": "fetch it again, then --retry-quarantine",
        }
    )
    return world


def build_run(folder: Path, world: World | None = None, *, shards: bool = True) -> Path:
    """Write run.json, tables, frames, commits and, if asked, shards of a world."""
    world = world or hostile_world()
    world.store_frames(folder)
    tables = world.tables()
    selection = select(tables, SETTINGS)
    write_tables(folder, tables, selection)
    write_about(folder)
    if shards:
        films = {
            long: _film(folder / "films" / f"{long}.mp4", long)
            for long in sorted({row["video_id"] for row in world.rows["clips"]})
        }
        files = {row["clip_id"]: films[row["video_id"]] for row in world.rows["clips"]}
        write_shards(folder, tables, selection, WriteSettings(), files, folder / "shards")
    return folder


def write_tables(folder: Path, tables: dict[str, Any], selection: Selection) -> None:
    views = {
        **tables,
        "subjects": selection.subjects,
        "pairs": selection.pairs,
        "samples": selection.samples,
        "clip_reasons": selection.clips,
    }
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, table in views.items():
        pq.write_table(table, folder / "tables" / f"{name}.parquet")


def write_about(folder: Path) -> None:
    commit = folder / "measure" / "probe-abc" / "film-1.000.json"
    commit.parent.mkdir(parents=True, exist_ok=True)
    for n, seconds in enumerate((1.25, 2.5)):
        commit.with_name(f"film-1.{n:03d}.json").write_text(json.dumps({"cpu_seconds": seconds}))
    about = {
        "settings": {
            "folder": "runs/test",
            "roles": {"profile": "embedded"},
            "select": SETTINGS.model_dump(mode="json"),
            "write": {"title": "A film's subjects & others"},
        },
        "packages": {"s2v-datapipe": "0.1.0"},
        "models": {"captioner": "test-captioner"},
        "fingerprints": {"probe": "abc", "shots": "def"},
        "git_commit": "0123456789abcdef",
    }
    (folder / "run.json").write_text(json.dumps(about))


def _film(path: Path, name: str) -> Path:
    """A second of real, small H.264; one per source, as encoding takes most of a test's time."""
    picture = rng("film", name).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    animate_still(encode_jpeg(picture), path, seconds=1, fps=8, short_side=48)
    return path
