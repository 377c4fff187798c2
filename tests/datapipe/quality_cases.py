"""Clips with known faults, made from real footage and photographs by the product's own ffmpeg.

Every base is one shot of a film, of live action, or a photograph that a camera moves over; its
frames were looked at: no text, no borders, sharp, evenly lit. Every fault is put into a base by
an ffmpeg filter or by a picture laid over it, so where it is and how strong is known exactly.

Sources are kept apart: thresholds were chosen on the ``tuning`` bases (first part of *Big Buck
Bunny*, four photographs), figures are reported on the ``report`` bases (its last part, which has
other scenes, live action and other photographs).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from s2v.datapipe.base import assets
from s2v.datapipe.base.media import ffmpeg

WIDTH, HEIGHT = 848, 480
FPS = 24
FRAMES = 66
SECONDS = FRAMES / FPS

Set = Literal["tuning", "report"]
Box = tuple[int, int, int, int]
Layer = Callable[[], Path]


@dataclass(frozen=True)
class Base:
    """A clean stretch of one shot.

    Attributes:
        start: seconds into the asset; ``None`` for a photograph.
        move: of the camera over a photograph: ``in``, ``right`` or ``still``.
    """

    asset: str
    start: float | None = None
    move: str = "in"

    @property
    def name(self) -> str:
        return f"{self.asset}-{self.start:.1f}" if self.start is not None else self.asset


@dataclass(frozen=True)
class Fault:
    """What is done to a base, and what should come of it.

    Attributes:
        name: of the fault, as in the report.
        about: for the report, in words.
        filters: ffmpeg filters after scaling to the size of all clips.
        layers: pictures laid over it with the times they are on the screen.
        family: the filter that is to find it, as in the report.
        covered: boxes that the crop may leave out instead of dropping the clip.
        content: the picture inside borders, which the crop should be.
        encode: how the clip is encoded; a fault may be in the compression.
        suffix: of the file.
        photographs: only photographs have it.
    """

    name: str
    about: str
    family: str = ""
    filters: str = ""
    layers: tuple[tuple[Layer, float, float], ...] = ()
    covered: tuple[Box, ...] = ()
    content: Box | None = None
    encode: tuple[str, ...] = ()
    suffix: str = ".mp4"
    photographs: bool = False


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p")

TUNING = (
    *(Base("bbb-film", n / 24) for n in (400, 1170, 1545, 1950, 2510, 2720, 3100)),
    *(Base("bbb-film", n / 24) for n in (3590, 3760, 4340, 4810, 5140, 5600)),
    Base("obama-1"),
    Base("obama-2", move="right"),
    Base("coffee", move="right"),
    Base("cat"),
)
REPORT = (
    *(Base("bbb-film", n / 24) for n in (6395, 6840, 7410, 7780, 9170, 9600, 10690, 10850, 11200)),
    Base("man-clip", 0.0),
    Base("man-leaves", 0.0),
    Base("bikes", 3.2),
    Base("astronaut"),
    Base("quokka", move="right"),
    Base("rocket", move="right"),
    Base("motorcycle"),
    Base("group-photo"),
    Base("man-photo"),
    Base("obama-3"),
)


_FOLDER: list[Path] = []


def use(where: Path) -> None:
    """Make files below ``where``."""
    where.mkdir(parents=True, exist_ok=True)
    _FOLDER[:] = [where]


def _layer(name: str, draw: Callable[[ImageDraw.ImageDraw], None]) -> Callable[[], Path]:
    def make() -> Path:
        path = _FOLDER[0] / f"{name}.png"
        if not path.exists():
            canvas = Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0))
            draw(ImageDraw.Draw(canvas))
            canvas.save(path)
        return path

    return make


def _boxes(make: Callable[[], Path]) -> Box:
    """Where a layer is not empty."""
    alpha = np.asarray(Image.open(make()))[:, :, 3]
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _text(
    name: str,
    lines: Sequence[str],
    bottom: float,
    size: int,
    fill: tuple[int, int, int, int] = (255, 255, 255, 255),
    *,
    box: bool = False,
    left: int | None = None,
) -> Callable[[], Path]:
    """Lines of text, centred unless ``left`` is given, the last one ending at ``bottom``."""

    def draw(canvas: ImageDraw.ImageDraw) -> None:
        font = ImageFont.load_default(size)
        y = HEIGHT * bottom - len(lines) * size * 1.25
        for line in lines:
            width = canvas.textlength(line, font=font)
            x = left if left is not None else (WIDTH - width) / 2
            if box:
                canvas.rectangle((x - 8, y - 2, x + width + 8, y + size * 1.25), (0, 0, 0, 200))
            outline = (0, 0, 0, fill[3])
            canvas.text((x, y), line, fill, font, stroke_width=size // 12, stroke_fill=outline)
            y += size * 1.25

    return _layer(name, draw)


def _logo(name: str, corner: str, side: int, alpha: int) -> Callable[[], Path]:
    def draw(canvas: ImageDraw.ImageDraw) -> None:
        x = 24 if "left" in corner else WIDTH - 24 - int(2.3 * side)
        y = 20 if "top" in corner else HEIGHT - 20 - side
        fill = (255, 255, 255, alpha)
        canvas.ellipse((x, y, x + side, y + side), (220, 40, 40, alpha), fill, side // 10)
        font = ImageFont.load_default(side * 0.7)
        canvas.text(
            (x + side * 1.15, y + side * 0.08), "TV9", fill, font,
            stroke_width=2, stroke_fill=(40, 40, 40, alpha),
        )  # fmt: skip

    return _layer(name, draw)


_ONE = _text("one", ["Where were you last night?"], 0.93, 24)
_OTHER = _text("other", ["I was looking for the others."], 0.93, 24)
_TWO = _text("two", ["We should have left before the rain", "and taken the other road."], 0.95, 26)
_YELLOW = _text("yellow", ["No, I do not think so."], 0.9, 28, (250, 230, 60, 255))
_BOXED = _text("boxed", ["(a door opens in the distance)"], 0.92, 22, box=True)
_ON_BAR = _text("bar", ["Nobody told me about it."], 0.985, 22)
_NAME = _text("name", ["Dr. M. Sandoval", "University of Lund"], 0.86, 22, left=40)
_TITLE = _text("title", ["A SUMMER", "IN THE HILLS"], 0.62, 64)
_MARK = _text("mark", ["sample preview"], 0.6, 72, (255, 255, 255, 110))
_LOGO = _logo("logo", "top right", 44, 255)
_FAINT = _logo("faint", "bottom left", 44, 140)
#: Filter -> the rules by which it drops a clip.
FAMILIES: dict[str, frozenset[str]] = {
    "text": frozenset({"text", "subtitles"}),
    "marks": frozenset({"watermark", "text", "subtitles"}),
    "borders": frozenset(),
    "freeze and motion": frozenset({"frozen", "static"}),
    "light": frozenset(
        {"too dark", "black", "underexposed", "no contrast", "too bright", "overexposed"}
    ),
    "blur": frozenset({"blurred"}),
    "compression": frozenset({"blocky", "source bit rate", "blurred"}),
    # No rule is made for them; these would be the nearest.
    "moved photographs": frozenset({"frozen", "static"}),
}
_LETTERBOX = (
    f"scale={WIDTH}:356:force_original_aspect_ratio=increase,crop={WIDTH}:356,"
    f"pad={WIDTH}:{HEIGHT}:0:62"
)
_LETTER = (0, 62, WIDTH, 418)
_PILLARBOX = (
    f"scale=640:{HEIGHT}:force_original_aspect_ratio=increase,crop=640:{HEIGHT},"
    f"pad={WIDTH}:{HEIGHT}:104:0"
)


def clean() -> Fault:
    """No fault."""
    return Fault("none", "clean, as all others are before their fault", "")


def _over(
    name: str, about: str, family: str, *layers: tuple[Layer, float, float], **more: Any
) -> Fault:
    """Pictures over the film, each from one share of the time to another."""
    return Fault(
        name,
        about,
        family,
        layers=tuple((make, a * SECONDS, b * SECONDS) for make, a, b in layers),
        covered=tuple(_boxes(make) for make, _, _ in layers),
        **more,
    )


def faults() -> list[Fault]:
    """All faults; :func:`use` first."""
    mpeg4 = ("-c:v", "mpeg4", "-q:v", "31", "-g", "12")
    mpeg2 = ("-c:v", "mpeg2video", "-q:v", "31", "-g", "12")
    starved = ("-c:v", "libx264", "-crf", "48", "-pix_fmt", "yuv420p")
    tripled = ":".join(f"{c}=clip(val*3\\,0\\,255)" for c in "rgb")
    return [
        _over("subtitles, one line", "two lines in turn, each half of the time", "text",
              (_ONE, 0, 0.5), (_OTHER, 0.5, 1)),
        _over("subtitles, two lines", "two lines at once for 60 % of the time", "text",
              (_TWO, 0.4, 1)),
        _over("subtitles, other styles", "yellow letters, then white ones on a dark box", "text",
              (_YELLOW, 0, 0.3), (_BOXED, 0.6, 1)),
        _over("subtitles between frames", "from 15 to 40 %: on none of the sampled frames", "text",
              (_ONE, 0.15, 0.4)),
        _over("subtitles on a letterbox", "in the lower bar", "text",
              (_ON_BAR, 0, 0.7), filters=_LETTERBOX),
        _over("title", "large letters across the picture for 40 % of the time", "text",
              (_TITLE, 0.3, 0.7)),
        _over("name of a speaker", "two small lines in a corner, all the time", "marks",
              (_NAME, 0, 1)),
        _over("logo", "a disc and three letters in a corner", "marks", (_LOGO, 0, 1)),
        _over("logo, see-through", "the same at 55 % in another corner", "marks", (_FAINT, 0, 1)),
        _over("watermark", "large letters across the picture at 43 %", "marks", (_MARK, 0, 1)),
        Fault("letterbox", "black above and below", "borders", _LETTERBOX, content=_LETTER),
        Fault("pillarbox", "black at the sides", "borders", _PILLARBOX,
              content=(104, 0, 744, HEIGHT)),
        Fault("thin border", "four black columns at the left, six rows below", "borders",
              f"crop={WIDTH - 4}:{HEIGHT - 6}:0:0,pad={WIDTH}:{HEIGHT}:4:0",
              content=(4, 0, WIDTH, HEIGHT - 6)),
        Fault("frozen", "one frame all the time", "freeze and motion", _repeat()),
        Fault("dark", "an eighth of the light", "light", "lutyuv=y=16+(val-16)*0.12"),
        Fault("over-exposed", "three times the light", "light", f"lutrgb={tripled}"),
        Fault("blurred", "Gaussian, sigma 6 pixels", "blur", "gblur=sigma=6:steps=3"),
        Fault("slightly blurred", "Gaussian, sigma 3 pixels", "blur", "gblur=sigma=3:steps=3"),
        Fault("blocks, MPEG-4", "quantiser 31", "compression", encode=mpeg4, suffix=".mkv"),
        Fault("blocks, MPEG-2", "quantiser 31", "compression", encode=mpeg2, suffix=".mkv"),
        Fault("starved H.264", "CRF 48: smeared, deblocked", "compression", encode=starved),
        Fault("moved photograph", "a camera pushes in on it or pans over it", "moved photographs",
              photographs=True),
    ]  # fmt: skip


def _repeat() -> str:
    return f"trim=end_frame=1,loop=loop={FRAMES}:size=1:start=0,setpts=N/({FPS}*TB)"


def build(base: Base, fault: Fault, where: Path) -> Path:
    """Make the clip, once per folder."""
    path = where / f"{base.name}--{_slug(fault.name)}{fault.suffix}"
    if path.exists():
        return path
    inputs = _input(base)
    fit = (
        f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase:flags=bicubic,"
        f"crop={WIDTH}:{HEIGHT}"
    )
    if base.start is None:
        fit = _camera(base)
    # Frames are taken one by one, whatever their rate, so that none is repeated.
    chain = f"[0:v]trim=end_frame={FRAMES},setpts=N/({FPS}*TB),fps={FPS},{fit},setsar=1"
    if fault.filters:
        chain += f",{fault.filters}"
    chain += ",format=yuv420p[v0]"
    chains = [chain]
    for n, (layer, begin, end) in enumerate(fault.layers):
        inputs += ["-i", str(layer())]
        chains.append(
            f"[v{n}][{n + 1}:v]overlay=enable='between(t,{begin:.4f},{end:.4f})':"
            f"format=auto,format=yuv420p[v{n + 1}]"
        )
    _run(
        [
            *(ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y"),
            *("-filter_complex_threads", "1", *inputs, "-filter_complex", ";".join(chains)),
            *("-map", f"[v{len(fault.layers)}]", "-an", *(fault.encode or X264)),
            *("-frames:v", str(FRAMES), "-threads", "1", str(path)),
        ]
    )
    return path


def recode(source: Path, target: Path, filters: str, encode: Sequence[str] = X264) -> Path:
    """Filter and encode a made clip again."""
    if not target.exists():
        _run(
            [
                *(ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y", "-i", str(source)),
                *("-vf", filters, "-an", *encode, "-threads", "1", str(target)),
            ]
        )
    return target


def join(parts: Sequence[Path], target: Path) -> Path:
    """One film of several made clips, cut to cut."""
    if not target.exists():
        inputs = [word for part in parts for word in ("-i", str(part))]
        streams = "".join(f"[{n}:v]" for n in range(len(parts)))
        _run(
            [
                *(ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y", *inputs),
                *("-filter_complex", f"{streams}concat=n={len(parts)}:v=1:a=0[v]", "-map", "[v]"),
                *(*X264, "-threads", "1", str(target)),
            ]
        )
    return target


def _input(base: Base) -> list[str]:
    source = str(assets.asset(base.asset))
    if base.start is None:
        return ["-loop", "1", "-framerate", str(FPS), "-i", source]
    # Half a frame early, so that rounding cannot take the frame before.
    return ["-ss", f"{max(0.0, base.start - 0.5 / FPS):.6f}", "-i", source]


def _camera(base: Base) -> str:
    """A push in or a pan over a photograph, as documentaries have them."""
    fit = "scale=1272:720:force_original_aspect_ratio=increase:flags=bicubic,crop=1272:720"
    if base.move == "right":
        return f"{fit},crop={WIDTH}:{HEIGHT}:x='(iw-ow)*(0.2+0.6*n/{FRAMES})':y='(ih-oh)/2'"
    zoom = f"scale=w='{WIDTH}*(1.05+0.005*n)':h='-2':eval=frame:flags=bicubic"
    return f"{fit},{zoom},crop={WIDTH}:{HEIGHT}"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def needed_assets() -> list[str]:
    """Assets that the clips are made of."""
    return sorted({base.asset for base in (*TUNING, *REPORT)})
