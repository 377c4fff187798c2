"""What arrives from the internet: one real film in twenty-six states, with what is right for each.

The film is five seconds long: three shots of the project's sample media (a man, bicycles, Big
Buck Bunny) joined with hard cuts, with sound. Every member is made from it by the project's own
ffmpeg or by changing bytes, so what each one holds is known and not guessed.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media.ffmpeg import executable

sys.path.append(str(Path(__file__).parents[1] / "datapipe"))  # test helpers are no package

import media_corpus

FPS = 25
SHOT_FRAMES = 45
WIDTH, HEIGHT = 640, 360
SHOTS = (("man-clip", 0.2), ("bikes", 3.2), ("bbb-shot", 1.0))  # asset, seconds it starts at
FRAMES = SHOT_FRAMES * len(SHOTS)
CUTS = (SHOT_FRAMES, 2 * SHOT_FRAMES)

Verdict = Literal["whole", "refuse", "partial"]
_X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "2", "-threads", "1"]


@dataclass(frozen=True)
class Member:
    """One file and what a tool should do with it.

    Attributes:
        name: file name; the suffix is what a folder scan goes by.
        what: what happened to the file, for the table.
        verdict: ``whole``: all pictures are there and must come out or be dropped with a reason;
            ``refuse``: nothing usable may be taken from it, and the reason must be told;
            ``partial``: some pictures are gone; refuse it, or emit only what is whole and say so.
        reasons: error kinds of ours that name what is wrong, or for a copy that it is one.
        frames: pictures in the file, where it is whole.
        seconds: how long they are shown.
        aspect: displayed width / height, where it is whole.
    """

    name: str
    what: str
    verdict: Verdict
    reasons: frozenset[str] = frozenset()
    frames: int = FRAMES
    seconds: float = FRAMES / FPS
    aspect: float = WIDTH / HEIGHT


def _whole(name: str, what: str, **facts: Any) -> Member:
    return Member(name, what, "whole", **facts)


def _refuse(name: str, what: str, *reasons: str) -> Member:
    return Member(name, what, "refuse", frozenset(reasons), frames=0)


def _partial(name: str, what: str, *reasons: str) -> Member:
    return Member(name, what, "partial", frozenset(reasons), frames=0)


UNEVEN_FRAMES = 12 + len([n for n in range(12, FRAMES) if n % 5 == 0])

MEMBERS = (
    _whole("control.mp4", "nothing"),
    _whole("copy.mp4", "a byte-identical copy of it", reasons=frozenset({"duplicate"})),
    _refuse("noise.mp4", "random bytes", "not_media"),
    _refuse("empty.mp4", "no bytes at all", "empty"),
    _refuse("text.mp4", "a text file", "not_media"),
    _refuse("page.mp4", "a web page", "not_media"),
    _refuse("playlist.mp4", "an HLS playlist that names another file", "unsupported"),
    _refuse("picture.mp4", "a JPEG picture", "unsupported"),
    _refuse("half.mp4", "index first, the last half of the bytes missing", "truncated"),
    _refuse("headless.mp4", "index last, and cut off before it", "truncated"),
    _refuse("half.mkv", "Matroska, the last half of the bytes missing", "truncated"),
    _partial("flipped.mp4", "60 bits flipped all over the pictures", "corrupt", "truncated"),
    _partial("zeros.mp4", "a hole of zeros a tenth of the file long", "corrupt", "truncated"),
    _partial("lost_gop.mkv", "one group of pictures lost", "corrupt", "truncated"),
    _partial("lossy.ts", "transport stream that lost one packet in fifty", "corrupt", "truncated"),
    _refuse("lying.mkv", "the header promises five times the length", "truncated"),
    _refuse("sound.mp4", "sound only", "no_video"),
    _refuse("cover.mp4", "sound with a cover picture", "no_video"),
    _refuse("huge.mp4", "declares 20000x10000 pixels", "too_large"),
    _whole("one.mp4", "a single frame", frames=1, seconds=1 / FPS),
    _whole("ten.mp4", "10 bits a sample"),
    _whole("uneven.mp4", "variable frame rate", frames=UNEVEN_FRAMES),
    _whole("turned.mp4", "rotated by its display matrix", aspect=HEIGHT / WIDTH),
    _whole("wide.mp4", "non-square pixels (4:3)", aspect=WIDTH / HEIGHT * 4 / 3),
    _whole("odd.mp4", "odd size, 4:4:4", aspect=427 / 241),
    _whole("late.mkv", "pictures begin half a second after the sound"),
)
BY_NAME = {member.name: member for member in MEMBERS}


def make_corpus(folder: Path) -> list[Path]:
    """Make all members in ``folder/inputs``, once; the sources they derive from lie beside it."""
    inputs = folder / "inputs"
    done = folder / "made"
    if not done.exists():
        shutil.rmtree(inputs, ignore_errors=True)
        inputs.mkdir(parents=True)
        base = folder / "from"
        base.mkdir(exist_ok=True)
        make_film(base / "whole.mp4")  # the makers of media_corpus start from it
        made = media_corpus.Corpus(base)
        for member in MEMBERS:
            _MAKERS[member.name](made, inputs / member.name)
        done.touch()
    return [inputs / member.name for member in MEMBERS]


def make_film(target: Path) -> None:
    """Join the shots: constant rate, hard cuts, a key frame every 12, index first."""
    command: list[str] = [executable(), "-nostdin", "-loglevel", "error", "-y"]
    graph = ""
    for n, (name, start) in enumerate(SHOTS):
        command += ["-ss", str(start), "-i", str(asset(name))]
        graph += (
            f"[{n}:v]fps={FPS},scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase,"
            f"crop={WIDTH}:{HEIGHT},setsar=1,trim=end_frame={SHOT_FRAMES},setpts=PTS-STARTPTS"
            f"[v{n}];"
        )
    graph += "".join(f"[v{n}]" for n in range(len(SHOTS))) + f"concat=n={len(SHOTS)},"
    seconds = FRAMES / FPS
    sound = len(SHOTS) - 1  # of the last shot, looped
    graph += f"format=yuv420p[v];[{sound}:a]aloop=-1:2e5,atrim=end={seconds},asetpts=N/SR/TB[a]"
    command += ["-filter_complex", graph, "-map", "[v]", "-map", "[a]", *_X264, "-crf", "20"]
    command += ["-c:a", "aac", "-movflags", "+faststart", str(target)]
    subprocess.run(command, check=True, timeout=120)


Maker = Callable[[media_corpus.Corpus, Path], None]


def _like(name: str) -> Maker:
    """A member that media_corpus makes of any film."""
    return lambda made, path: _copy(made[name], path)


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def _recoded(*arguments: str) -> Maker:
    return lambda made, path: made.ffmpeg("-i", made["whole.mp4"], *arguments, path)


def _noise(_: media_corpus.Corpus, path: Path) -> None:
    path.write_bytes(random.Random(5).randbytes(200_000))


def _page(_: media_corpus.Corpus, path: Path) -> None:
    path.write_text(
        "<!DOCTYPE html>\n<html><head><title>Sign in to go on</title></head>"
        "<body><h1>403</h1></body></html>\n" + "<!-- padding -->\n" * 200
    )


def _playlist(made: media_corpus.Corpus, path: Path) -> None:
    other = made["tv.ts"]
    path.write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f"#EXTINF:{FRAMES / FPS},\n{other}\n#EXT-X-ENDLIST\n"
    )


def _half_mkv(made: media_corpus.Corpus, path: Path) -> None:
    whole = made["slow_start.mkv"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _zeros(made: media_corpus.Corpus, path: Path) -> None:
    """As a download that was resumed in the wrong place, or a sparse file that was copied."""
    data = bytearray(made["whole.mp4"].read_bytes())
    start, length = len(data) // 2, len(data) // 10
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def _lossy(made: media_corpus.Corpus, path: Path) -> None:
    size = 188
    data = made["tv.ts"].read_bytes()
    dice = random.Random(11)
    packets = [data[at : at + size] for at in range(0, len(data), size)]
    head = 40  # tables and the first key frame arrive
    kept = packets[:head] + [p for p in packets[head:] if dice.randrange(50)]
    path.write_bytes(b"".join(kept))


def _lying(made: media_corpus.Corpus, path: Path) -> None:
    data = made["film.mkv"].read_bytes()
    at = data.find(b"\x44\x89\x88")  # Segment/Info/Duration, a float of 8 bytes
    assert at > 0
    (duration,) = struct.unpack(">d", data[at + 3 : at + 11])
    data = data[: at + 3] + struct.pack(">d", duration * 5) + data[at + 11 :]
    stated, false = (f"00:00:{int(FRAMES / FPS) * factor:02d}.".encode() for factor in (1, 5))
    assert data.count(stated) == 1  # the stream's own statistics
    path.write_bytes(data.replace(stated, false))


def _huge(made: media_corpus.Corpus, path: Path) -> None:
    """A real file of 100 kB whose one frame asks for 600 MB."""
    made.ffmpeg(
        "-f", "lavfi", "-i", "color=gray:s=20000x10000:r=25", "-frames:v", "1",
        "-c:v", "mjpeg", "-q:v", "31", "-pix_fmt", "yuvj420p", "-threads", "1", path,
    )  # fmt: skip


_MAKERS: dict[str, Maker] = {
    "control.mp4": _like("whole.mp4"),
    "copy.mp4": _like("whole.mp4"),
    "noise.mp4": _noise,
    "empty.mp4": _like("empty.mp4"),
    "text.mp4": _like("junk.mp4"),
    "page.mp4": _page,
    "playlist.mp4": _playlist,
    "picture.mp4": _like("picture.mp4"),
    "half.mp4": _like("half.mp4"),
    "headless.mp4": _like("headless.mp4"),
    "half.mkv": _half_mkv,
    "flipped.mp4": _like("flipped.mp4"),
    "zeros.mp4": _zeros,
    "lost_gop.mkv": _like("hole.mkv"),
    "lossy.ts": _lossy,
    "lying.mkv": _lying,
    "sound.mp4": _like("sound.mp4"),
    "cover.mp4": _like("cover.m4a.mp4"),
    "huge.mp4": _huge,
    "one.mp4": _like("one.mp4"),
    "ten.mp4": _like("ten.mp4"),
    "uneven.mp4": _like("uneven.mp4"),
    "turned.mp4": _like("turned90.mp4"),
    "wide.mp4": _like("wide.mp4"),
    "odd.mp4": _recoded(*_X264, "-vf", "scale=427:241,setsar=1,format=yuv444p", "-an"),
    "late.mkv": _like("late.mkv"),
}
