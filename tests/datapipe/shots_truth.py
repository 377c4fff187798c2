"""Films whose every cut, fade and dissolve is known, joined from real footage.

Pieces of single shots (looked at, frame by frame, for cuts of their own) are normalised to one
size and rate and joined by the product's own ffmpeg. Dissolves are ``xfade``, fades the ``fade``
filter; the frames that they touch follow from the filters' definitions, not from any detector.

Sources are kept apart: thresholds were chosen on the ``tuning`` films (first part of *Big Buck
Bunny*, two photographs), figures are reported on the ``report`` films (its last part, which has
other scenes, live action and other photographs).
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2v.datapipe.base import assets
from s2v.datapipe.base.media import ffmpeg

FPS = 25
WIDTH, HEIGHT = 640, 360
PIECE = 65  # frames of a piece

Kind = Literal["cut", "dissolve", "fade", "wipe"]
Set = Literal["tuning", "report"]


@dataclass(frozen=True)
class Piece:
    """A stretch of one shot: an asset, where it begins, and what is done to it.

    Attributes:
        start: frame of the source, at the source's own rate.
        rate: the source's frames a second; 0 for a photograph.
        filters: ffmpeg filters applied to it, after scaling.
        trap: what in it looks like a cut and is none, and on which of its frames.
    """

    asset: str
    start: int = 0
    rate: float = 24.0
    filters: str = ""
    trap: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Transition:
    """Where one shot becomes another.

    Attributes:
        first, last: ``[first, last)`` are the frames that show both shots, or neither. For a
            hard cut both are the first frame of the new shot.
    """

    kind: Kind
    first: int
    last: int


@dataclass(frozen=True)
class Case:
    """A film and its truth."""

    name: str
    set: Set
    pieces: tuple[Piece, ...]
    joins: tuple[tuple[str, int], ...]  # how each piece is joined to the next: a kind, frames

    @property
    def lengths(self) -> list[int]:
        return [PIECE + (pause_frames(join[0]) if join else 0) for join in (*self.joins, None)]

    def transitions(self) -> list[Transition]:
        """The truth, in order."""
        found, at = [], 0
        for how, frames in self.joins:
            end = at + PIECE  # where the piece would end
            match how:
                case "cut":
                    found.append(Transition("cut", end, end))
                    at = end
                case "dissolve" | "wipe":
                    # xfade shows the first picture alone at its offset and the second alone
                    # from offset + duration.
                    found.append(Transition(how, end - frames + 1, end))
                    at = end - frames
                case _:  # fade black / fade white: out, a pause, in
                    pause = pause_frames(how)
                    found.append(Transition("fade", end - frames, end + pause + frames))
                    at = end + pause
        return found

    def traps(self) -> list[tuple[str, int, int]]:
        """``(kind, first, last)`` of what must not cut."""
        found, at = [], 0
        for piece, join in itertools.zip_longest(self.pieces, self.joins):
            if piece.trap:
                kind, first, last = piece.trap
                found.append((kind, at + first, at + last))
            if join:
                overlap = join[1] if join[0] in {"dissolve", "wipe"} else 0
                at += PIECE + pause_frames(join[0]) - overlap
        return found

    @property
    def frames(self) -> int:
        """Frames of the film."""
        overlaps = sum(n for how, n in self.joins if how in {"dissolve", "wipe"})
        return sum(self.lengths) - overlaps

    def build(self, folder: Path) -> Path:
        """Make the film, H.264; once per folder."""
        path = folder / f"{self.name}.mp4"
        if not path.exists():
            _run(_command(self, path))
        return path


def pause_frames(how: str) -> int:
    """Frames of one colour that a join adds between the two pieces."""
    return 4 if how.startswith("fade") else 0


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])


def _command(case: Case, path: Path) -> list[str]:
    inputs: list[str] = []
    chains: list[str] = []
    for n, piece in enumerate(case.pieces):
        source = str(assets.asset(piece.asset))
        if piece.rate:
            # Half a frame early, so that rounding cannot take the frame before.
            inputs += ["-ss", f"{max(0.0, (piece.start - 0.5) / piece.rate):.6f}", "-i", source]
        else:
            inputs += ["-loop", "1", "-framerate", str(FPS), "-i", source]
        fit = (
            f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase:flags=bicubic,"
            f"crop={WIDTH}:{HEIGHT}"
        )
        shown = piece.filters or fit
        # Frames are taken one by one, whatever their rate, so that none is repeated.
        chain = f"[{n}:v]trim=end_frame={PIECE},setpts=N/({FPS}*TB),fps={FPS},{shown}"
        chain += ",setsar=1,format=yuv420p"
        join = case.joins[n] if n < len(case.joins) else None
        before = case.joins[n - 1] if n else None
        if before and before[0].startswith("fade"):
            chain += f",fade=in:0:{before[1]}:color={before[0].split()[1]}"
        if join and join[0].startswith("fade"):
            colour, frames = join[0].split()[1], join[1]
            chain += f",fade=out:{PIECE - frames}:{frames}:color={colour}"
            chain += f",tpad=stop={pause_frames(join[0])}:color={colour}"
        chains.append(f"{chain},settb=1/{FPS}[p{n}]")
    last, length = "p0", case.lengths[0]
    for n, (how, frames) in enumerate(case.joins, 1):
        out = f"j{n}"
        if how in {"dissolve", "wipe"}:
            name = "fade" if how == "dissolve" else "wipeleft"
            offset = (length - frames) / FPS
            chains.append(
                f"[{last}][p{n}]xfade=transition={name}:duration={frames / FPS:.6f}:"
                f"offset={offset:.6f},settb=1/{FPS}[{out}]"
            )
            length += case.lengths[n] - frames
        else:
            chains.append(f"[{last}][p{n}]concat=n=2:v=1:a=0,settb=1/{FPS}[{out}]")
            length += case.lengths[n]
        last = out
    return [
        ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-y",
        "-filter_complex_threads", "1", *inputs, "-filter_complex", ";".join(chains),
        "-map", f"[{last}]", "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "20",
        "-threads", "1", "-frames:v", str(length), str(path),
    ]  # fmt: skip


def _film(*starts: int) -> list[Piece]:
    return [Piece("bbb-film", start) for start in starts]


def flash(asset: str, start: int, rate: float, frames: int, strength: float) -> Piece:
    """A piece that is nearly white for some frames, as when somebody takes a photograph."""
    first = 30
    fit = (
        f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=increase,crop={WIDTH}:{HEIGHT},"
        f"drawbox=color=white@{strength}:t=fill:enable='between(n,{first},{first + frames - 1})'"
    )
    return Piece(asset, start, rate, fit, ("flash", first, first + frames + 1))


def pan(asset: str, seconds: float, rate: float = 0.0, start: int = 0) -> Piece:
    """There and back over a picture, once in ``seconds``."""
    fit = (
        f"scale={2 * WIDTH}:{2 * HEIGHT}:force_original_aspect_ratio=increase,"
        f"crop={WIDTH}:{HEIGHT}:x='(iw-ow)*(0.5-0.5*cos(2*PI*n/{FPS}/{seconds}))':y='(ih-oh)/2'"
    )
    return Piece(asset, start, rate, fit, ("pan", 0, PIECE))


def _joins(kinds: Sequence[tuple[str, int]], count: int) -> tuple[tuple[str, int], ...]:
    return tuple(itertools.islice(itertools.cycle(kinds), count))


_CUT = [("cut", 0)]
_DISSOLVES = [("dissolve", n) for n in (6, 40, 12, 25)]
_FADES = [("fade black", 12), ("fade white", 8), ("fade black", 25), ("fade black", 5)]
_WIPES = [("wipe", 12), ("wipe", 25)]


def _cases(which: Set, shots: list[Piece], traps: list[Piece]) -> Iterator[Case]:
    ways = {"cuts": _CUT, "dissolves": _DISSOLVES, "fades": _FADES, "wipes": _WIPES}
    for name, kinds in ways.items():
        # Each kind joins the shots in another order, so that no pair of scenes is special.
        turn = list(ways).index(name)
        order = shots[turn:] + shots[:turn] if turn % 2 == 0 else [*shots[::2], *shots[1::2]]
        count = 7 if name == "wipes" else len(order)
        order = order[:count]
        yield Case(f"{which}-{name}", which, tuple(order), _joins(kinds, count - 1))
    yield Case(f"{which}-traps", which, tuple(traps), _joins(_CUT, len(traps) - 1))


def cases() -> list[Case]:
    """All films, tuning and report."""
    tuning_shots = [
        *_film(400, 700, 1170, 1545, 1830, 1950, 2400, 2510, 2720, 3100, 3590, 3760, 4080),
        *_film(4340, 4810, 5140, 5600, 5860),
    ]
    tuning_traps = [
        flash("bbb-film", 1950, 24, 1, 0.8),
        flash("bbb-film", 2400, 24, 3, 0.95),
        flash("coffee", 0, 0, 2, 0.6),
        pan("coffee", 2.0),
        pan("cat", 1.2),
        pan("bbb-film", 1.6, 24, 3100),
        pan("bbb-film", 1.0, 24, 5860),
    ]
    report_shots = [
        *_film(6395, 6500),
        Piece("man-clip", 0, 30),
        *_film(6840, 7410, 7780),
        Piece("man-photo", 0, 0, _still_zoom()),
        *_film(9170, 9600, 10690),
        Piece("astronaut", 0, 0, _still_zoom()),
        *_film(10850, 11200, 11360),
        Piece("quokka", 0, 0, _still_zoom()),
    ]
    report_traps = [
        flash("bbb-film", 6500, 24, 1, 0.9),
        flash("man-clip", 0, 30, 2, 0.8),
        flash("bbb-film", 10850, 24, 4, 0.7),
        pan("quokka", 2.0),
        pan("motorcycle", 1.2),
        pan("bbb-film", 1.6, 24, 6840),
        pan("man-clip", 1.0, 30),
    ]
    return [
        *_cases("tuning", tuning_shots, tuning_traps),
        *_cases("report", report_shots, report_traps),
    ]


def _still_zoom() -> str:
    """A slow push in, as stills are animated in documentaries."""
    return f"scale=w='{WIDTH}*(1.1+0.004*n)':h='-2':eval=frame:flags=bicubic,crop={WIDTH}:{HEIGHT}"


def needed_assets() -> list[str]:
    """Assets that the films are made of."""
    return sorted({piece.asset for case in cases() for piece in case.pieces})


@dataclass(frozen=True)
class Score:
    """What a detector made of one kind of transition.

    Attributes:
        known: how many there are.
        found: how many of them it saw.
        mixed, kept: frames that show two shots or neither, and how many of them a clip would
            keep after ``trim`` frames are dropped at each boundary.
    """

    known: int
    found: int
    mixed: int
    kept: int

    @property
    def recall(self) -> float:
        """Share of the known ones that were seen."""
        return self.found / self.known if self.known else 1.0


TOLERANCE = 2  # frames by which a hard cut may be off (protocol B1)


def score(
    case: Case, cuts: Sequence[int], gradual: Sequence[tuple[int, int]], trim: int = 3
) -> tuple[dict[str, Score], list[tuple[int, int]]]:
    """Compare what a detector found with the truth.

    Args:
        case: a film.
        cuts: first frames of new shots.
        gradual: spans ``[first, last)``.
        trim: frames that are dropped at both sides of each boundary.

    Returns:
        A score per kind, and the boundaries that answer to no transition: false alarms.
    """
    found = [*((c, c) for c in cuts), *gradual]
    dropped = {n for a, b in found for n in range(a - trim, b + trim)}
    scores: dict[str, Score] = {}
    for kind in ("cut", "dissolve", "fade", "wipe"):
        known = [t for t in case.transitions() if t.kind == kind]
        seen = sum(any(_meets(t, span) for span in found) for t in known)
        mixed = [n for t in known for n in range(t.first, t.last)]
        scores[kind] = Score(len(known), seen, len(mixed), sum(n not in dropped for n in mixed))
    false = [s for s in found if not any(_meets(t, s) for t in case.transitions())]
    return scores, false


def _meets(truth: Transition, span: tuple[int, int]) -> bool:
    return span[0] <= truth.last + TOLERANCE and span[1] >= truth.first - TOLERANCE
