"""What a tool made of one damaged file, and whether that was right: one rule for every tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
from damage_corpus import FPS, Member

FRAME_S = 1 / FPS
ASPECT_TOLERANCE = 0.02
LENGTH_TOLERANCE_S = 0.25  # a picture of a film of uneven spacing may be shown that long
GONE = "no such file"


@dataclass(frozen=True)
class Clip:
    """A clip as the tool left it.

    Attributes:
        path: where the tool says it is.
        frames: frames the tool says it has; None to go by the file's own header.
        seconds: length the tool says it has, where it does.
    """

    path: Path
    frames: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """All that a tool says of one input in its results, and what it exited with.

    Attributes:
        clips: what it emitted for this input.
        refusal: what its results or its exit say against the input; None when nothing.
        kind: its error kind, where it has such.
        dropped_s: seconds of the input it left out with a stated reason.
        dropped: the reasons.
        code: exit code of the process that had the input.
        logged: whether its log, not its results, says that this input failed.
    """

    clips: Sequence[Clip] = ()
    refusal: str | None = None
    kind: str | None = None
    dropped_s: float = 0.0
    dropped: frozenset[str] = frozenset()
    code: int = 0
    logged: bool = False


@dataclass(frozen=True)
class Decoded:
    """A clip as plain PyAV decodes it, without guards of ours."""

    frames: int
    seconds: float
    aspect: float
    wrong: str | None

    @property
    def sound(self) -> bool:
        """Whether there are pictures, all that were declared, without an error."""
        return self.wrong is None


@dataclass(frozen=True)
class Judgement:
    """A verdict on one input.

    Attributes:
        accounted: the tool's results tell what became of the input.
        right: and what they tell is right.
        sound: every emitted clip decodes to what it declares.
        words: for the table.
    """

    accounted: bool
    right: bool
    sound: bool
    words: str
    clips: list[Decoded] = field(default_factory=list)


def decode(clip: Clip) -> Decoded:
    """Decode a clip from start to end, as any reader would, and compare with what is declared."""
    if not clip.path.is_file():
        return Decoded(0, 0.0, 1.0, GONE)
    frames, times, aspect, header, step = 0, [], 1.0, clip.frames, FRAME_S
    wrong = None
    try:
        with av.open(str(clip.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            header = header or stream.frames or None
            step = 1 / float(stream.average_rate or FPS)
            for frame in container.decode(stream):
                times.append(frames * step if frame.time is None else frame.time)
                frames += 1
                aspect = frame.width * float(stream.sample_aspect_ratio or 1) / frame.height
                aspect = 1 / aspect if frame.rotation % 180 else aspect
    except (av.error.FFmpegError, IndexError, OSError) as error:
        wrong = type(error).__name__
    seconds = max(times) - min(times) + step if times else 0.0
    if wrong is None:
        wrong = _shortfall(clip, frames, seconds, header)
    return Decoded(frames, seconds, aspect, wrong)


def _shortfall(clip: Clip, frames: int, seconds: float, header: int | None) -> str | None:
    if not frames:
        return "no pictures"
    if header is not None and abs(frames - header) > 1:
        return f"{frames} of {header} frames"
    if clip.seconds is not None and abs(seconds - clip.seconds) > LENGTH_TOLERANCE_S:
        return f"{seconds:.2f} of {clip.seconds:.2f} s"
    return None


def judge(member: Member, outcome: Outcome) -> Judgement:
    """Hold what a tool did with a file against what is right for it.

    A refusal of a tool without error kinds counts as right whatever its words are, as long as
    it names the file; one with kinds has to name the damage.
    """
    clips = [decode(clip) for clip in outcome.clips]
    sound = all(clip.sound for clip in clips)
    told = outcome.refusal is not None or bool(outcome.dropped)
    accounted = told or bool(clips)
    named = outcome.refusal is not None and (
        outcome.kind is None or not member.reasons or outcome.kind in member.reasons
    )
    if member.verdict == "refuse":
        right = named and not clips
    elif member.verdict == "partial":
        right = sound and (named or any(_is_damage(reason) for reason in outcome.dropped))
    else:
        copy = outcome.kind is not None and outcome.kind in member.reasons
        kept = sound and outcome.refusal is None and _complete(member, outcome, clips)
        right = accounted and (copy or kept)
    return Judgement(accounted, right, sound, _words(member, outcome, clips), clips)


def _is_damage(reason: str) -> bool:
    """Whether a drop reason speaks of damage, not of length or trimming."""
    return any(word in reason for word in ("damage", "missing", "corrupt", "truncated"))


def _complete(member: Member, outcome: Outcome, clips: list[Decoded]) -> bool:
    """Whether all pictures came out, upright and in their proportions, or were left out openly."""
    straight = all(abs(clip.aspect / member.aspect - 1) < ASPECT_TOLERANCE for clip in clips)
    return straight and not _lost_s(member, outcome, clips)


def _lost_s(member: Member, outcome: Outcome, clips: list[Decoded]) -> float:
    """Seconds of a whole film that are in no clip and in no stated drop; 0 within a tolerance.

    More is no loss: some hold the first picture while only sound is there.
    """
    lost = member.seconds - sum(clip.seconds for clip in clips) - outcome.dropped_s
    return lost if lost > FRAME_S * (2 + len(clips)) else 0.0


def _words(member: Member, outcome: Outcome, clips: list[Decoded]) -> str:
    said = []
    if outcome.refusal is not None:
        said.append(f"refused: {outcome.kind}" if outcome.kind else "refused")
    if clips:
        gone = sum(clip.wrong == GONE for clip in clips)
        broken = sum(not clip.sound for clip in clips) - gone
        frames = sum(clip.frames for clip in clips)
        said.append(f"{_some(len(clips), 'clip')}, {_some(frames, 'frame')}")
        said += [f"{broken} broken"] * bool(broken)
        said += [f"{gone} listed but not there"] * bool(gone)
        lost = _lost_s(member, outcome, clips) if member.verdict == "whole" else 0.0
        said += [f"{lost:.1f} s missing"] * bool(lost)
        if member.verdict == "whole" and not all(
            abs(clip.aspect / member.aspect - 1) < ASPECT_TOLERANCE for clip in clips
        ):
            said.append("out of shape")
    if outcome.dropped:
        said.append("dropped: " + ", ".join(sorted(outcome.dropped)))
    if not said:
        said.append("nothing")
    if outcome.logged:
        said.append("an error in the log")
    if outcome.code:
        said.append(f"exit {outcome.code}")
    return "; ".join(said)


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
