"""Copies of a clip that have to be found, and clips alike that are no copies.

Every copy is made of a clip of :mod:`quality_cases` by the product's own ffmpeg and measured as a
file of its own, as a re-upload would be. What must not be found: other clips, and other moments
of the same scene, once seen by a camera that stands still and once by another camera. Those are
files of their own as well, which is harder than in a run: inside one file only a replay counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import quality_cases
from quality_cases import HEIGHT, REPORT, TUNING, WIDTH, X264, Base, clean
from quality_run import Line

from s2v.datapipe.base import records
from s2v.datapipe.engine.stage import Row
from s2v.datapipe.pair.copies import FrameHashes, duplicates
from s2v.datapipe.pair.rows import by
from s2v.datapipe.pair.settings import PairRules

Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Copy:
    """How a clip is copied.

    Attributes:
        name, about: as in the report.
        filters: of ffmpeg.
        encode: how the copy is encoded.
        suffix: of its file.
    """

    name: str
    about: str
    filters: str = "null"
    encode: tuple[str, ...] = X264
    suffix: str = ".mp4"


def _x264(crf: int) -> tuple[str, ...]:
    return (*X264[: X264.index("-crf")], "-crf", str(crf), *X264[X264.index("-crf") + 2 :])


_HEVC = (
    *("-c:v", "libx265", "-preset", "ultrafast", "-crf", "32", "-pix_fmt", "yuv420p"),
    *("-x265-params", "log-level=error:pools=none:frame-threads=1"),
)
COPIES = (
    Copy("encoded again, H.264", "CRF 36", encode=_x264(36)),
    Copy("encoded again, HEVC", "CRF 32", encode=_HEVC),
    Copy("encoded again, MPEG-4", "quantiser 12", encode=("-c:v", "mpeg4", "-q:v", "12"),
         suffix=".mkv"),
    Copy("half the size", "424x240", f"scale={WIDTH // 2}:{HEIGHT // 2}"),
    Copy("enlarged", "1272x720", "scale=1272:720"),
    Copy("mirrored", "left to right", "hflip"),
    Copy("black bars", "80 rows above and below", "pad=iw:ih+160:0:80:black"),
    Copy("black frame", "at 80 %, black all around",
         "scale=678:384,pad=848:480:84:48:black,setsar=1"),
    Copy("all at once", "mirrored, 640x362, CRF 30", "hflip,scale=640:362,setsar=1", _x264(30)),
    Copy("cut to 90 %", "5 % lost at each side", "crop=iw*0.9:ih*0.9"),
    Copy("half a second later", "12 frames later", "trim=start_frame=12,setpts=PTS-STARTPTS"),
)  # fmt: skip


def _film(frame: int) -> Base:
    return Base("bbb-film", frame / quality_cases.FPS)


# Their frames were looked at: the same scene, no frame of the one is a frame of the other.
_STANDING = "another moment, camera stands still"
_OTHER = "another moment, other camera"
MOMENTS = {
    _STANDING: ((6840, 6920), (9170, 9270), (10690, 10770), (11380, 11450)),
    _OTHER: ((6395, 6500), (7780, 7890)),
}
"""Frame numbers of *Big Buck Bunny* at which both clips begin."""


@dataclass(frozen=True)
class Pair:
    """Two files, and whether the second was taken for a copy of the first.

    Attributes:
        name, about: what the second is, as in the report.
        first, second: names of the files.
        copy: whether it is one.
        found: whether it was taken for one.
    """

    name: str
    about: str
    first: str
    second: str
    copy: bool
    found: bool


def measure_copies(
    line: Line, which: str, each: int, folder: Path, note: Callable[[str], None] = print
) -> list[Pair]:
    """Make copies of ``each`` clips per kind, and compare all other clips with each other.

    Args:
        line: the stages of a run.
        which: ``tuning`` or ``report``; other moments are of the ``report`` scenes only.
        each: clips per kind of copy.
        folder: for clips.
        note: told of every kind that is done.
    """
    bases = _unlike(TUNING if which == "tuning" else REPORT)
    originals = {base: _sampled(line, base, folder) for base in bases}
    found: list[Pair] = []
    step = len(bases) / each
    for n, kind in enumerate(COPIES):
        for base in [bases[int((k + n / 7) * step) % len(bases)] for k in range(each)]:
            path = copied(base, kind, folder)
            called = is_duplicate(originals[base], line.measure([path], last="frames").tables)
            found.append(Pair(kind.name, kind.about, base.name, path.stem, True, called))
        note(f"{kind.name}: {sum(pair.found for pair in found if pair.name == kind.name)}")
    for name, moments in MOMENTS.items() if which == "report" else ():
        for one, two in moments:
            first, second = _film(one), _film(two)
            called = is_duplicate(*(_sampled(line, base, folder) for base in (first, second)))
            about = "of the same scene, in a file of its own"
            found.append(Pair(name, about, first.name, second.name, False, called))
    for one, two in combinations(bases, 2):
        called = is_duplicate(originals[one], originals[two])
        found.append(Pair("another clip", "all pairs", one.name, two.name, False, called))
    return found


def copied(base: Base, kind: Copy, folder: Path) -> Path:
    """Make the copy, once per folder."""
    source = quality_cases.build(base, clean(), folder)
    name = "".join(c if c.isalnum() else "-" for c in f"{kind.name}-{base.name}")
    target = folder / f"copy-{name}{kind.suffix}"
    return quality_cases.recode(source, target, kind.filters, kind.encode)


def is_duplicate(first: Tables, second: Tables) -> bool:
    """Whether a clip of one file is called a duplicate of one of the other."""
    clips = [*first["clips"], *second["clips"]]
    frames = [*first["frames"], *second["frames"]]
    rules = PairRules()
    hashes = FrameHashes(
        {"clips": records.table("clips", clips), "frames": records.table("frames", frames)}, rules
    )
    rows = by(clips, "clip_id")
    called = duplicates(hashes, hashes.alike(rules.frame_bits), rows, rules)
    return any(rows[a]["video_id"] != rows[b]["video_id"] for a, b in called.items())


def _sampled(line: Line, base: Base, folder: Path) -> Tables:
    tables = line.measure([quality_cases.build(base, clean(), folder)], last="frames").tables
    if not tables["clips"]:
        raise ValueError(f"{base.name}: no clip is left of it, so it compares with nothing")
    return tables


def _unlike(bases: Iterable[Base]) -> Sequence[Base]:
    """Without the asset that begins with the frames of another one."""
    return [base for base in bases if base.asset != "man-leaves"]
