"""Films as they come: frame i is frame i whatever the container, and each is counted once."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from s2v.evals import media
from s2v.evals.encoders.production import Encoders
from s2v.evals.inspection import inspect
from s2v.evals.manifest import load_manifest
from s2v.evals.metrics import build
from s2v.evals.run import score

N = 24


def grey(n: int) -> int:
    """The level of frame n, far enough from its neighbours' to be told apart."""
    return 20 + 9 * n


def film(
    path: Path, *, codec: str = "libx264", pixels: str = "yuv420p",
    size: tuple[int, int] = (96, 64), times: list[int] | None = None, sound: bool = False,
    options: dict[str, str] | None = None, frames: int = N,
) -> Path:  # fmt: skip
    """Frames of one grey each; times in hundredths of a second."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt = pixels
        video.options = {"threads": "1", **(options or {})}
        if times:
            video.codec_context.time_base = Fraction(1, 100)
        audio: Any = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for n in range(frames):
            picture = np.full((size[1], size[0], 3), grey(n), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = times[n] if times else n
            frame.time_base = Fraction(1, 100) if times else Fraction(1, 25)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if audio is not None:
            for n in range(40):
                block = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
                )
                block.sample_rate, block.pts = 16000, 1024 * n
                out.mux(audio.encode(block))
            out.mux(audio.encode())
    return path


UNEVEN = [n * 4 + (n % 3) for n in range(N)]
FILMS: dict[str, dict[str, Any]] = {
    "plain.mp4": {},
    "long-gop-with-b-frames.mp4": {"options": {"g": "250", "bf": "3"}},
    "uneven.mkv": {"times": UNEVEN},
    "transport.ts": {},
    "sound-outlasts.mp4": {"sound": True},
    "odd.mkv": {"pixels": "yuv444p", "size": (95, 61)},
    "ten-bit.mkv": {"pixels": "yuv420p10le"},
    "old.avi": {"codec": "mpeg4", "options": {"q:v": "2"}},
    "web.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
}


@pytest.mark.parametrize("name", FILMS)
def test_frame_i_is_frame_i_in_every_container(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, **FILMS[name])
    times = media.frame_times(path)
    assert len(times) == N
    assert list(times) == sorted(set(times))
    for wanted in ([0, 7, 8, N - 1], [N - 1], list(range(N))):
        found = media.read_frames(path, times, wanted)
        seen = [float(found[i].mean()) for i in wanted]
        assert seen == pytest.approx([grey(i) for i in wanted], abs=4.4)


def test_videos_that_are_none_are_counted_by_what_is_wrong(study: Any, tmp_path: Path) -> None:
    videos = study.root / "videos"
    with av.open(str(videos / "a-1.mp4"), "w") as out:
        audio: Any = out.add_stream("aac", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        block.sample_rate = 16000
        out.mux(audio.encode(block))
        out.mux(audio.encode())
    header = film(videos / "a-2.mp4", options={"movflags": "faststart"}).read_bytes()
    (videos / "a-2.mp4").write_bytes(header[: header.index(b"mdat") + 4])
    film(videos / "c-1.mkv").rename(videos / "c-1.mp4")  # the wrong suffix: content decides
    manifest = load_manifest(study.save())
    usable, found = inspect(manifest, manifest.samples)
    kinds = {p.sample_id: p.kind for p in found}
    assert kinds["a-1"] == "video_no_video"
    assert kinds["a-2"] in ("video_truncated", "video_corrupt", "zero_frames", "video_no_video")
    assert [u.sample.sample_id for u in usable] == ["b-1", "c-1"]


def test_one_frame_and_two_are_measured_or_said_not_to_be_by_every_protocol(
    study: Any, encode_video: Any
) -> None:
    for line, frames in zip(study.lines[:2], (1, 2), strict=True):
        images = [np.full((64, 96, 3), 90 + n, np.uint8) for n in range(frames)]
        encode_video(study.root / "videos" / f"{line['sample_id']}.mp4", images)
    manifest = load_manifest(study.save())
    usable, found = inspect(manifest, manifest.samples[:2])
    assert found == []
    metrics = build("motion,smoothness.light.farneback,flicker.light.static,"
                    "structure.light.flow-return,motion-amplitude@opens2v", Encoders())  # fmt: skip
    for item in usable:
        for metric, said, message in score(manifest, item, metrics):
            assert message == "", metric.spec.protocol
            assert said.status in ("scored", "not_applicable"), metric.spec.protocol
