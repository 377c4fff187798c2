"""Reads frames of one film by number, in any environment that has a module ``decord``.

    python frame_reader.py FILE NUMBERS.json OUT.npz [--cpu]

Run by ``bench_readers.py`` in decord's and in decord2's environment: only numpy and decord are
imported. Every frame is asked for by itself, so that an error costs only those it has to.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import decord
import numpy as np

ERRORS = (decord.DECORDError, RuntimeError, IndexError)  # of the stream, on opening, by number


def read(path: str, numbers: list[int]) -> dict[str, np.ndarray]:
    """Frames ``f<number>`` uint8 ``[h, w, 3]``; ``error`` is the first one's text, or empty."""
    found: dict[str, np.ndarray] = {}
    error = ""
    try:
        reader = decord.VideoReader(path, num_threads=1)
    except ERRORS as problem:
        return {"length": np.asarray(-1), "error": np.asarray(_line(problem))}
    for number in numbers:
        try:
            found[f"f{number}"] = reader[number].asnumpy()
        except ERRORS as problem:
            error = error or _line(problem)
    return {**found, "length": np.asarray(len(reader)), "error": np.asarray(error)}


def cpu_s(path: str, numbers: list[int]) -> float:
    """CPU seconds, of all threads, to open a film and read a batch."""
    start = time.process_time()
    decord.VideoReader(path, num_threads=1).get_batch(numbers).asnumpy()
    return time.process_time() - start


def _line(problem: Exception) -> str:
    """What an error says, without the clock and the place in its source."""
    lines = [line for line in str(problem).splitlines() if line.strip()] or [""]
    last = re.split(r"(?:Error|Check failed): ", lines[0])[-1].split(" Thread worker")[0]
    return last.strip()[:100] or type(problem).__name__


def main() -> None:
    """Write what was read, or with ``--cpu`` what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film")
    parser.add_argument("numbers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    numbers = json.loads(options.numbers.read_text())
    if options.cpu:
        np.savez(options.out, cpu=cpu_s(options.film, numbers))
    else:
        np.savez(options.out, **read(options.film, numbers))


if __name__ == "__main__":
    main()
