"""A film whose every clip has a code of its own burnt in, and what was captioned of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import vlm_double
from engine_stages import item
from vlm_double import draw_code

from s2v.datapipe.backends.vlm.captioner import VlmCaptioner, captioner
from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.engine.runner import UnitRunner
from s2v.datapipe.engine.stage import Row, StageRun
from s2v.datapipe.engine.store import StageStore
from s2v.datapipe.measure.caption import CaptionStage
from s2v.datapipe.measure.frames import FrameStage
from s2v.datapipe.measure.gates import GateSettings
from s2v.datapipe.measure.sampling import FrameSettings

UNITS, CLIPS, FRAMES, FPS = 4, 12, 4, 8
WIDTH, HEIGHT = 128, 96
#: Spread over all 16 bits, and none the neighbour of another.
CODES = {f"clip{n:02d}": (n * 40503 + 12345) % 65536 for n in range(UNITS * CLIPS)}


def make_film(path: Path) -> Path:
    """One H.264 film; every half second shows another code over another grey."""
    frames = b"".join(
        draw_code(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), code).tobytes() * FRAMES
        for _, code in sorted(CODES.items())
    )
    shape = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS)]
    coded = ["-c:v", "libx264", "-threads", "1", "-pix_fmt", "yuv420p", "-crf", "23"]
    command = [ffmpeg.executable(), "-loglevel", "error", *shape, "-i", "-", *coded, str(path)]
    done = subprocess.run(command, input=frames, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return path


def units(film: Path) -> list[dict[str, Any]]:
    """The clips as units; neighbours in the film lie in different ones."""
    length = FRAMES * 1_000_000 // FPS
    rows: list[Row] = [
        {
            "clip_id": clip,
            "video_id": "v",
            "kind": "video",
            "motion": 0.1,
            "start_us": n * length,
            "end_us": (n + 1) * length,
        }
        for n, clip in enumerate(sorted(CODES))
    ]
    made = []
    for n in range(UNITS):
        one = item(f"u{n}", rows[n::UNITS])
        one["tables"]["sources"] = [{"video_id": "v", "path": str(film)}]
        made.append(one)
    return made


def stages(model: Any, kind: type[CaptionStage] = CaptionStage) -> list[StageRun]:
    """From the film to captions."""
    gates = GateSettings()
    return [StageRun(FrameStage(FrameSettings()), "f"), StageRun(kind(model, gates), "f")]


def captioned(run: Path, film: Path, runs: list[StageRun]) -> dict[str, str]:
    """All units through the real runner; captions by clip."""
    runner = UnitRunner(str(run), runs)
    for unit in units(film):
        runner.measure(unit)
    return captions(run)


def captions(run: Path) -> dict[str, str]:
    """What was committed, by clip."""
    store = StageStore(run, "caption", "f")
    found = [row for n in range(UNITS) for row in store.rows(f"u{n}")["captions"]]
    assert len({row["clip_id"] for row in found}) == len(found)
    return {row["clip_id"]: row["caption"] for row in found}


def strayed(found: dict[str, str]) -> list[str]:
    """Clips whose caption speaks of another code than their own, or that have none."""
    return [
        clip
        for clip, code in CODES.items()
        if re.findall(r"\d+", found.get(clip, "")) != [str(code)]
    ]


def served(url: str, **other: Any) -> VlmCaptioner:
    """The product's captioner, asking ``url``."""
    given = {"concurrency": 16, "first_wait_s": 0.01, "timeout_s": 10, "tries": 12}
    named = {"urls": [url], "model": vlm_double.MODEL}
    return captioner({**given, **named, **other}, "roles.captioner", {})
