"""Which library may read single frames: decord, decord2 or PyAV, by what they get wrong.

    python tests/benchmarks/bench_readers.py [--write]

Every film of the tests' media corpus, whole and damaged, by number and in shuffled order; then
the CPU time of a few frames and of dense batches. What is right is what ffmpeg's own program
shows. decord2 runs in an environment of its own (``peers/peer_environments.py``).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "datapipe"))  # test helpers are no package
sys.path.append(str(Path(__file__).parent / "peers"))

from generated import machine, replace_generated
from media_corpus import Corpus
from peer_environments import peer

from s2v.datapipe.base.assets import asset
from s2v.datapipe.base.media import ffmpeg
from s2v.datapipe.base.media.decode import frames_at
from s2v.datapipe.base.media.errors import MediaError
from s2v.datapipe.base.media.probe import probe
from s2v.datapipe.base.media.scan import scan

PAGE = Path(__file__).parents[2] / "docs" / "media.md"
READER = Path(__file__).parent / "peers" / "frame_reader.py"
REPEATS = 3
ROUNDING_US = 1000
SPOILT = 2.0  # mean difference to the picture that belongs there, of 255

WHOLE = {
    "whole.mp4": "H.264, MP4",
    "film.mkv": "H.264, Matroska",
    "flash.flv": "H.264, FLV",
    "tv.ts": "H.264, transport stream",
    "open.mkv": "H.264, open GOPs",
    "phone.mp4": "HEVC, open GOPs (as x265 writes it by default)",
    "closed.mp4": "HEVC, closed GOPs",
    "web.webm": "VP9",
    "web8.webm": "VP8",
    "old.avi": "MPEG-4, AVI",
    "disc.mpg": "MPEG-2, programme stream",
    "edit.mp4": "edit list hides the first frames",
    "late.mkv": "pictures later than sound",
    "uneven.mp4": "variable frame rate",
    "turned90.mp4": "turned by 90 degrees",
    "mirrored90.mp4": "turned and mirrored",
    "wide.mp4": "pixels of 4:3",
    "odd.mp4": "odd size, 4:4:4",
    "full.mp4": "full range",
    "ten.mp4": "10 bits",
}
DAMAGED = {
    "speck.mp4": "one damaged packet",
    "flipped.mp4": "60 bits flipped",
    "half.mp4": "half an MP4, index first",
    "half.webm": "half a WebM",
    "hole.mkv": "a group of pictures lost",
}
SAME_PACKETS = {"tv.ts": "whole.mp4"}  # a transport stream makes the pinned program crash
LOST = range(12, 24)  # in hole.mkv


@dataclass
class Answer:
    """What a library gave for a film: frames by number, its count of them, its first error."""

    frames: dict[int, np.ndarray] = field(default_factory=dict)
    length: int | None = None
    error: str = ""


Reader = Callable[[Path, Sequence[int], Sequence[int]], Answer]


class Decord:
    """A module ``decord`` in the environment of an interpreter.

    Args:
        python: the interpreter.
        environment: what its process sees; None for what we see.
        folder: scratch.
    """

    def __init__(self, python: str, environment: dict[str, str] | None, folder: Path) -> None:
        self._python, self._environment = python, environment
        self._numbers, self._out = folder / "numbers.json", folder / "out.npz"

    def __call__(self, path: Path, numbers: Sequence[int], times: Sequence[int]) -> Answer:
        """Frames by number; times are of no use to it."""
        found = self._run(path, numbers)
        frames = {int(k[1:]): v for k, v in found.items() if k.startswith("f")}
        length = int(found["length"])
        return Answer(frames, length if length >= 0 else None, str(found["error"]))

    def cpu_s(self, path: Path, numbers: Sequence[int], times: Sequence[int]) -> float:
        """CPU seconds to open a film and read a batch, without the start of the process."""
        return float(self._run(path, numbers, "--cpu")["cpu"])

    def _run(self, path: Path, numbers: Sequence[int], *options: str) -> dict[str, np.ndarray]:
        self._numbers.write_text(json.dumps(list(numbers)))
        command = [self._python, str(READER), str(path), str(self._numbers), str(self._out)]
        subprocess.run(
            [*command, *options], env=self._environment, check=True, timeout=300,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with np.load(self._out) as found:
            return dict(found)


class Ours:
    """PyAV behind the guards of ``frames_at``, which goes by time."""

    def __call__(self, path: Path, numbers: Sequence[int], times: Sequence[int]) -> Answer:
        """One call a frame, as an error is of the whole call."""
        answer, errors = Answer(), []
        for number in numbers:
            try:
                [(at, frame)] = frames_at(path, [times[number]], backend="pyav")
            except (MediaError, ValueError) as error:
                errors.append(error.kind.value if isinstance(error, MediaError) else "no such time")
            else:
                if abs(at - times[number]) < ROUNDING_US:
                    answer.frames[number] = frame
                else:  # the last one before, and its time says so
                    errors.append("an earlier frame, by its time")
        answer.error = ", ".join(sorted(set(errors)))
        return answer

    def cpu_s(self, path: Path, numbers: Sequence[int], times: Sequence[int]) -> float:
        """CPU seconds of one call for the batch."""
        start = time.process_time()
        frames_at(path, [times[n] for n in numbers], backend="pyav")
        return time.process_time() - start


def truth(path: Path) -> list[np.ndarray]:
    """All frames as ffmpeg's program shows them, pixels as stored."""
    facts = probe(path)
    height, width = facts.coded_height, facts.coded_width
    if facts.orientation.transpose:
        height, width = width, height
    command = [
        ffmpeg.executable(), "-nostdin", "-loglevel", "error", "-i", str(path), "-map", "0:v:0",
        "-fps_mode", "passthrough", "-sws_flags", "bicubic", "-f", "rawvideo",
        "-pix_fmt", "rgb24", "-",
    ]  # fmt: skip
    raw = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
    return list(np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3))


def judge_whole(right: Sequence[np.ndarray], answer: Answer) -> str:
    """What a library made of a film that is whole."""
    if not answer.frames:
        return f"**refused**: {answer.error}"
    said = []
    if answer.length not in {None, len(right)}:
        said.append(f"**counts {answer.length} of {len(right)} frames**")
    other, worst, mean, shape = 0, 0, 0.0, False
    for number, frame in answer.frames.items():
        if frame.shape != right[number].shape and sorted(frame.shape) == sorted(right[0].shape):
            shape = True
            continue
        distances = [_distance(frame, picture) for picture in right]
        if distances[number] > min(distances):
            other += 1
        else:
            off = np.abs(frame.astype(np.int16) - _sized(right[number], frame))
            worst, mean = max(worst, int(off.max())), max(mean, distances[number])
    said += ["**not turned**"] * shape
    said += [f"**{other} of {len(right)} are other frames**"] * bool(other)
    said += [f"colours off by up to {worst}, {mean:.1f} in the mean"] * bool(worst)
    missing = len(right) - len(answer.frames)
    said += [f"**{missing} refused**: {answer.error}"] * bool(missing)
    return "; ".join(said) or "exact"


def judge_damaged(right: Sequence[np.ndarray], answer: Answer) -> str:
    """What it made of a damaged one: ``right`` are the pictures as they were before."""
    if not answer.frames:
        return f"all refused: {answer.error}"
    spoilt = sum(_distance(f, right[number]) > SPOILT for number, f in answer.frames.items())
    refused = len(right) - len(answer.frames)
    said = [f"{len(answer.frames) - spoilt} right"]
    said += [f"**{spoilt} spoilt, without a word**"] * bool(spoilt)
    said += [f"{refused} refused: {answer.error}"] * bool(refused)
    return "; ".join(said)


def _sized(picture: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A picture at the size of another: pixels made square."""
    if picture.shape == like.shape:
        return picture
    size = (like.shape[1], like.shape[0])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - _sized(other, one)).mean())


def agreement(readers: dict[str, Reader], corpus: Corpus) -> list[str]:
    """Rows of the table: one film each."""
    rows = []
    for name, what in WHOLE.items():
        right, times = truth(corpus[SAME_PACKETS.get(name, name)]), _times(corpus[name])
        numbers = random.Random(name).sample(range(len(right)), len(right))
        if len(times) != len(right):
            raise RuntimeError(f"{name}: {len(times)} frames of ours, {len(right)} of ffmpeg's")
        cells = [
            judge_whole(right, read(corpus[name], numbers, times)) for read in readers.values()
        ]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    for name, what in DAMAGED.items():
        codec = "web.webm" if name.endswith(".webm") else "whole.mp4"
        right, times = truth(corpus[codec]), _times(corpus[codec])
        if name == "hole.mkv":  # numbers go on behind the hole
            right = [picture for n, picture in enumerate(right) if n not in LOST]
            times = [at for n, at in enumerate(times) if n not in LOST]
        numbers = list(range(len(right)))
        cells = [
            judge_damaged(right, read(corpus[name], numbers, times)) for read in readers.values()
        ]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return rows


def _times(path: Path) -> list[int]:
    return [at for at, _ in scan(path, short_side=16)]


def costs(readers: dict[str, Decord | Ours]) -> list[str]:
    """Rows of CPU seconds, medians by turns."""
    film, trailer = asset("bbb-film"), asset("bbb-trailer")
    cases = [
        ("3 frames within 20 s of a film of ten minutes", film, [1464, 1680, 1896]),
        ("3 frames within 10 s of a trailer of 55 s", trailer, [492, 600, 708]),
        ("64 frames over the trailer", trailer, [round(n * 1322 / 63) for n in range(64)]),
        ("240 frames in a row", trailer, list(range(400, 640))),
    ]
    rows = []
    for what, path, numbers in cases:
        times = _packet_times(path)
        taken: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(REPEATS):
            for name, reader in readers.items():
                taken[name].append(reader.cpu_s(path, numbers, times))
        medians = [statistics.median(seconds) for seconds in taken.values()]
        cells = [f"{m:.2f} ({1e3 * m / len(numbers):.1f} ms a frame)" for m in medians]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return rows


def _packet_times(path: Path) -> list[int]:
    """Times of all frames of an MP4, without decoding."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        ticks = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        base = Fraction(stream.time_base or 0)
        return [round((t - ticks[0]) * base * 1_000_000) for t in ticks]


def main() -> None:
    """Print both tables; with ``--write`` put them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = peer("decord2")
        second = Decord(other.python, other.environment(), Path(folder))
        readers: dict[str, Decord | Ours] = {
            "decord 0.6.0": Decord(sys.executable, None, Path(folder)),
            f"decord2 {other.versions()['decord2']}": second,
            f"PyAV {av.__version__}, guarded": Ours(),
        }
        head = " | ".join(readers)
        line = "|---" * (len(readers) + 1) + "|"
        corpus = Corpus(Path(folder))
        text = "\n".join([f"| film | {head} |", line, *agreement(dict(readers), corpus)])
        text += f"\n\n| CPU-s | {head} |\n{line}\n" + "\n".join(costs(readers))
    text += f"\n\n{machine()}, one decoding thread, medians of {REPEATS} by turns."
    if options.write:
        replace_generated(PAGE, "readers", text)
    print(text)


if __name__ == "__main__":
    main()
