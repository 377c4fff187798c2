"""Real damaged and odd media, made by the product's own ffmpeg when a test asks for them.

Everything derives from one two-second film of 160x120 pixels at 24 frames a second, GOP of 12
frames, B-frames, with sound. Each member is built once per test session.
"""

from __future__ import annotations

import functools
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from s2v.datapipe.base.media import ffmpeg

WIDTH, HEIGHT, FPS, SECONDS = 160, 120, 24, 2
FRAMES = FPS * SECONDS
FRAME_US = 1_000_000 / FPS

_X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "2", "-threads", "1"]
Maker = Callable[["Corpus", Path], None]
_MAKERS: dict[str, Maker] = {}


def _makes(name: str) -> Callable[[Maker], Maker]:
    def register(maker: Maker) -> Maker:
        _MAKERS[name] = maker
        return maker

    return register


class Corpus:
    """A folder of test media, each made on first use: ``corpus["half.mp4"]``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            _MAKERS[name](self, path)
        return path

    def ffmpeg(self, *arguments: str | Path) -> None:
        """Run the pinned ffmpeg; a failure shows what it said."""
        command = [ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y", *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()


@functools.cache
def _recoded(*arguments: str) -> Maker:
    def make(corpus: Corpus, path: Path) -> None:
        corpus.ffmpeg("-i", corpus["whole.mp4"], *arguments, path)

    return make


def _from_whole(name: str, *arguments: str) -> None:
    _MAKERS[name] = _recoded(*arguments)


@_makes("whole.mp4")
def _whole(corpus: Corpus, path: Path) -> None:
    source = f"testsrc2=s={WIDTH}x{HEIGHT}:r={FPS}:d={SECONDS}"
    sound = ["-f", "lavfi", "-i", f"sine=d={SECONDS}", "-c:a", "aac"]
    corpus.ffmpeg(
        "-f", "lavfi", "-i", source, *sound, *_X264, "-pix_fmt", "yuv420p",
        "-movflags", "+faststart", path,
    )  # fmt: skip


# What people really upload.
_from_whole("ten.mp4", *_X264, "-pix_fmt", "yuv420p10le", "-an")
_from_whole("odd.mp4", *_X264, "-vf", "scale=161:121,setsar=1,format=yuv444p", "-an")
_from_whole("wide.mp4", *_X264, "-vf", "setsar=4/3", "-an")
_from_whole("full.mp4", *_X264, "-pix_fmt", "yuvj420p", "-an")
_from_whole("web.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", "-g", "12", "-threads", "1", "-an")
_from_whole(
    "phone.mp4", "-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1",
    "-x265-params", "pools=none:frame-threads=1:keyint=12:bframes=2:log-level=none", "-an",
)  # fmt: skip
_from_whole(
    "closed.mp4", "-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params",
    "pools=none:frame-threads=1:keyint=12:bframes=2:open-gop=0:log-level=none", "-an",
)  # fmt: skip
_from_whole("web8.webm", "-c:v", "libvpx", "-cpu-used", "8", "-g", "12", "-threads", "1", "-an")
_from_whole("film.mkv", "-c:v", "copy", "-an")
_from_whole("old.avi", "-c:v", "mpeg4", "-q:v", "4", "-g", "12", "-an")
_from_whole("tv.ts", "-c:v", "copy", "-c:a", "copy")
_from_whole("disc.mpg", "-c:v", "mpeg2video", "-g", "12", "-f", "mpeg", "-an")
_from_whole("flash.flv", "-c:v", "copy", "-an")
_from_whole(
    "uneven.mp4", "-vf", "select='lt(n,12)+not(mod(n,5))'", "-fps_mode", "vfr", *_X264, "-an"
)
_from_whole("sound.mp4", "-vn", "-c:a", "copy")
_from_whole("sound.wav", "-vn", "-c:a", "pcm_s16le")
_from_whole("moving.gif", "-t", "0.3", "-an")
_from_whole("one.mp4", "-frames:v", "1", *_X264, "-an")
_from_whole("slow_start.mkv", "-c", "copy", "-f", "matroska")


@_makes("open.mkv")
def _open(corpus: Corpus, path: Path) -> None:
    """Four seconds of open GOPs: pictures behind an entry point refer to ones before it."""
    source = f"testsrc2=s={WIDTH}x{HEIGHT}:r={FPS}:d=4"
    options = "open-gop=1:keyint=12:min-keyint=6:bframes=5:b-pyramid=2:ref=6:scenecut=0:b-adapt=0"
    corpus.ffmpeg(
        "-f", "lavfi", "-i", source, *_X264, "-preset", "slow", "-x264-params", options,
        "-pix_fmt", "yuv420p", path,
    )  # fmt: skip


@_makes("late.mkv")
def _late(corpus: Corpus, path: Path) -> None:
    """The picture begins half a second after the sound."""
    whole = corpus["whole.mp4"]
    corpus.ffmpeg(
        "-itsoffset", "0.5", "-i", whole, "-i", whole, "-map", "0:v", "-map", "1:a",
        "-c", "copy", path,
    )  # fmt: skip


def _turned(name: str, *display: str) -> None:
    @_makes(name)
    def make(corpus: Corpus, path: Path) -> None:
        corpus.ffmpeg(*display, "-i", corpus["whole.mp4"], "-c", "copy", "-an", path)


_turned("turned90.mp4", "-display_rotation", "90")
_turned("turned180.mp4", "-display_rotation", "180")
_turned("turned270.mp4", "-display_rotation", "270")
_turned("mirrored.mp4", "-display_rotation", "0", "-display_hflip")
_turned("mirrored90.mp4", "-display_rotation", "90", "-display_hflip")


@_makes("edit.mp4")
def _edit(corpus: Corpus, path: Path) -> None:
    """Trimmed without re-encoding: an edit list hides the first frames, as phones do."""
    corpus.ffmpeg("-ss", "0.7", "-i", corpus["whole.mp4"], "-c", "copy", "-an", path)


# What arrives broken.
@_makes("junk.mp4")
def _junk(_: Corpus, path: Path) -> None:
    path.write_text("the server answered with this sentence\n" * 50)


@_makes("empty.mp4")
def _empty(_: Corpus, path: Path) -> None:
    path.touch()


@_makes("picture.mp4")
def _picture(_: Corpus, path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, "JPEG")


@_makes("playlist.mp4")
def _playlist(corpus: Corpus, path: Path) -> None:
    path.write_text(f"#EXTM3U\n#EXTINF:2,\n{corpus['tv.ts']}\n#EXT-X-ENDLIST\n")


@_makes("script.mp4")
def _script(corpus: Corpus, path: Path) -> None:
    path.write_text(f"ffconcat version 1.0\nfile {corpus['whole.mp4']}\n")


@_makes("cover.m4a.mp4")
def _cover(corpus: Corpus, path: Path) -> None:
    corpus.ffmpeg(
        "-i", corpus["sound.mp4"], "-i", corpus["picture.mp4"], "-map", "0:a", "-map", "1:v",
        "-c", "copy", "-disposition:v:0", "attached_pic", path,
    )  # fmt: skip


@_makes("half.mp4")
def _half(corpus: Corpus, path: Path) -> None:
    """The usual interrupted download: the header says two seconds, half the bytes are there."""
    whole = corpus["whole.mp4"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@_makes("half.webm")
def _half_webm(corpus: Corpus, path: Path) -> None:
    whole = corpus["web.webm"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@_makes("headless.mp4")
def _headless(corpus: Corpus, path: Path) -> None:
    """Cut off before the index at the end was written."""
    corpus.ffmpeg("-i", corpus["whole.mp4"], "-c", "copy", "-movflags", "0", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])


@_makes("flipped.mp4")
def _flipped(corpus: Corpus, path: Path) -> None:
    """Bits turned over all through the picture data."""
    data = bytearray(corpus["whole.mp4"].read_bytes())
    first = data.find(b"mdat") + 3000
    dice = random.Random(7)
    for _ in range(60):
        data[dice.randrange(first, len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


@_makes("speck.mp4")
def _speck(corpus: Corpus, path: Path) -> None:
    """One packet of the third GOP (frame 30 of 24 to 35) is noise."""
    whole = corpus["whole.mp4"]
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(container.streams.video[0]) if p.pts is not None]
    wanted = round(30 / FPS / packets[0].time_base)
    packet = min(packets, key=lambda p: abs(p.pts - wanted))
    data = bytearray(whole.read_bytes())
    start, end = packet.pos + 8, packet.pos + packet.size  # behind the length and the header
    data[start:end] = random.Random(3).randbytes(end - start)
    path.write_bytes(data)


@_makes("hole.mkv")
def _hole(corpus: Corpus, path: Path) -> None:
    """The second of four GOPs was lost on the way; every packet that is left is whole."""
    with av.open(str(corpus["whole.mp4"])) as source, av.open(str(path), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        gop = -1
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            gop += packet.is_keyframe
            if gop != 1:
                packet.stream = stream
                sink.mux(packet)


@_makes("lying.mkv")
def _lying(corpus: Corpus, path: Path) -> None:
    """A whole film whose header promises five times its length."""
    data = corpus["film.mkv"].read_bytes()
    at = data.find(b"\x44\x89\x88")  # Segment/Info/Duration, a float of 8 bytes
    assert at > 0
    (duration,) = struct.unpack(">d", data[at + 3 : at + 11])
    data = data[: at + 3] + struct.pack(">d", duration * 5) + data[at + 11 :]
    assert data.count(b"00:00:02.") == 1  # the stream's own statistics tag
    path.write_bytes(data.replace(b"00:00:02.", b"00:00:10."))
