"""Reading as a test wants it, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from s2v.model.data.buckets import Bucket
from s2v.model.data.fetch import LeftOut
from s2v.model.data.plan import Draw
from s2v.model.errors import ModelError


@dataclass
class Drawn:
    """Reads a sample as a tensor that says which it is; misbehaves where it is told to."""

    bad: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    dies: str = ""
    hangs: str = ""
    fails: str = ""
    slow_s: float = 0.0
    starts_s: float = 0.0  # that a worker needs before its first sample
    numbers: int = 1
    log: Path | None = None
    seen: list[str] = field(default_factory=list)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        time.sleep(self.starts_s)

    def __call__(self, draw: Draw, bucket: Bucket) -> dict[str, Any]:
        self.seen.append(draw.sample_id)
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{draw.sample_id}\n")
        if draw.sample_id == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if draw.sample_id == self.hangs:
            time.sleep(600)
        if draw.sample_id == self.fails:
            raise RuntimeError("a bug in the reader")
        if draw.sample_id in self.left_out:
            raise LeftOut("excluded by subject_id")
        if draw.sample_id in self.bad:
            raise ModelError(f"in-000000.tar: sample {draw.sample_id}, member mp4: cut short")
        time.sleep(self.slow_s * (draw.number % 3))
        value = torch.full((self.numbers,), float(draw.number), dtype=torch.bfloat16)
        return {"id": draw.sample_id, "frames": bucket.frames, "value": value}
