"""The demo's input: real media from the asset cache, and what is honestly made of it.

Writes ``manifest.jsonl`` beside the made files. Real: a film, its trailer, one of its shots,
street clips, a man's indoor clips and his outdoor photograph, portraits, a group photograph,
objects and animals. Made, and named so: *animated stills* (a pan or zoom over a photograph),
a copy cut off half-way, and a text file that calls itself a film. The last two must end in
quarantine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s2v.datapipe.base import atomic
from s2v.datapipe.base.assets import asset, lookup
from s2v.datapipe.base.media.cut import Motion, animate_still, cut_clip
from s2v.datapipe.base.progress import track

FILM = {
    "long_video_id": "big_buck_bunny",
    "licence": "CC BY 3.0",
    "consent": "not applicable",
    "credit": "Big Buck Bunny, (c) 2008 Blender Foundation, peach.blender.org",
    "origin": "animation",
}
#: video_id -> (asset, facts). The man's three clips are cut from one recording.
CLIPS: dict[str, tuple[str, dict[str, str]]] = {
    "bbb-film": ("bbb-film", FILM),
    "bbb-trailer": ("bbb-trailer", FILM),
    "bbb-shot": ("bbb-shot", FILM),
    "street": ("bikes", {}),
    "man-clip": ("man-clip", {"long_video_id": "man-indoors"}),
    "man-leaves": ("man-leaves", {"long_video_id": "man-indoors"}),
    "man-enters": ("man-enters", {"long_video_id": "man-indoors"}),
}
PORTRAITS = ("obama-1", "obama-2", "obama-3", "biden")
PHOTOS = ("man-photo", *PORTRAITS, "group-photo", "astronaut", "cat", "coffee", "rocket",
          "motorcycle", "quokka")  # fmt: skip
NOBODY = {"cat", "coffee", "rocket", "motorcycle", "quokka"}
STILL_SECONDS = 4.0
MOVES: dict[str, Motion] = {
    "obama-1": "zoom_in",
    "obama-2": "pan_right",
    "obama-3": "zoom_out",
    "biden": "zoom_in",
}


def make_inputs(folder: Path, *, quiet: bool = False) -> Path:
    """Make what has to be made and write the manifest; finished files are kept.

    Returns:
        the manifest's path.

    Raises:
        AssetMissing: with the command that fetches the media.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for video, (name, facts) in CLIPS.items():
        rows.append({"video_id": video, "path": _path(name), **_facts(name), **facts})
    for name in PHOTOS:
        people = {"consent": "not applicable"} if name in NOBODY else {}
        row = {"video_id": name, "path": _path(name), "kind": "image", **_facts(name)}
        rows.append({**row, "origin": "photograph", **people})
    with track("animated stills", len(PORTRAITS), quiet=quiet) as step:
        for name in PORTRAITS:
            made = folder / f"{name}-animated.mp4"
            if not made.exists():
                animate_still(asset(name), made, seconds=STILL_SECONDS, kind=MOVES[name])
            row = {"video_id": f"{name}-animated", "path": made.name, **_facts(name)}
            rows.append({**row, "origin": "animated still"})
            step()
    rows += _damaged(folder)
    manifest = folder / "manifest.jsonl"
    lines = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    atomic.write_bytes(manifest, ("\n".join(lines) + "\n").encode())
    return manifest


def _damaged(folder: Path) -> list[dict[str, Any]]:
    """A download that broke off half-way, and a text file with a film's name.

    The street clip is written anew with its index first, as for the web: half of it opens,
    still declares all its frames, and has only half of them.
    """
    half = folder / "half-a-street.mp4"
    if not half.exists():
        whole = folder / "whole-street.tmp.mp4"
        cut_clip(asset("bikes"), 0, 10_000_000, whole, preset="veryfast")
        data = whole.read_bytes()
        whole.unlink()
        atomic.write_bytes(half, data[: len(data) // 2])
    text = folder / "notes.mp4"
    if not text.exists():
        atomic.write_bytes(text, b"This is a text file that calls itself a film.\n" * 40)
    return [
        {"video_id": "half-a-street", "path": half.name, "origin": "made", **_facts("bikes")},
        {"video_id": "notes", "path": text.name, "origin": "made"},
    ]


def _path(name: str) -> str:
    return str(asset(name).resolve())


def _facts(name: str) -> dict[str, Any]:
    entry = lookup(name)
    return {"licence": entry.licence, "credit": entry.source}
