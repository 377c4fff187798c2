"""What the comparison works on: films whose cuts are known, and a stretch of a real one.

*Joins* are made of pieces of real media that have no cut inside: two clips that are one shot
each, and photographs under a slow pan. So their cuts are known by construction. The *film* is
two minutes of Big Buck Bunny, where PySceneDetect's content, adaptive and histogram detectors and
TransNetV2 find the same 27 cuts; ``film_cuts.csv`` has them in frames of the whole film.
"""

from __future__ import annotations

import csv
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.ffmpeg import executable
from s2v.datapipe.base.media.probe import probe

FPS = 24
WIDTH, HEIGHT = 1280, 720
FILM_FIRST, FILM_LAST = 1408, 4320  # frames of the whole film; the first is a key frame
JOINS = 30
ONE_SHOT = {"bbb-shot": 5.2, "man-clip": 2.3}  # seconds
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "group-photo", "motorcycle", "quokka", "rocket")
_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-threads", "1", "-pix_fmt", "yuv420p", "-an")


@dataclass(frozen=True)
class Film:
    """A file and the numbers of its frames that begin a new shot.

    Attributes:
        path: 1280x720, 24 frames a second, H.264.
        frames: number of frames.
        cuts: sorted, first frame is 0 and not among them.
        truth: how the cuts are known, for the page.
    """

    path: Path
    frames: int
    cuts: tuple[int, ...]
    truth: str

    @property
    def minutes(self) -> float:
        """Running time."""
        return self.frames / FPS / 60


def joins(folder: Path, pieces: int = JOINS) -> Film:
    """Pieces of real media joined with hard cuts, twenty to eighty frames each."""
    dice = random.Random(20)
    path = folder / f"joins-{pieces}.mp4"
    names: list[str] = []
    lengths = [dice.randrange(20, 81) for _ in range(pieces)]
    inputs: list[str] = []
    graph = ""
    for n, frames in enumerate(lengths):
        name = dice.choice([x for x in (*ONE_SHOT, *PHOTOGRAPHS) if x not in names[-2:]])
        names.append(name)
        if name in ONE_SHOT:
            longest = ONE_SHOT[name] - frames / FPS
            start = dice.uniform(0, max(longest, 0))
            frames = lengths[n] = min(frames, int((ONE_SHOT[name] - start) * FPS))  # noqa: PLW2901
            inputs += ["-ss", f"{start:.3f}", "-i", str(asset(name))]
            take = f"fps={FPS},"
        else:
            inputs += ["-loop", "1", "-framerate", str(FPS), "-i", str(asset(name))]
            take = "scale=1440:810:force_original_aspect_ratio=increase,"
            take += f"crop={WIDTH}:{HEIGHT}:x='(iw-ow)*n/100':y='(ih-oh)*n/100',"
        graph += (
            f"[{n}:v]{take}scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase,"
            f"crop={WIDTH}:{HEIGHT},setsar=1,format=yuv420p,trim=end_frame={frames},"
            f"setpts=N/{FPS}/TB[v{n}];"
        )
    graph += "".join(f"[v{n}]" for n in range(pieces)) + f"concat=n={pieces},setpts=N/{FPS}/TB[v]"
    if not path.exists():
        _ffmpeg(
            *inputs,
            "-filter_complex",
            graph,
            "-map",
            "[v]",
            "-r",
            str(FPS),
            *_X264,
            "-crf",
            "20",
            path,
        )
    edges = [sum(lengths[:n]) for n in range(1, pieces + 1)]
    return Film(path, edges[-1], tuple(edges[:-1]), "joined by us, so known")


def film(folder: Path) -> Film:
    """Two minutes of Big Buck Bunny, its packets copied from a key frame on."""
    path = folder / "film.mp4"
    if not path.exists():
        start, length = FILM_FIRST / FPS + 0.001, (FILM_LAST - FILM_FIRST) / FPS
        _ffmpeg("-ss", f"{start:.3f}", "-i", asset("bbb-film"), "-t", f"{length:.3f}",
                "-c", "copy", "-an", path)  # fmt: skip
    with Path(__file__).with_name("film_cuts.csv").open(newline="") as handle:
        cuts = [int(row["frame"]) - FILM_FIRST for row in csv.DictReader(handle)]
    frames = probe(path).declared_frames
    if frames is None:
        raise ValueError(f"{path}: does not say how many frames it has; delete it")
    return Film(path, frames, tuple(cuts), "four detectors agree on every cut")


def _ffmpeg(*arguments: str | Path) -> None:
    command = [executable(), "-nostdin", "-loglevel", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=600)
