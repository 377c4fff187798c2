"""The error a user can act on; the command line prints its message as one line."""

from __future__ import annotations


class ModelError(ValueError):
    """Wrong input or missing precondition: names the file, the value and the way out."""


class RankError(ModelError):
    """Wrong input that one process of several met first; the message names it."""


class Interrupted(RuntimeError):  # noqa: N818 - not a fault: training was asked to stop
    """Training was stopped by a signal after saving a checkpoint.

    Attributes:
        step: number of finished steps; the same command goes on from there.
        signal: number of the signal.
    """

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped by signal {signal} after step {step}; a checkpoint is saved")
        self.step = step
        self.signal = signal
