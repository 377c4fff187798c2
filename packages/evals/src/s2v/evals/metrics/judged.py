"""Scores that a vision-language model gives, 1 to 5, each asked three times.

What cannot be computed (does anatomy break, does it look real) is asked. A judge is no
measurement: the model's name is part of the protocol id, an answer that is not one clear number is
an abstention and never guessed at, and nothing is asked unless a user names an endpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from s2v.evals.encoders.judge import VisionJudge
from s2v.evals.metrics.base import Case, Measurement, MetricSpec, Peer, failed, scored

FRAMES: Final = 16
RUNS: Final = 3
_NUMBER: Final = re.compile(r"(?:score\s*[:=]?\s*)?\**([1-5])(?:\.0)?\**(?:\s*/\s*5)?\s*\.?", re.I)

STRUCTURE: Final = (
    "These are frames of one video, in order. Judge only the structure of what is shown: are "
    "bodies, faces, hands, animals and objects whole and of the right shape, do they keep their "
    "parts from frame to frame, does nothing melt, merge or fall apart? 5: nothing breaks in any "
    "frame. 4: a small slip that one has to look for. 3: something is plainly wrong for a moment. "
    "2: something is plainly wrong most of the time. 1: the subject cannot be made out as what it "
    "is. Answer with one digit from 1 to 5 and nothing else."
)
NATURAL: Final = (
    "These are frames of one video, in order. Does it look like a film of the real world? Look at "
    "light and shadow, at how things move and touch, at textures, at faces and hands, and at what "
    "changes between frames without a cause. 5: surely filmed. 4: probably filmed. 3: cannot be "
    "told. 2: probably generated. 1: surely generated. Answer with one digit from 1 to 5 and "
    "nothing else."
)


def parse_score(text: str) -> int | None:
    """The one number of an answer such as ``4``, `` 4.``, ``Score: 3`` or ``5/5``.

    Returns:
        1 to 5, or None for anything else: two numbers, a fraction, words, an error.
    """
    found = _NUMBER.fullmatch(text.strip())
    return int(found[1]) if found else None


def head_stride(n: int, k: int = FRAMES) -> list[int]:
    """``i * max(1, n // k)``: OpenS2V's NaturalScore, which never sees a tail shorter than k."""
    return [i for i in (j * max(1, n // k) for j in range(k)) if i < n]


class Judged:
    """Mean of three answers on sixteen frames.

    Args:
        spec: of the protocol.
        judge: makes the judge at first use.
        question: what is asked.
    """

    def __init__(self, spec: MetricSpec, judge: Callable[[], VisionJudge], question: str) -> None:
        self.spec = spec
        self._judge = judge
        self._question = question

    def plan(self, times_us: Sequence[int]) -> list[int]:
        """Sixteen frames."""
        return head_stride(len(times_us))

    def measure(self, case: Case) -> Measurement:
        """Score one video; failed with ``judge_abstained`` when no answer is a number."""
        judge = self._judge()
        frames = [case.frames[i] for i in self.plan(case.times_us)]
        answers = [judge.ask(frames, self._question, run) for run in range(RUNS)]
        found = [v for v in (parse_score(a.text) for a in answers) if v is not None]
        if not found:
            return failed("judge_abstained")
        return scored(
            float(np.mean(found)),
            {
                "abstained": float(RUNS - len(found)),
                "spread": float(max(found) - min(found)),
                "tokens_in": float(sum(a.tokens_in for a in answers)),
                "tokens_out": float(sum(a.tokens_out for a in answers)),
            },
        )

    def baselines(self, peers: Sequence[Peer]) -> list[float | None]:
        """None: the real clips are what to hold it against."""
        return [None] * len(peers)
