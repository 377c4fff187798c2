"""Data-Juicer and PySceneDetect as a user would run them over files, and what they left behind."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_environments import Peer

TIMEOUT_S = 900


@dataclass(frozen=True)
class Left:
    """What a tool left for one input.

    Attributes:
        clips: files it says it made, and the seconds it says they last (None: it does not say).
        refusal: its last line of error, where its exit says that this input failed.
        code: exit code of the process that had the input.
        logged: whether its own log, without that, says that this input failed.
    """

    clips: Sequence[tuple[Path, float | None]]
    refusal: str | None
    code: int
    logged: bool


def run(peer: Peer, arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a peer's program in ``folder`` with nothing of our environment."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        list(arguments), cwd=folder, env=peer.environment(), text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


def scenedetect_split(peer: Peer, source: Path, folder: Path) -> Left:
    """``scenedetect -i FILE detect-content list-scenes split-video``: one process per input."""
    done = run(
        peer,
        [
            *(str(peer.home / "bin" / "scenedetect"), "-i", str(source), "-o", str(folder)),
            *("detect-content", "list-scenes", "split-video"),
        ],
        folder,
    )
    lines = _lines(done.stdout)
    clips = [
        (folder / f"{source.stem}-Scene-{number:03d}.mp4", float(row["Length (seconds)"]))
        for number, row in enumerate(scene_list(folder / f"{source.stem}-Scenes.csv"), 1)
    ]
    refusal = None
    if done.returncode != 0:
        refusal = next((x for x in reversed(lines) if "rror" in x), lines[-1] if lines else "")
    logged = refusal is None and any("[PySceneDetect] Error" in line for line in lines)
    return Left(clips, refusal, done.returncode, logged)


def data_juicer(
    peer: Peer, sources: Sequence[Path], folder: Path, operator: str, options: dict[str, Any]
) -> dict[str, Left]:
    """One recipe with one splitting operator over all inputs; by input path.

    What counts as its result is the exported data set: rows name their source and their clips.

    Raises:
        RuntimeError: it did not get as far as an export, which tells nothing of the inputs.
    """
    options = {"save_dir": str(folder / "clips"), **options}
    done = run(peer, data_juicer_command(peer, sources, folder, operator, options), folder)
    lines = _lines(done.stdout)
    made: dict[str, list[tuple[Path, float | None]]] = {}
    export = folder / "out.jsonl"
    if not export.is_file():
        raise RuntimeError(f"Data-Juicer, {operator}: exit {done.returncode}: {lines[-5:]}")
    for line in export.read_text().splitlines():
        found = json.loads(line)
        for clip, origin in zip(found["videos"], found["__dj__source_file__"], strict=False):
            made.setdefault(origin, []).append((Path(clip), None))
    return {
        str(path): Left(
            made.get(str(path), []),
            None,
            done.returncode,
            any(path.name in line and "rror" in line for line in lines),
        )
        for path in sources
    }


def data_juicer_command(
    peer: Peer, sources: Sequence[Path], folder: Path, operator: str, options: dict[str, Any]
) -> list[str]:
    """Write a recipe with one operator, for the default executor, and name the command for it."""
    folder.mkdir(parents=True, exist_ok=True)
    listing, config = folder / "in.jsonl", folder / "recipe.yaml"
    row = {"text": "<__dj__video> <|__dj__eoc|>"}
    listing.write_text(
        "".join(json.dumps({"videos": [str(path)], **row}) + "\n" for path in sources)
    )
    recipe = {
        "project_name": "same-work",
        "dataset_path": str(listing),
        "export_path": str(folder / "out.jsonl"),
        "work_dir": str(folder),
        "executor_type": "default",
        "np": 1,
        "process": [{operator: options}],
    }
    config.write_text(json.dumps(recipe))  # JSON is YAML
    # Its own program, dj-process, imports a module that the wheel keeps under another name.
    return [peer.python, "-m", "tools.process_data", "--config", str(config)]


def scene_cuts(listing: Path) -> list[int]:
    """First frames (from 0) of all scenes but the first, of a list that PySceneDetect wrote."""
    return [int(row["Start Frame"]) - 1 for row in scene_list(listing)[1:]]


def scene_list(listing: Path) -> list[dict[str, str]]:
    """Rows of PySceneDetect's list of scenes; none where there is no list."""
    if not listing.is_file():
        return []
    with listing.open(newline="") as handle:
        rows = list(csv.reader(handle))
    head = next((n for n, row in enumerate(rows) if row[:1] == ["Scene Number"]), len(rows) - 1)
    return [dict(zip(rows[head], row, strict=True)) for row in rows[head + 1 :]]


def _lines(output: str) -> list[str]:
    return [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
