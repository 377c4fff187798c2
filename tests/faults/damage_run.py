"""Our own pipeline over the damage corpus, through its real command line."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from damage_verdict import Clip, Outcome

from s2v.datapipe.base.media.cut import cut_clip
from s2v.datapipe.base.media.errors import MediaError

CONFIG = """\
folder = "{run}"
[[sources]]
folder = "{inputs}"
licence = "test"
[engine]
cpus = 2
actors = 1
quarantine_budget = 1.0   # more than half of this corpus is to be refused
[shots]
min_seconds = 1.0         # the corpus's shots are 1.8 s long
"""
NO_MODELS = """\
[roles]
text_regions.backend = "none"
safety.backend = "none"
[gates]
min_luma_std = 1.0        # every clip is measured by the scan and stopped before the models
"""
SELECT_ALL = """\
[select.clip]
min_seconds = 1.0
drop_duplicates = false   # all members show the same film; each is judged for itself
"""


def run_ours(inputs: Path, folder: Path, *, models: bool) -> dict[str, Outcome]:
    """Curate the corpus; what became of each input, by file name.

    Args:
        inputs: folder with the corpus.
        folder: scratch; the run is made in it.
        models: False stops every clip before the models, which is a gate's work.
    """
    run = folder / "run"
    config = folder / "corpus.toml"
    more = SELECT_ALL if models else NO_MODELS
    config.write_text(CONFIG.format(run=run, inputs=inputs) + more)
    program = Path(sys.executable).with_name("s2v-data")
    command = [str(program), "run", "--config", str(config), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode != 0:
        raise RuntimeError(f"s2v-data run: exit {done.returncode}: {done.stderr[-2000:]}")
    return {
        name: _outcome(rows, folder / "cut" / name) for name, rows in sorted(_by_input(run).items())
    }


def shard_clips(run: Path, into: Path) -> list[Clip]:
    """Every clip in the shards, unpacked, with the frames that its JSON declares."""
    clips = []
    for shard in sorted((run / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = {m.name: m for m in tar.getmembers()}
            for name in sorted(m for m in members if m.endswith(".mp4")):
                facts = json.loads(_read(tar, members[name.removesuffix(".mp4") + ".json"]))
                path = into / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_read(tar, members[name]))
                clips.append(Clip(path, facts["video"]["frames"]))
    return clips


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{tar.name!r}: {member.name} is no file")
    return file.read()


def table(run: Path, name: str) -> list[dict[str, Any]]:
    """Rows of one table of a run."""
    rows: list[dict[str, Any]] = pq.read_table(
        run / "tables" / f"{name}.parquet", partitioning=None
    ).to_pylist()
    return rows


def _by_input(run: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Rows of the tables that tell what became of an input, by its file name."""
    inputs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    names = {}
    for source in table(run, "sources"):
        names[source["video_id"]] = name = Path(source["path"]).name
        inputs[name] = defaultdict(list, source=[source])
    for kind in ("spans", "clips"):
        for row in table(run, kind):
            inputs[names[row["video_id"]]][kind].append(row)
    for row in table(run, "quarantine"):
        video = row["id"] if row["id"] in names else row["id"].rsplit("-", 2)[0]
        inputs[names[video]]["quarantine"].append(row)
    return inputs


def _outcome(rows: dict[str, list[dict[str, Any]]], folder: Path) -> Outcome:
    """An input's rows, and its clips cut by the product's own function."""
    source = rows["source"][0]
    if source["duplicate_of"]:
        return Outcome(refusal=f"a copy of {source['duplicate_of']}", kind="duplicate")
    refused = [row for row in rows["quarantine"] if row["id"] == source["video_id"]]
    clips, dropped, dropped_us = [], set(), 0
    for row in rows["spans"]:
        if row["reason"] is not None:
            dropped.add(row["reason"])
            dropped_us += row["end_us"] - row["start_us"]
    for row in rows["clips"]:
        target = folder / f"{row['clip_id']}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            span = (row["start_us"], row["end_us"])
            cut = cut_clip(source["path"], *span, target, preset="veryfast")
        except MediaError as error:
            dropped.add(f"cut: {error.kind}, in quarantine")
            dropped_us += row["end_us"] - row["start_us"]
        else:
            clips.append(Clip(target, cut.frames))
    if refused:
        return Outcome(clips, refused[0]["message"], refused[0]["error"])
    return Outcome(clips, dropped_s=dropped_us / 1e6, dropped=frozenset(dropped))
