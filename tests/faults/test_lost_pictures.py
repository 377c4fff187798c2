"""A minute of real film that lost half a second on the way: nothing in the file tells of it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import pytest

sys.path.append(str(Path(__file__).parents[1] / "datapipe"))  # test helpers are no package

from shots_measure import measure

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.ffmpeg import executable
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.measure.shots import ShotSettings

pytestmark = pytest.mark.assets

SECONDS, GOP = 60, 12
STARTS_AT = 60  # seconds into the film


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("minute") / "whole.mp4"
    subprocess.run(
        [
            executable(), "-nostdin", "-loglevel", "error", "-y", "-ss", str(STARTS_AT),
            "-t", str(SECONDS), "-i", str(asset("bbb-film")), "-vf", "scale=320:180", "-an",
            "-c:v", "libx264", "-preset", "veryfast", "-g", str(GOP), "-bf", "2", "-threads", "1",
            str(path),
        ],
        check=True, timeout=120,
    )  # fmt: skip
    return path


def without_group(source: Path, target: Path, at_s: float) -> tuple[int, int]:
    """Copy the packets, less one whole group of pictures; microseconds that it was shown."""
    with av.open(str(source)) as whole:
        packets = [p for p in whole.demux(whole.streams.video[0]) if p.pts is not None]
        keys = [n for n, packet in enumerate(packets) if packet.is_keyframe]
        group = next(
            (a, b)
            for a, b in pairwise(keys)
            if b - a == GOP and packets[a].pts * packets[a].time_base >= at_s
        )
        lost = packets[slice(*group)]
        with av.open(str(target), "w") as sink:
            stream = sink.add_stream_from_template(whole.streams.video[0])
            for n, packet in enumerate(packets):
                if not group[0] <= n < group[1]:
                    packet.stream = stream
                    sink.mux(packet)
    times = [round((p.pts - packets[0].pts) * p.time_base * 1_000_000) for p in lost]
    return min(times), max(times) + round(1e6 / 24)


@pytest.mark.parametrize(
    ("suffix", "at_s"), [("mkv", 20.0), ("mkv", 33.0), ("mp4", 47.0), ("ts", 8.0)]
)
def test_a_clip_lies_over_pictures_that_are_not_there(
    minute: Path, tmp_path: Path, suffix: str, at_s: float
) -> None:
    path = tmp_path / f"lost.{suffix}"
    start, end = without_group(minute, path, at_s)
    whole, _ = measure(minute, ShotSettings())
    assert over(whole, start, end), "where a clip of the whole film lies"
    clips, spans = measure(path, ShotSettings())
    assert not over(clips, start, end)
    assert "missing frames" in {span["reason"] for span in over(spans, start, end)}
    lost = seconds(whole) - seconds(clips)
    assert 0.5 < lost < 10.5, "one clip, and not the film"


def over(rows: list[Row], start: int, end: int) -> list[Row]:
    return [r for r in rows if r["start_us"] < end - 2000 and r["end_us"] > start + 2000]


def seconds(rows: list[Row]) -> float:
    return sum(r["end_us"] - r["start_us"] for r in rows) / 1e6


def test_a_whole_film_is_called_damaged(minute: Path) -> None:
    _, spans = measure(minute, ShotSettings())
    assert not {"missing frames", "damaged frames"} & {s["reason"] for s in spans}
